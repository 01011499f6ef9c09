"""Find the saved model that a path means: a file, a run, or a workdir."""

import re
from pathlib import Path
from typing import Any

from tl_keras.errors import DataError
from tl_keras.storage import files, results

MODEL = "model.keras"
_RUN = re.compile(r"(transfer|scratch)-(\d+)")


def find_model(path: str) -> Path:
    """Return the path of a model.keras.

    Args:
        path: of the file, of a run's folder, or of a workdir. Of the runs in a workdir, it is the
            transfer with the best validation accuracy, or else the scratch run. Without validation
            images it is the one with the smallest seed. Test images never decide.

    Raises:
        DataError: there is no such file or folder, or no finished run in it.
    """
    found = files.expand_user(path)
    if found.is_file():
        return found
    if (found / MODEL).is_file():
        return found / MODEL
    if not found.is_dir():
        raise DataError(f"there is no model {path}: neither a file nor a folder")
    runs = sorted(
        (_rank(match, record), folder)
        for folder in found.iterdir()
        if (match := _RUN.fullmatch(folder.name)) and (folder / MODEL).is_file()
        if (record := results.read(folder, "not used")) is not None
    )
    if not runs:
        raise DataError(
            f"{path} has no finished run with a {MODEL}. Give the folder of a run, such as"
            f" {Path(path) / 'transfer-0'}, or a file that ends in .keras"
        )
    return runs[0][1] / MODEL


def _rank(run: re.Match[str], record: dict[str, Any]) -> tuple[bool, float, int]:
    """Return a key that sorts the best run first."""
    accuracy = (record.get("validation") or {}).get("accuracy", 0.0)
    return run[1] != "transfer", -accuracy, int(run[2])
