"""Writing files whole or not at all, and reading back only what was written."""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tl_keras.errors import DataError, WriteError
from tl_keras.storage import crash_points

LOG = logging.getLogger(__name__)

SHA256 = "sha256"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell what goes wrong with writing `path` in one line.

    Raises:
        WriteError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file, making its folder; one that was there before stays whole until the new one is.

    Returns:
        The sha256 of the data.

    Raises:
        WriteError: the folder or the file cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            crash_points.reached("temporary written")
            unfinished.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        _sync_folder(path.parent)
    crash_points.reached("file renamed")
    return hashlib.sha256(data).hexdigest()


class GrowingFile:
    """A file that grows by whole pieces: where the disk is full, half a piece is taken back.

    Each goes to the system at once. What a buffer kept would fail again where the file is closed,
    or where the process ends and nobody tells of it in one line.
    """

    def __init__(self, path: Path):
        """Open the file at `path`, or make it; what it holds stays.

        Raises:
            WriteError: it cannot be written.
        """
        self._path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Add a piece.

        Raises:
            WriteError: the disk is full or gone.
        """
        with writing(self._path):
            size = os.fstat(self._file.fileno()).st_size
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._file.truncate(size)
                raise

    def truncate(self, size: int) -> None:
        """Cut off what comes after the first `size` bytes.

        Raises:
            WriteError: it cannot be done.
        """
        with writing(self._path):
            self._file.truncate(size)

    def close(self) -> None:
        """Close the file.

        Raises:
            WriteError: a disk elsewhere says only now that it did not take what was written.
        """
        with writing(self._path):
            self._file.close()


def _sync_folder(folder: Path) -> None:
    """Have the new name on the disk too; there are file systems that have no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; a number that is not finite is a ValueError, as JSON has none.

    Raises:
        WriteError: the file cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    # A byte of a path that is not UTF-8 comes as half a character, which JSON escapes as \\uDCXX.
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))


def write_state(path: Path, values: Mapping[str, Any]) -> None:
    """Write what a later call reads back with `read_state`: JSON that carries its own sha256.

    That covers the file's name: one that was given another's name is not taken for it.

    Raises:
        WriteError: the file cannot be written.
    """
    write_json(path, {**values, SHA256: _digest(path, values)})


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises:
        DataError: it is missing or damaged; the error says what may be done.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it holds no values by name")
        if values.pop(SHA256, None) != _digest(path, values):
            raise ValueError("its sha256 is not that of what it holds")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}; remove it, or its folder") from error
    return values


def _digest(path: Path, values: Mapping[str, Any]) -> str:
    text = json.dumps([path.name, values], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def expanded(name: str) -> Path:
    """Return the path of that name, ~ being the home folder; nobody's ~ stays as it is."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_whole(path: Path, expected: str) -> bool:
    """Tell whether a file is there and holds what that sha256 was taken of."""
    try:
        return _sha256(path) == expected
    except OSError:
        return False


def sha256(path: Path) -> str:
    """Return the sha256 of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return _sha256(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path) -> None:
    """Give a damaged file another name, NAME.damaged, so that it can be looked at and is not read.

    Raises:
        WriteError: it cannot be renamed.
    """
    if path.exists():
        with writing(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
