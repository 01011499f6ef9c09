"""JPEG files of photographs: cuts of the two that scikit-learn carries, always the same.

Each of the eight classes is a quarter of a photograph. A picture is a cut whose centre lies in that
quarter, enlarged and with a little noise, so that it compresses as a camera's picture does. Cuts of
different classes overlap.

`python -m experiments.benchmarks.photographs FOLDER FILES` writes them, with `Files` as JSON.
"""

import functools
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from sklearn.datasets import load_sample_image

from experiments.benchmarks.picture_files import Files

PHOTOGRAPHS = ("china", "flower")
QUARTERS = 4
CLASSES = len(PHOTOGRAPHS) * QUARTERS
QUALITY = 90
# Of 8 bits, and the height of a cut in parts of that of its photograph.
NOISE = 8
SMALLEST, LARGEST = 0.35, 0.6
# One of so many pictures of a class is a test picture.
TEST_EVERY = 5
_SEED = 31


def write(folder: Path, wanted: Files) -> None:
    """Write the files: FOLDER/CLASS/*.jpg, or FOLDER/train/CLASS/*.jpg and FOLDER/test."""

    def write_one(number: int) -> None:
        path = folder / place(number, has_splits=wanted.has_splits)
        path.parent.mkdir(parents=True, exist_ok=True)
        image = make(number, wanted.width, wanted.height)
        path.write_bytes(
            simplejpeg.encode_jpeg(image, QUALITY, colorspace="RGB", colorsubsampling="420")
        )

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write_one, range(wanted.number)))


def place(number: int, *, has_splits: bool) -> Path:
    """Return where the picture of a number lies in its folder."""
    photograph, quarter = divmod(number % CLASSES, QUARTERS)
    path = Path(f"{PHOTOGRAPHS[photograph]}_{quarter}") / f"{number:06d}.jpg"
    if not has_splits:
        return path
    is_test = number // CLASSES % TEST_EVERY == TEST_EVERY - 1
    return Path("test" if is_test else "train") / path


def make(number: int, width: int, height: int) -> np.ndarray:
    """Return the picture of a number, (height, width, 3) uint8."""
    generator = np.random.default_rng((_SEED, number))
    label, quarter = divmod(number % CLASSES, QUARTERS)
    photograph = _photograph(PHOTOGRAPHS[label])
    rows, columns = photograph.shape[:2]
    cut_rows = round(generator.uniform(SMALLEST, LARGEST) * rows)
    cut_columns = min(round(cut_rows * width / height), columns)
    lower, right = divmod(quarter, 2)
    top = _start(generator, lower, cut_rows, rows)
    left = _start(generator, right, cut_columns, columns)
    cut = photograph[top : top + cut_rows, left : left + cut_columns]
    image = cv2.resize(cut, (width, height), interpolation=cv2.INTER_CUBIC)
    noise = generator.integers(-NOISE, NOISE + 1, image.shape, np.int8)
    return np.clip(image.astype(np.int16) + noise, 0, 255).astype(np.uint8)


def _start(generator: np.random.Generator, half: int, length: int, total: int) -> int:
    """Return where a cut begins whose centre lies in the first or the second half."""
    centre = (half + generator.uniform()) * total / 2
    return int(np.clip(round(centre - length / 2), 0, total - length))


@functools.cache
def _photograph(name: str) -> np.ndarray:
    """Return (427, 640, 3) uint8."""
    return load_sample_image(f"{name}.jpg")


def main(argv: Sequence[str]) -> int:
    """Write the files that `argv` asks for."""
    write(Path(argv[1]), Files(*json.loads(argv[2])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
