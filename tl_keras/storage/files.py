"""Atomic file writes, and JSON state files that carry their own sha256."""

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
    """Turn an OSError while writing `path` into a WriteError of one line.

    Raises:
        WriteError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise WriteError(f"{path} cannot be written: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file atomically, and create its folder. An existing file is replaced in one step.

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
            crash_points.maybe_crash("temporary written")
            unfinished.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        _sync_folder(path.parent)
    crash_points.maybe_crash("file renamed")
    return hashlib.sha256(data).hexdigest()


class AppendFile:
    """A file that is appended to in whole records.

    A record that does not fit on the disk is removed.

    Writes are unbuffered. Buffered data would fail again when the file is closed or the process
    ends, where the error could no longer be reported in one line.
    """

    def __init__(self, path: Path):
        """Open the file at `path` for appending, or create it.

        Raises:
            WriteError: it cannot be written.
        """
        self._path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`.

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
        """Cut the file to its first `size` bytes.

        Raises:
            WriteError: the file cannot be written.
        """
        with writing(self._path):
            self._file.truncate(size)

    def close(self) -> None:
        """Close the file.

        Raises:
            WriteError: a network disk reports only now that it did not store the data.
        """
        with writing(self._path):
            self._file.close()


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entry to disk. Some file systems do not support it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON.

    JSON has no NaN and no infinity: they raise a ValueError.

    Raises:
        WriteError: the file cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    # A byte of a path that is not UTF-8 is a lone surrogate, which JSON escapes as \\uDCXX.
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))


def write_state(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON that carries its own sha256, for `read_state`.

    The sha256 covers the file's name too: a file that was renamed is not accepted.

    Raises:
        WriteError: the file cannot be written.
    """
    write_json(path, {**values, SHA256: _digest(path, values)})


def read_state(path: Path) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises:
        DataError: the file is missing or damaged. The error says what to do.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("it is no JSON object")
        if values.pop(SHA256, None) != _digest(path, values):
            raise ValueError("its sha256 does not match its content")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}. Remove it, or its folder") from error
    return values


def _digest(path: Path, values: Mapping[str, Any]) -> str:
    text = json.dumps([path.name, values], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def expand_user(name: str) -> Path:
    """Return the path with ~ replaced by the home folder. The ~ of an unknown user stays."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def matches_sha256(path: Path, expected: str) -> bool:
    """Return whether the file exists and has this sha256."""
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
    """Rename a damaged file to NAME.damaged, so that it can be inspected and is not read again.

    Raises:
        WriteError: it cannot be renamed.
    """
    if path.exists():
        with writing(path):
            path.replace(path.with_name(f"{path.name}.damaged"))
