"""Picture files that are to be predicted: found by paths, and decoded when they are needed."""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures import decode, limits, picture_file
from tl_keras.pictures.picture_format import PictureFormat
from tl_keras.pictures.streamed import StreamedImages


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


class PictureFiles(StreamedImages):
    """Streamed images of which a file that cannot be decoded is black, and is remembered.

    Attributes:
        problems: why a file has no image, by its index. Only files that were asked for are in it.
        no_pictures: the same of files that are no pictures at all.
    """

    def __init__(
        self,
        paths: Sequence[str],
        form: PictureFormat,
        channels: int,
        digest: str = "",
        max_pixels: int = limits.MAX_PIXELS,
    ):
        """Choose files; the arguments are those of `StreamedImages`.

        Colours become luminance where `channels` is 1, and grey is repeated where it is 3.
        """
        super().__init__(paths, form, channels, digest, max_pixels)
        self.problems: dict[int, str] = {}
        self.no_pictures: dict[int, str] = {}

    def _decode(self, index: int) -> np.ndarray:
        path = self._paths[index]
        try:
            # A pipe would block until something is written.
            if not stat.S_ISREG(Path(path).stat().st_mode):
                raise limits.PictureError("it is no regular file")
            image = decode.decode(path, self._form, self._max_pixels).image
            return picture_file.with_channels(image, self.shape[-1])
        except limits.NotAPictureError as error:
            self.no_pictures[index] = str(error)
        except limits.PictureError as error:
            self.problems[index] = str(error)
        except OSError as error:
            self.problems[index] = error.strerror or type(error).__name__
        except MemoryError as error:
            raise DataError(f"there is not enough memory to decode {path!r}") from error
        return np.zeros(self.shape[1:], np.uint8)
