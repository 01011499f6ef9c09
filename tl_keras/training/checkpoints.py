"""The states of a run on disk, so that the same command continues it where it was.

    checkpoints/0000000120.npz    every variable, and the arrays the loop asked for
    checkpoints/0000000120.json   the manifest: the sha256 of the former, and the loop's record

A manifest is written last and carries a sha256 of itself, so that a state is there whole or not at
all. What is damaged is named and set aside, and the state before it is taken.
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

# Saving by the clock waits longer where it would cost more than this part of the time.
MAX_TIME_SHARE = 0.02


class Clock:
    """When the next state is to be saved."""

    def __init__(self, pace: Pace):
        """Keep to the `pace` of --checkpoint_every."""
        self._pace = pace
        self._wait = pace.seconds
        self.saved_step = 0
        self._saved_at = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether the state after `step` steps is to be saved."""
        by_steps = bool(self._pace.steps) and step % self._pace.steps == 0
        waited = time.monotonic() - self._saved_at
        return by_steps or (bool(self._pace.seconds) and waited >= self._wait)

    def limit_steps(self, step: int, steps: int) -> int:
        """Return how many of `steps` steps may be done at once, so that no state is passed over."""
        every = self._pace.steps
        return min(steps, every - step % every) if every else steps

    def mark_saved(self, step: int, seconds: float) -> None:
        """Take in that the state after `step` steps is on the disk, and what that took."""
        self.saved_step, self._saved_at = step, time.monotonic()
        self._wait = max(self._pace.seconds, seconds / MAX_TIME_SHARE)


class Restored(NamedTuple):
    """What was saved beside the variables."""

    record: dict[str, Any]
    arrays: dict[str, np.ndarray]


class Checkpoints:
    """The last states of one run."""

    def __init__(self, folder: Path, variables: Iterable[keras.Variable]):
        """Keep `variables`, in this order, in `folder`."""
        self._folder = folder
        self._variables = list(variables)

    def save(self, step: int, record: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write all variables, `record` (ready for JSON) and `arrays` as the state at `step`.

        Raises:
            WriteError: it cannot be written; the states before it are as they were.
            DivergedError: a variable is not finite; no state is made of that.
        """
        values = [variable.numpy() for variable in self._variables]
        for variable, value in zip(self._variables, values, strict=True):
            if np.issubdtype(value.dtype, np.floating) and not np.isfinite(value).all():
                raise DivergedError(f"'{variable.path}' is not finite any more after step {step}")
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
        """Set all variables to the newest state that is whole, and return what else it holds.

        Returns:
            None where no state was ever finished.

        Raises:
            DataError: there are states, and none is whole, or it is of another model.
        """
        for manifest in reversed(self._manifests()):
            try:
                content, record = self._read(manifest)
            except DataError as error:
                LOG.warning("%s: set aside, and the checkpoint before it is looked for", error)
                files.set_aside(manifest)
                files.set_aside(manifest.with_suffix(".npz"))
            else:
                arrays = self._assign(content, manifest)
                # Of a process that was killed before it did: there may be no saving any more.
                self._prune()
                return Restored(record, arrays)
        unnamed = list(self._folder.glob("[0-9]*.npz"))
        # One that is killed leaves a state without a manifest, and the next call takes its place.
        if len(unnamed) > 1 or any(self._folder.glob("*.json.damaged")):
            raise DataError(
                f"{self._folder} has no checkpoint that is whole; remove the folder"
                f" {self._folder.parent} to train this run anew"
            )
        for path in unnamed:
            LOG.warning("%s was not finished; training begins at step 0", path)
        # The next state may be of another step, and two without a manifest would be refused.
        self._prune()
        return None

    def _manifests(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*.json"))

    def _read(self, manifest: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        kept = files.read_state(manifest)
        path = manifest.with_suffix(".npz")
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if hashlib.sha256(data).hexdigest() != kept["npz_sha256"]:
            raise DataError(f"{path} is damaged: its sha256 is not the one in its manifest")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays), kept["record"]

    def _assign(self, content: dict[str, np.ndarray], manifest: Path) -> dict[str, np.ndarray]:
        """Set the variables, and return the other arrays."""
        values = [
            content.pop(f"{VARIABLE}{number}", None) for number in range(len(self._variables))
        ]
        shapes = [None if value is None else value.shape for value in values]
        wanted = [tuple(variable.shape) for variable in self._variables]
        if shapes != wanted or any(name.startswith(VARIABLE) for name in content):
            raise DataError(
                f"{manifest} is the state of another model or another optimizer; give the flags it"
                f" was made with, or remove the folder {self._folder.parent} to train anew"
            )
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        return content

    def _prune(self) -> None:
        """Remove all but the newest states, and what was left of such as were never finished."""
        kept = {path.stem for path in self._manifests()[-KEPT:]}
        # A manifest first: it may not be there without its state.
        for path in sorted(self._folder.glob("[0-9]*")):
            left_over = path.suffix == ".unfinished"
            passed = path.suffix in (".json", ".npz") and path.stem not in kept
            if left_over or passed:
                with files.writing(path):
                    path.unlink(missing_ok=True)
                crash_points.maybe_crash("checkpoint pruned")


def to_json_figures(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return figures as JSON can hold them: it has no NaN and no infinity."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def from_json_figures(values: Mapping[str, float | None]) -> dict[str, float]:
    """Return figures as they were before `plain`."""
    return {name: math.nan if value is None else value for name, value in values.items()}
