"""The command that runs one experiment and prints its report."""

import sys
from collections.abc import Sequence

from tl_keras.cli import console, flags
from tl_keras.config import Config


def main(argv: Sequence[str]) -> int:
    """Run the experiment that `argv` describes and return the exit code; see tl_keras.errors."""
    return console.run_command(argv, flags.parse, flags.help_text, _run)


def _run(config: Config) -> str:
    in_cluster = console.check_inputs(config)
    # Imported after the flag checks, because TensorFlow takes seconds to import.
    with console.suppress_output(config.debug, in_cluster=in_cluster):
        from tl_keras.experiment import experiment

        experiment.start_tensorflow(config)

    return experiment.run(config).text


if __name__ == "__main__":
    sys.exit(main(sys.argv))
