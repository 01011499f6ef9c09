"""Picture files that are to be predicted: found by paths, and decoded when they are needed."""

import os
import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures import decode, limits, picture_file
from tl_keras.pictures.arrays import ImageArray
from tl_keras.pictures.picture_format import PictureFormat


def list_files(paths: Iterable[str]) -> list[str]:
    """Return the files among `paths`, and those in the folders among them at any depth.

    Hidden files and folders inside of folders are left out. The files of a folder are in the order
    of their bytes.

    Raises:
        DataError: there is nothing at a path, or a folder cannot be read.
    """
    found: list[str] = []
    for path in paths:
        if Path(path).is_dir():
            found += _walk(path)
        elif Path(path).exists():
            found.append(path)
        else:
            raise DataError(f"there is no file or folder {path!r}")
    return found


def _walk(folder: str) -> list[str]:
    def fail(error: OSError) -> None:
        raise DataError(f"the folder {error.filename!r} cannot be read: {error.strerror}")

    found = []
    for place, folders, files in os.walk(folder, onerror=fail):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=os.fsencode)
        files = sorted((f for f in files if not f.startswith(".")), key=os.fsencode)
        found += [f"{place.rstrip('/')}/{file}" for file in files]
    return found


class PictureFiles(ImageArray):
    """The images of files. A file that cannot be decoded gives a black image, and is remembered.

    Attributes:
        problems: why a file has no image, by its index. Only files that were asked for are in it.
        no_pictures: the same of files that are no pictures at all.
    """

    def __init__(self, paths: Sequence[str], form: PictureFormat, channels: int):
        """Choose files.

        Args:
            paths: of the files.
            form: the pictures that are wanted.
            channels: 1 or 3; colours become luminance, and grey is repeated.
        """
        super().__init__((len(paths), form.size, form.size, channels), digest="")
        self.problems: dict[int, str] = {}
        self.no_pictures: dict[int, str] = {}
        self._paths = paths
        self._form = form
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Decode the images at `indices`, in parallel.

        Raises:
            DataError: there is not enough memory for one.
        """
        images = np.zeros((len(indices), *self.shape[1:]), np.uint8)
        for place, image in enumerate(self._pool.map(self._decode, indices.tolist())):
            if image is not None:
                images[place] = image
        return images

    def _decode(self, index: int) -> np.ndarray | None:
        path = self._paths[index]
        try:
            # A pipe would block until something is written.
            if not stat.S_ISREG(Path(path).stat().st_mode):
                raise limits.PictureError("it is no regular file")
            image = decode.decode(path, self._form).image
            return picture_file.with_channels(image, self.shape[-1])
        except limits.NotAPictureError as error:
            self.no_pictures[index] = str(error)
        except limits.PictureError as error:
            self.problems[index] = str(error)
        except OSError as error:
            self.problems[index] = error.strerror or type(error).__name__
        except MemoryError as error:
            raise DataError(f"there is not enough memory to decode {path!r}") from error
        return None
