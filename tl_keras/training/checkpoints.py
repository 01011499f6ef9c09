"""The checkpoints of a run, from which the same command resumes it.

    checkpoints/0000000120.npz    all variables, and the arrays of the loop
    checkpoints/0000000120.json   the manifest: the sha256 of the .npz, and the loop's record

The manifest is written last and contains a sha256 of itself, so a checkpoint is complete or absent.
A damaged one is named in the log and set aside, and the one before it is used.
"""

import hashlib
import io
import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from tl_keras.config.pace import Pace
from tl_keras.errors import DataError, DivergedError
from tl_keras.storage import crash_points, files

LOG = logging.getLogger(__name__)

KEPT = 2
VARIABLE = "variable-"

# Saving at time intervals takes at most this fraction of the time.
MAX_TIME_SHARE = 0.02


class Clock:
    """Decides when the next checkpoint is saved."""

    def __init__(self, pace: Pace):
        """Use the interval `pace` of --checkpoint_every."""
        self._pace = pace
        self._wait = pace.seconds
        self.saved_step = 0
        self._saved_at = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether to save the state after `step` steps."""
        by_steps = bool(self._pace.steps) and step % self._pace.steps == 0
        waited = time.monotonic() - self._saved_at
        return by_steps or (bool(self._pace.seconds) and waited >= self._wait)

    def limit_steps(self, step: int, steps: int) -> int:
        """Return how many of `steps` steps can run in one call without missing a checkpoint."""
        every = self._pace.steps
        return min(steps, every - step % every) if every else steps

    def mark_saved(self, step: int, seconds: float) -> None:
        """Record that the state after `step` steps was saved in `seconds` seconds."""
        self.saved_step, self._saved_at = step, time.monotonic()
        self._wait = max(self._pace.seconds, seconds / MAX_TIME_SHARE)


class Restored(NamedTuple):
    """The content of a checkpoint besides the variables."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, variables: Iterable[keras.Variable]):
        """Save `variables`, in this order, in `folder`."""
        self._folder = folder
        self._variables = list(variables)

    def save(self, step: int, record: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write all variables, `record` (ready for JSON) and `arrays` as the state at `step`.

        Raises:
            WriteError: it cannot be written. Earlier checkpoints are intact.
            DivergedError: a variable is not finite. No checkpoint is written.
        """
        values = [variable.numpy() for variable in self._variables]
        for variable, value in zip(self._variables, values, strict=True):
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise DivergedError(f"'{variable.path}' is not finite after step {step}")
        content = io.BytesIO()
        named = {f"{VARIABLE}{number}": value for number, value in enumerate(values)}
        np.savez(content, allow_pickle=False, **named, **arrays)
        manifest = self._folder / f"{step:010d}.json"
        sha256 = files.write_bytes(manifest.with_suffix(".npz"), content.getvalue())
        crash_points.maybe_crash("checkpoint half written")
        files.write_state(manifest, {"step": step, "npz_sha256": sha256, "record": record})
        crash_points.maybe_crash("checkpoint written")
        self._prune()

    def restore(self) -> Restored | None:
        """Restore all variables from the newest intact checkpoint, and return its other content.

        Returns:
            None if no checkpoint was ever completed.

        Raises:
            DataError: all checkpoints are damaged, or the newest is of another model.
        """
        for manifest in reversed(self._manifests()):
            try:
                content, record = self._read(manifest)
            except DataError as error:
                LOG.warning("%s: set aside. The checkpoint before it is used", error)
                files.set_aside(manifest)
                files.set_aside(manifest.with_suffix(".npz"))
            else:
                arrays = self._assign(content, manifest)
                # A killed process may have left files, and this run may not save again.
                self._prune()
                return Restored(record, arrays)
        unnamed = list(self._folder.glob("[0-9]*.npz"))
        # A killed run leaves one .npz without a manifest. The next checkpoint replaces it.
        if len(unnamed) > 1 or any(self._folder.glob("*.json.damaged")):
            raise DataError(
                f"{self._folder} has no intact checkpoint. Remove the folder {self._folder.parent}"
                " to train this run again"
            )
        for path in unnamed:
            LOG.warning("%s was not finished. Training begins at step 0", path)
        # The next checkpoint may have another step, and two .npz without a manifest are refused.
        self._prune()
        return None

    def _manifests(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.json"))

    def _read(self, manifest: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = files.read_state(manifest)
        path = manifest.with_suffix(".npz")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != state["npz_sha256"]:
            raise DataError(f"{path} is damaged: its sha256 differs from its manifest")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays), state["record"]

    def _assign(self, content: dict[str, np.ndarray], manifest: Path) -> dict[str, np.ndarray]:
        """Set the variables, and return the other arrays."""
        values = [
            content.pop(f"{VARIABLE}{number}", None) for number in range(len(self._variables))
        ]
        shapes = [None if value is None else value.shape for value in values]
        expected = [tuple(variable.shape) for variable in self._variables]
        if shapes != expected or any(name.startswith(VARIABLE) for name in content):
            raise DataError(
                f"{manifest} is the state of another model or optimizer. Give the flags it was made"
                f" with, or remove the folder {self._folder.parent} to train again"
            )
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        return content

    def _prune(self) -> None:
        """Remove all but the newest checkpoints, and the files of incomplete ones."""
        newest = {path.stem for path in self._manifests()[-KEPT:]}
        # Remove the manifest first: a manifest without its .npz would be an error.
        for path in sorted(self._folder.glob("[0-9]*")):
            is_unfinished = path.suffix == ".unfinished"
            is_old = path.suffix in (".json", ".npz") and path.stem not in newest
            if is_unfinished or is_old:
                with files.writing(path):
                    path.unlink(missing_ok=True)
                crash_points.maybe_crash("checkpoint pruned")


def to_json_figures(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures for JSON, with None for NaN and infinity."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def from_json_figures(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return figures from JSON, with NaN for None."""
    return {name: math.nan if value is None else value for name, value in values.items()}
