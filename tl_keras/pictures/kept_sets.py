"""The folder of decoded pictures that all commands of a user share.

A set belongs to the paths, sizes and times of its files, and to every setting and library that
changes its pixels. Changed files make another set. The sets that were not used for longest are
removed when the folder has reached its limit. Another process waits while a set is written.
"""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import filelock
import numpy as np
import PIL

from tl_keras.config.pictures import PictureOptions
from tl_keras.errors import WriteError
from tl_keras.pictures.decoded_set import RECORD
from tl_keras.pictures.file_set import DONE, FileSet
from tl_keras.pictures.picture_format import PictureFormat
from tl_keras.runtime import interruption
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

# Increased when the same file gives other pixels.
VERSION = 1
_LOCK = ".lock"
_NAME = re.compile("[0-9a-f]{32}")
_SECONDS_PER_TRY = 1.0


def make_key(
    paths: Sequence[str],
    in_training: np.ndarray,
    form: PictureFormat,
    max_pixels: int,
    streams: bool,
    check_headers: bool,
) -> str:
    """Return the name of a set.

    Args:
        paths: of the files, which are not read.
        in_training: see `picture_set.read_pictures`; the rendering depends on it.
        form: the pictures that are wanted.
        max_pixels: limit of the pixels of a file.
        streams: whether the set has no rows.
        check_headers: whether pictures are not decoded.
    """
    settings = (VERSION, form, max_pixels, streams, check_headers, _list_decoders())
    total = hashlib.sha256(repr(settings).encode())
    total.update(np.packbits(in_training).tobytes())
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path costs more than the call
            # A file that is replaced, with the size and time of the other, has another time of
            # change.
            times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
            found = f"{status.st_size} {times} {status.st_mode}"
        except OSError as error:
            found = f"{error.errno}"
        absolute = path if path.startswith(os.sep) else os.path.abspath(path)  # noqa: PTH100
        total.update(os.fsencode(f"{absolute}\0{found}\0"))
    return total.hexdigest()[:32]


def _list_decoders() -> list[str]:
    """Return the versions of the libraries that decode and resize pictures."""
    found = [PIL.__version__, cv2.__version__]
    for name in ("simplejpeg", "pillow_heif"):
        try:
            found.append(importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            found.append("")
    return found


class KeptSets:
    """A folder of sets with a limit."""

    def __init__(self, folder: Path, max_bytes: float):
        """Use `folder`, which is created when it is needed."""
        self.folder = folder
        self._max_bytes = max_bytes

    @classmethod
    def from_options(cls, options: PictureOptions) -> "KeptSets":
        """Return the folder of --picture_cache, or of the user."""
        folder = options.picture_cache
        if not folder:
            home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
            folder = f"{home}/tl_keras/pictures"
        return cls(files.expand_user(folder), options.picture_cache_gb * 1e9)

    def has_room(self, needed: int) -> bool:
        """Return whether a set of that many bytes may be kept at all."""
        return needed <= self._max_bytes

    @contextlib.contextmanager
    def open(self, key: str, size: int, count: int) -> Iterator[FileSet]:
        """Yield a set, which no other process reads or writes meanwhile.

        Args:
            key: its name, see `make_key`.
            size: side of its pictures; 0 if it has no rows.
            count: number of its files.

        Raises:
            WriteError: the folder cannot be written. Nothing of the set is kept then.
            StoppedError: a stop signal arrived while another process had the set.
        """
        with files.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock(key)
        try:
            # A complete set does not grow.
            if not (self.folder / key / DONE).is_file():
                self._remove_oldest(needed_bytes(size, count), key)
            try:
                kept = FileSet(self.folder / key, size, count)
                yield kept
            except WriteError:
                shutil.rmtree(self.folder / key, ignore_errors=True)
                raise
            with contextlib.suppress(OSError):
                # The time that the kernel sets by itself may be 4 ms old.
                os.utime(self.folder / key, ns=(time.time_ns(), time.time_ns()))
        finally:
            lock.release()

    def _lock(self, key: str) -> filelock.FileLock:
        lock = filelock.FileLock(self.folder / f"{key}{_LOCK}")
        waited = False
        while True:
            try:
                lock.acquire(timeout=_SECONDS_PER_TRY)
                return lock
            except NotImplementedError as error:  # a file system without locks
                raise OSError(str(error)) from error
            except filelock.Timeout:
                if not waited:
                    LOG.info("another process decodes the same pictures; waiting for it")
                waited = True
                if interruption.stop_requested():
                    raise interruption.stopped_error() from None

    def _remove_oldest(self, needed: int, key: str) -> None:
        """Remove sets that no process has locked until `needed` bytes fit beside the others."""
        sizes = {name: _size_of(self.folder / name) for name in self._list_sets() if name != key}
        for name in list(sizes):
            if sum(sizes.values()) + needed <= self._max_bytes:
                return
            lock = filelock.FileLock(self.folder / f"{name}{_LOCK}", blocking=False)
            with contextlib.suppress(filelock.Timeout, OSError), lock:
                # Its lock stays: another process may have opened it.
                shutil.rmtree(self.folder / name)
                del sizes[name]

    def _list_sets(self) -> list[str]:
        """Return the names of all sets, oldest use first. Other folders belong to the user."""
        used = {}
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                # Another process may remove it.
                with contextlib.suppress(OSError):
                    is_set = _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
                    if is_set and Path(f"{entry.path}{_LOCK}").exists():
                        used[entry.name] = entry.stat().st_mtime_ns
        return sorted(used, key=lambda name: used[name])


def needed_bytes(size: int, count: int) -> int:
    """Return the most bytes that a set of `count` files may need; `size` as in `KeptSets.open`."""
    return count * (RECORD.itemsize + 3 * size**2)


def _size_of(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0
