"""The command line program: flags in, report out."""

import sys
from collections.abc import Sequence

from tl_keras import checks, console, options
from tl_keras.config import Config


def main(argv: Sequence[str]) -> int:
    """Run the experiment that `argv` describes and return the exit code; see tl_keras.errors."""
    return console.answer(argv, options.parse, options.help_text, _run)


def _run(config: Config) -> str:
    sources = [config.source] if checks.reads_source(config) else []
    console.look_at_weights(config)
    console.find_datasets([config.target, *sources], config)
    # Only here: TensorFlow takes seconds to import, and a wrong flag should not wait for it.
    with console.quiet(config.debug):
        from tl_keras import experiment

        experiment.start_tensorflow(config.deterministic)

    return experiment.run(config).text


if __name__ == "__main__":
    sys.exit(main(sys.argv))
