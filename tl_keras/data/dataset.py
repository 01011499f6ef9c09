"""What a dataset is to the rest of the house: names, shapes, and two splits that are read once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tl_keras.config.augmentation import Augmentation


class ImageSet(NamedTuple):
    """The pictures of one split, decoded.

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
    """A dataset that is known to be there, with nothing decoded yet.

    Attributes:
        name: as the flag has it.
        class_names: in the order of the labels.
        channels: 1 (grey) or 3 (red, green, blue).
        size: side of the images in pixels as they are stored; 0 where they differ.
        augment: what `--augment=auto` stands for.
        read: `read(split, image_size)` with split "train" or "test" decodes that split.
            `image_size` (pixels) is used only where the stored images differ in size: they come
            resized to it.
        check_test: looks at the labels of the test split, and at no picture. It raises DataError
            where they are missing or outside of the classes. `read` does so too, but the test split
            is read after training. It does nothing where opening the dataset has told.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    size: int
    augment: Augmentation
    read: Callable[[str, int], ImageSet]
    check_test: Callable[[], None] = lambda: None
