"""Images that stand where an array does, and are read when they are indexed."""

import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures import decode, limits
from tl_keras.pictures.decode import PictureFormat
from tl_keras.pictures.decoded_set import to_channels


class ImageArray:
    """The part of an array's interface that a stream of batches needs.

    Attributes:
        shape: (images, height, width, channels).
        dtype: uint8.
        digest: sha256 of what determines the images.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, ...], digest: str):
        """State the shape and the digest."""
        self.shape = shape
        self.digest = digest

    @property
    def nbytes(self) -> int:
        """Size of all images in bytes."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        """Return the number of images."""
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """Return (n, height, width, channels) uint8, or one image for an integer.

        Args:
            key: an index, a slice, (n,) integers or (images,) bool; or a tuple of such a key and of
                integers or slices for the pixels.

        Raises:
            IndexError: there is no such image, or the key is of another kind.
        """
        first, *others = key if isinstance(key, tuple) else (key,)
        # NumPy would pair lists, and `...` would stand for several axes.
        if not all(isinstance(one, int | slice) for one in others):
            raise IndexError(f"keys of pixels are integers or slices, not {others!r}")
        chosen = np.arange(len(self))[first]
        if first is Ellipsis or chosen.ndim > 1:
            raise IndexError(f"images are chosen by one axis, not {first!r}")
        images = self.take(np.atleast_1d(chosen))
        return images[(slice(None) if chosen.ndim else 0, *others)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return all images in memory."""
        del copy  # it always is one
        images = self.take(np.arange(len(self)))
        return images if dtype is None else images.astype(dtype)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at (n,) int64 indices, (n, height, width, channels) uint8."""
        raise NotImplementedError

    def select(self, indices: np.ndarray) -> Self:
        """Return the images at (n,) int64 indices, without reading them."""
        raise NotImplementedError

    def _digest_of(self, indices: np.ndarray) -> str:
        chosen = hashlib.sha256(np.asarray(indices, "<i8").tobytes()).hexdigest()
        return f"{self.digest} {chosen}"


class StoredImages(ImageArray):
    """Some rows of a table in memory or on disk."""

    def __init__(self, table: np.ndarray, rows: np.ndarray, digest: str):
        """Choose rows.

        Args:
            table: (rows, height, width, channels) uint8.
            rows: (images,) int64.
            digest: see `ImageArray`.
        """
        super().__init__((len(rows), *table.shape[1:]), digest)
        self._table = table
        self._rows = rows

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices`."""
        return self._table[self._rows[indices]]

    def select(self, indices: np.ndarray) -> Self:
        """Return some of the images."""
        return type(self)(self._table, self._rows[indices], self._digest_of(indices))


# What stands for the images of a dataset.
Images = np.ndarray | ImageArray


@functools.cache
def _pool() -> ThreadPoolExecutor:
    """Return the threads that decode streamed images, in this process.

    Pillow's warnings of odd metadata are ignored from then on, as in `picture_set`.
    """
    warnings.filterwarnings("ignore", module="PIL")
    return ThreadPoolExecutor(os.cpu_count() or 1)


class StreamedImages(ImageArray):
    """Image files that are decoded whenever they are asked for."""

    def __init__(
        self,
        paths: Sequence[str],
        form: PictureFormat,
        channels: int,
        digest: str,
        max_pixels: int = limits.MAX_PIXELS,
    ):
        """Choose files.

        Args:
            paths: of the files.
            form: the pictures that are wanted.
            channels: 1 or 3.
            digest: see `ImageArray`.
            max_pixels: see `decode.decode`.
        """
        super().__init__((len(paths), form.size, form.size, channels), digest)
        self._paths = paths
        self._form = form
        self._max_pixels = max_pixels

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Decode the images at `indices`, in parallel.

        Raises:
            DataError: a file cannot be decoded, by its name.
        """
        images = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for place, image in enumerate(_pool().map(self._decode, indices.tolist())):
            images[place] = image
        return images

    def select(self, indices: np.ndarray) -> Self:
        """Return some of the images."""
        paths = [self._paths[index] for index in indices.tolist()]
        return type(self)(
            paths, self._form, self.shape[-1], self._digest_of(indices), self._max_pixels
        )

    def _decode(self, index: int) -> np.ndarray:
        path = self._paths[index]
        try:
            decoded = decode.decode(path, self._form, self._max_pixels)
        except (limits.PictureError, OSError) as error:
            raise DataError(
                f"{path!r} cannot be decoded: {error}. Repair or remove it, or find all such files"
                " with --check_pictures=all before training"
            ) from error
        except MemoryError as error:  # the image is good: another run could decode it
            raise DataError(f"there is not enough memory to decode {path!r}") from error
        if self.shape[-1] == 1 and not decoded.is_grey:
            raise DataError(
                f"{path!r} is in colour, and the pictures that were checked are grey. Use"
                " --check_pictures=all"
            )
        return to_channels(decoded.image, self.shape[-1])
