"""The interface of a dataset: names, shapes, and two splits that are read once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from tl_keras.config.augmentation import Augmentation
from tl_keras.pictures.arrays import ImageArray, Images
from tl_keras.pictures.picture_format import Rendering

if TYPE_CHECKING:
    from tl_keras.pictures.data_report import DataReport


class ImageSet(NamedTuple):
    """The decoded images of one split.

    Attributes:
        images: (examples, height, width, channels) uint8, in memory, mapped from disk, or an
            ImageArray that reads them when it is indexed.
        labels: (examples,) int64, indices into the dataset's class names.
        groups: (examples,) int64, equal for examples that never stand on both sides of a split,
            such as copies of one image; None if each is alone.
        is_validation: (examples,) bool, the examples that validate; None if that is to be chosen.
    """

    images: Images
    labels: np.ndarray
    groups: np.ndarray | None = None
    is_validation: np.ndarray | None = None

    def take(self, indices: np.ndarray) -> "ImageSet":
        """Return the images and labels at `indices`, in that order."""
        images = self.images
        chosen = images.select(indices) if isinstance(images, ImageArray) else images[indices]
        return ImageSet(chosen, self.labels[indices])


class DatasetFiles(Protocol):
    """The files of a dataset.

    Attributes:
        report: what was found by looking at all of them; None if they were not decoded.
    """

    report: "DataReport | None"

    def list_files(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name, the class and the split of each picture, in the order of the files."""


@dataclass(frozen=True)
class Dataset:
    """An opened dataset, whose images are not decoded yet.

    Attributes:
        name: as given by the flag.
        class_names: in the order of the labels.
        channels: 1 (grey) or 3 (red, green, blue); 0 for files that are not decoded yet.
        size: side of the stored images in pixels; 0 if they differ.
        augment: the value of `--augment=auto`.
        read: `read(split, image_size)` with split "train" or "test" decodes that split. Stored
            images of different sizes are resized to `image_size` pixels.
        is_framed: whether the images are framed as in MNIST, by us or by who published them.
        rendering: how files of more than 8 bits, and transparent ones, became 8 bits.
        decode: `decode(image_size)` checks and decodes all files, and returns the dataset with its
            channels; None if there is nothing to do.
        files: the files of a decoded dataset that consists of such, for reports; else None.
        check_test: checks the labels of the test split without decoding images. It raises DataError
            if they are missing or no class. `read` does so too, but the test split is read after
            training. It does nothing if opening the dataset has checked them.
    """

    name: str
    class_names: tuple[str, ...]
    channels: int
    size: int
    augment: Augmentation
    read: Callable[..., ImageSet]
    check_test: Callable[[], None] = lambda: None
    is_framed: bool = False
    rendering: Rendering = Rendering()
    decode: "Callable[[int], Dataset] | None" = None
    files: "DatasetFiles | None" = None
