"""Image arrays that read their images when they are indexed."""

import hashlib
from typing import Any, Self

import numpy as np


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


# The type of the images of a dataset.
Images = np.ndarray | ImageArray
