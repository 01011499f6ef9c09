"""The command that compares methods: it writes one table and one plot."""

import sys
from collections.abc import Sequence

from tl_keras.cli import comparison_flags, console
from tl_keras.config.comparison import ComparisonConfig


def main(argv: Sequence[str]) -> int:
    """Run the comparison that `argv` describes and return the exit code; see tl_keras.errors."""
    return console.run_command(argv, comparison_flags.parse, comparison_flags.help_text, _run)


def _run(comparison_config: ComparisonConfig) -> str:
    common = comparison_config.common
    in_cluster = console.check_inputs(common)
    with console.suppress_output(common.debug, in_cluster=in_cluster):
        from tl_keras.experiment import comparison, experiment

        experiment.start_tensorflow(common)

    return comparison.run(comparison_config)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
