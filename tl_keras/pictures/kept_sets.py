"""The folder of decoded pictures that all commands of a user share.

A set belongs to the paths, sizes and modification times of its files, and to every setting that
changes its pixels. Changed files make another set. The sets that were not used for longest are
removed when the folder has reached its limit. Another process waits while a set is written.
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
import numpy as np

from tl_keras.config.pictures import PictureOptions
from tl_keras.pictures.decode import PictureFormat
from tl_keras.pictures.decoded_set import FileSet
from tl_keras.runtime import interruption
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

# Increased when the same file gives other pixels.
VERSION = 1
_LOCK = ".lock"
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
    reads_heic = importlib.util.find_spec("pillow_heif") is not None
    settings = (VERSION, form, max_pixels, streams, check_headers, reads_heic)
    total = hashlib.sha256(repr(settings).encode())
    total.update(np.packbits(in_training).tobytes())
    here = os.getcwd()  # noqa: PTH109
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - a Path costs more than the call
            found = f"{status.st_size} {status.st_mtime_ns} {status.st_mode}"
        except OSError as error:
            found = f"{error.errno}"
        total.update(os.fsencode(f"{here}\0{path}\0{found}\0"))
    return total.hexdigest()[:32]


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
    def open(self, key: str, size: int, needed: int) -> Iterator[FileSet]:
        """Yield a set, which no other process reads or writes meanwhile.

        Args:
            key: its name, see `make_key`.
            size: side of its pictures; 0 if it has no rows.
            needed: the bytes that it may come to need.

        Raises:
            WriteError: the folder cannot be written.
            StoppedError: a stop signal arrived while another process had the set.
        """
        with files.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock(key)
        try:
            self._remove_oldest(needed, key)
            with files.writing(self.folder):
                kept = FileSet(self.folder / key, size)
            yield kept
            with contextlib.suppress(OSError):
                os.utime(self.folder / key)
        finally:
            lock.release()

    def _lock(self, key: str) -> filelock.FileLock:
        lock = filelock.FileLock(self.folder / f"{key}{_LOCK}")
        waited = False
        while True:
            try:
                lock.acquire(timeout=_SECONDS_PER_TRY)
                return lock
            except filelock.Timeout:
                if not waited:
                    LOG.info("another process decodes the same pictures; waiting for it")
                waited = True
                if interruption.stop_requested():
                    raise interruption.stopped_error() from None

    def _remove_oldest(self, needed: int, key: str) -> None:
        """Remove sets that no process uses until `needed` bytes fit beside the others."""
        sets = sorted(
            (path for path in self.folder.iterdir() if path.is_dir() and path.name != key),
            key=lambda path: path.stat().st_mtime,
        )
        sizes = {path: _size_of(path) for path in sets}
        while sets and sum(sizes.values()) + needed > self._max_bytes:
            oldest = sets.pop(0)
            lock = filelock.FileLock(f"{oldest}{_LOCK}", blocking=False)
            with contextlib.suppress(filelock.Timeout, OSError), lock:
                # Its lock stays: another process may have opened it.
                shutil.rmtree(oldest)
                del sizes[oldest]


def _size_of(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0
