"""The command line of `python -m tl_keras.predict`."""

from collections.abc import Sequence
from typing import NamedTuple

from tl_keras.cli import flags
from tl_keras.config.prediction import PredictionOptions
from tl_keras.errors import UsageError

USAGE = """\
Predict the classes of pictures with a model that tl_keras has trained.

  python -m tl_keras.predict --model=runs/pictures holiday.jpg scans/

Arguments are files and folders, which are searched at any depth; - stands for a list of paths on
the standard input, a line each. A picture is brought to what the model was trained on, as the
model's file says: size, fit, framing, colour. A line for each picture: its path, the class, its
probability, and the next classes. Files that are no pictures are left out, corrupt ones are named.
The exit code is 65 if no picture is left.
"""

SETTINGS: flags.Settings = (PredictionOptions(),)


class Prediction(NamedTuple):
    """The parsed command line.

    Attributes:
        options: the flags.
        pictures: paths of files and folders, or "-".
    """

    options: PredictionOptions
    pictures: tuple[str, ...]

    @property
    def debug(self) -> bool:
        """Whether errors print their traceback."""
        return self.options.debug


def parse(argv: Sequence[str]) -> Prediction | None:
    """Parse a command line; `--help` gives None.

    Raises:
        UsageError: a flag is unknown, out of range or missing, or there is no picture.
    """
    if flags.asks_for_help(argv):
        return None
    words = list(argv[1:])
    end = words.index("--") if "--" in words else len(words)
    given = [word for word in words[:end] if word.startswith("-") and word != "-"]
    pictures = [word for word in words[:end] if word not in given] + words[end + 1 :]
    options = PredictionOptions(**flags.read([argv[0], *given], SETTINGS))
    if not options.model:
        raise UsageError("--model is missing. Give a workdir, the folder of a run or a model.keras")
    if not pictures:
        raise UsageError("there is nothing to predict. Give files or folders after the flags")
    return Prediction(options, tuple(pictures))


def help_text(full: bool = False) -> str:
    """Return the text of `--help`, or of `--helpfull`."""
    return flags.help_text(full, USAGE, SETTINGS, trains=False)
