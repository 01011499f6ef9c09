"""The interface of a dataset: names, shapes, and two splits that are read once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tl_keras.config.augmentation import Augmentation


class ImageSet(NamedTuple):
    """The decoded images of one split.

    Attributes:
        images: (examples, height, width, channels) uint8, in memory or mapped from disk.
        labels: (examples,) int64, indices into the dataset's class names.
    """

    images: np.ndarray
    labels: np.ndarray

    def take(self, indices: np.ndarray) -> "ImageSet":
        """Return the examples at `indices`, in that order."""
        return ImageSet(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class Dataset:
    """An opened dataset, whose images are not decoded yet.

    Attributes:
        name: as given by the flag.
        class_names: in the order of the labels.
        channels: 1 (grey) or 3 (red, green, blue).
        size: side of the stored images in pixels; 0 if they differ.
        augment: the value of `--augment=auto`.
        read: `read(split, image_size)` with split "train" or "test" decodes that split. Stored
            images of different sizes are resized to `image_size` pixels.
        check_test: checks the labels of the test split without decoding images. It raises DataError
            if they are missing or no class. `read` does so too, but the test split is read after
            training. It does nothing if opening the dataset has checked them.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    size: int
    augment: Augmentation
    read: Callable[[str, int], ImageSet]
    check_test: Callable[[], None] = lambda: None
