"""The command that predicts the classes of pictures with a trained model."""

import sys
from collections.abc import Sequence

from tl_keras.cli import console, predict_flags
from tl_keras.cli.predict_flags import Prediction


def main(argv: Sequence[str]) -> int:
    """Predict what `argv` names and return the exit code; see tl_keras.errors."""
    return console.run_command(argv, predict_flags.parse, predict_flags.help_text, _run)


def _run(prediction: Prediction) -> str:
    with console.suppress_output(prediction.debug, in_cluster=False):
        from tl_keras.inference import predict_files

    return predict_files.run(prediction.options, prediction.pictures)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
