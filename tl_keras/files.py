"""Writing files whole or not at all."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tl_keras.errors import WriteError


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


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, making its folder; one that was there before stays whole until the new one is.

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
            unfinished.replace(path)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON; a number that is not finite is a ValueError, as JSON has none.

    Raises:
        WriteError: the file cannot be written.
    """
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    # A byte of a path that is not UTF-8 comes as half a character, which JSON escapes as \\uDCXX.
    write_bytes(path, f"{text}\n".encode(errors="backslashreplace"))
