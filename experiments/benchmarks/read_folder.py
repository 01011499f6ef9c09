"""The contender of tl_keras that reads picture files, in the process or as a separate program.

`python -m experiments.benchmarks.read_folder FOLDER SIZE CACHE` reads a folder as a command of
tl_keras does before it trains. TensorFlow is not imported.
"""

import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.worker import Rounds, cpu_seconds
from tl_keras.config.pictures import PictureOptions
from tl_keras.data.reading import open_dataset


def read(folder: str, size: int, cache: Path) -> int:
    """List, check and decode all files, or find them in `cache`; return how many there are.

    Args:
        folder: of the classes.
        size: side of the decoded pictures in pixels.
        cache: folder of the decoded pictures, which need not exist.
    """
    options = PictureOptions(picture_cache=str(cache))
    opened = open_dataset(f"folder:{folder}", pictures=options)
    dataset = opened.decode(size) if opened.decode else opened
    return sum(len(dataset.read(split, size).labels) for split in ("train", "test"))


def first_reading(rounds: Rounds, folder: str, size: int) -> None:
    """Read a folder as for the first time in each round, which is measured in CPU time."""
    rounds.clock = cpu_seconds
    for _ in itertools.count():
        with tempfile.TemporaryDirectory() as place:
            rounds.begin()
            count = read(folder, size, Path(place) / "cache")
            rounds.end(count)


def main(argv: Sequence[str]) -> int:
    """Read the folder that `argv` names, and print how many pictures it has."""
    folder, size, cache = argv[1:]
    print(read(folder, int(size), Path(cache)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
