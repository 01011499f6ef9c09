"""What a finished run leaves: result.json, and beside it the files that it names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_keras.errors import DataError
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

RESULT = "result.json"


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Say that the run in `folder` is finished.

    Args:
        folder: of the run.
        record: what it found, ready for JSON; "files" has the sha256 of each file it leaves.

    Raises:
        WriteError: it cannot be written.
    """
    files.write_state(folder / RESULT, record)


def read(
    folder: Path, remedy: str = "made again from the last checkpoint"
) -> dict[str, Any] | None:
    """Return what a finished run found, or None where it is to be carried out, or its end again.

    What is damaged is named in the log and set aside.

    Args:
        folder: of the run.
        remedy: what becomes of a damaged file, for the log.

    Raises:
        WriteError: it cannot be set aside.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        record = files.read_state(path)
    except DataError as error:
        LOG.warning("%s. It is set aside, and %s", error, remedy)
        files.set_aside(path)
        return None
    damaged = [n for n, sha256 in record["files"].items() if not files.is_whole(folder / n, sha256)]
    if not damaged:
        return record
    for name in damaged:
        LOG.warning("%s is damaged or gone, and %s", folder / name, remedy)
        files.set_aside(folder / name)
    files.set_aside(path)
    return None
