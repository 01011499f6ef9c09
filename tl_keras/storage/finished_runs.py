"""The finished runs in a folder, from this call and earlier ones, with their predictions."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_keras.storage import predictions, results
from tl_keras.storage.predictions import PREDICTIONS, Predictions

LOG = logging.getLogger(__name__)

ARMS = ("transfer", "scratch")


class FinishedRuns(NamedTuple):
    """Runs, ordered by seed and then by arm.

    Attributes:
        records: the result.json of each run.
        predictions: arm -> seed -> the predictions for the test images.
    """

    records: list[dict[str, Any]]
    predictions: dict[str, dict[int, Predictions]]

    @property
    def correct(self) -> dict[str, dict[int, np.ndarray]]:
        """Arm -> seed -> (images,) bool, whether the run has each test image right."""
        return {
            arm: {seed: found.correct for seed, found in by_seed.items()}
            for arm, by_seed in self.predictions.items()
        }


def read(folder: Path) -> dict[str, Any] | None:
    """Return the record of a finished run, or None if the run or its last part has to be repeated.

    A run without predictions.npz, which older versions left, repeats its last part.

    Raises:
        WriteError: a damaged file cannot be set aside.
    """
    record = results.read(folder)
    if record is None or PREDICTIONS in record["files"]:
        return record
    LOG.warning("%s has no %s. It is made from the last checkpoint", folder, PREDICTIONS)
    return None


def collect(root: Path, records: Iterable[Mapping[str, Any]]) -> FinishedRuns:
    """Return the runs of this call, and the runs of other seeds from earlier calls.

    Damaged or unfinished runs of earlier calls are left out. The log names them.

    Args:
        root: the folder that contains the folders ARM-SEED.
        records: of the runs of this call.

    Raises:
        WriteError: a damaged file cannot be set aside.
        DataError: the predictions of this call cannot be read.
    """
    known = {(record["arm"], record["seed"]): dict(record) for record in records}
    for arm, seed, folder in _folders(root):
        if (arm, seed) in known:
            continue
        record = results.read(folder, "left out of the report")
        if record is not None and PREDICTIONS in record["files"]:
            known[arm, seed] = record
        else:
            LOG.warning(
                "%s, seed %d: %s of an earlier call is left out of the report, because it is"
                " unfinished, damaged or without %s; name the seed in --seeds to have it made",
                *(arm, seed, folder, PREDICTIONS),
            )
    order = sorted(known, key=lambda key: (key[1], ARMS.index(key[0])))
    found: dict[str, dict[int, Predictions]] = {}
    for arm, seed in order:
        found.setdefault(arm, {})[seed] = predictions.read(root / f"{arm}-{seed}")
    return FinishedRuns([known[key] for key in order], found)


def _folders(root: Path) -> list[tuple[str, int, Path]]:
    """Return (arm, seed, folder) of each run that was started in `root`."""
    names = [
        (re.fullmatch(r"(transfer|scratch)-(0|[1-9][0-9]*)", path.name), path)
        for path in sorted(root.glob("*-*"))
        if path.is_dir()
    ]
    return [(name[1], int(name[2]), path) for name, path in names if name]
