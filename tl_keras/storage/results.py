"""The result of a finished run: result.json, and the files that it names."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tl_keras.errors import DataError
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

RESULT = "result.json"


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Write result.json, which marks the run in `folder` as finished.

    Args:
        folder: of the run.
        record: the results, ready for JSON. "files" maps each file of the run to its sha256.

    Raises:
        WriteError: it cannot be written.
    """
    files.write_state(folder / RESULT, record)


def read(
    folder: Path, remedy: str = "made again from the last checkpoint"
) -> dict[str, Any] | None:
    """Return the record of a finished run, or None if the run or its last part has to be repeated.

    Damaged files are renamed to NAME.damaged. The log names them.

    Args:
        folder: of the run.
        remedy: what happens to a damaged file, for the log.

    Raises:
        WriteError: a damaged file cannot be renamed.
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
    damaged = [
        n for n, sha256 in record["files"].items() if not files.matches_sha256(folder / n, sha256)
    ]
    if not damaged:
        return record
    for name in damaged:
        LOG.warning("%s is damaged or gone, and %s", folder / name, remedy)
        files.set_aside(folder / name)
    files.set_aside(path)
    return None
