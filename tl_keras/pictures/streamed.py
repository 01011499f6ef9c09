"""Image files that are decoded whenever they are asked for."""

import functools
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures import decode, limits
from tl_keras.pictures.arrays import ImageArray
from tl_keras.pictures.decoded_set import to_channels
from tl_keras.pictures.picture_format import PictureFormat


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
