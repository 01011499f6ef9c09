"""Folders of picture files for the rows that read them. A separate process writes the files.

This module is light to import, so that the measuring process stays small: the peak memory that
Linux reports for a child process can be that of its parent.
"""

import json
from pathlib import Path
from typing import NamedTuple

from experiments.benchmarks.processes import run

WRITER = "experiments.benchmarks.photographs"


class Files(NamedTuple):
    """A folder of JPEG files.

    Attributes:
        number: how many, of all classes and splits.
        width: of each, in pixels.
        height: of each, in pixels.
        has_splits: whether there are `train` and `test`; else the folder holds the classes.
    """

    number: int
    width: int
    height: int
    has_splits: bool = False

    def describe(self) -> str:
        """Return what files there are, in words."""
        return f"{self.number} JPEG files of {self.width}x{self.height}"


def write(folder: Path, files: Files) -> None:
    """Write files into `folder / "pictures"`; `photographs` says what they show.

    Raises:
        FailedError: they cannot be written.
    """
    run(["-m", WRITER, str(folder / "pictures"), json.dumps(files)], folder)
