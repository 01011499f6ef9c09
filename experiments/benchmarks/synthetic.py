"""The program on random pictures: `python -m experiments.benchmarks.synthetic COUNTxSIZE FLAGS`.

That is `python -m tl_keras.main FLAGS` where `--target=synthetic` is there: COUNT training images
of SIZE pixels in three channels, and 100 to test. They are made, not read, so that a run's growth
with their number is that of the program and not of a decoder's.
"""

import sys
from collections.abc import Callable, Sequence

import numpy as np

from experiments.benchmarks import pictures
from tl_keras import main as program
from tl_keras.data import catalog, embedded
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.pipeline import NO_AUGMENTATION

NAME = "synthetic"
TEST_IMAGES = 100
_AT_A_TIME = 4096


def main(argv: Sequence[str]) -> int:
    """Put the dataset among the others, and run the program; return its exit code."""
    count, size = (int(number) for number in argv[1].split("x"))
    register(count, size)
    return program.main([argv[0], *argv[2:]])


def register(count: int, size: int) -> None:
    """Make `synthetic` a dataset of the catalog, of `count` training images."""
    catalog.DATASETS[NAME] = catalog.Entry(
        "embedded", catalog.DIGITS, 3, size, augment=NO_AUGMENTATION
    )
    embedded.open_dataset = _opening(embedded.open_dataset, count, size)  # type: ignore[assignment]


def _opening(
    others: Callable[[str, str], Dataset], count: int, size: int
) -> Callable[[str, str], Dataset]:
    """Return what opens the dataset, and leaves those of other names to `others`."""

    def open_dataset(name: str, framing: str) -> Dataset:
        if name != NAME:
            return others(name, framing)
        return Dataset(NAME, catalog.DIGITS, 3, size, NO_AUGMENTATION, read)

    def read(split: str, image_size: int = 0) -> ImageSet:
        return made(count if split == "train" else TEST_IMAGES, size)

    return open_dataset


def made(count: int, size: int) -> ImageSet:
    """Return noise, where a reader of the program would have put it: in memory or in a file."""
    from tl_keras.storage.memory import allocate

    images = allocate((count, size, size, 3))
    for start in range(0, count, _AT_A_TIME):
        part = images[start : start + _AT_A_TIME]
        # Each part from a seed of its own: no two pictures are alike.
        generator = np.random.default_rng(start)
        part[:] = generator.integers(0, 256, part.shape, np.uint8)
    return ImageSet(images, pictures.labels(count))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
