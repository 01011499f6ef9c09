"""Saving a run so that the same command continues it where it was."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf


class Checkpoints:
    """The last states of one run: all variables, and a small record of how far it is."""

    def __init__(self, folder: Path, variables: Iterable[keras.Variable]):
        """Keep `variables`, in this order, in `folder`."""
        self._record = tf.Variable("{}", dtype=tf.string, trainable=False)
        self._checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in variables], record=self._record
        )
        self._manager = tf.train.CheckpointManager(self._checkpoint, str(folder), max_to_keep=2)

    def save(self, step: int, record: dict[str, Any]) -> None:
        """Write all variables and `record` as the state at `step`."""
        self._record.assign(json.dumps(record))
        self._manager.save(checkpoint_number=step)

    def restore(self) -> dict[str, Any] | None:
        """Set all variables to the newest state and return its record; None where there is none."""
        if self._manager.latest_checkpoint is None:
            return None
        status = self._checkpoint.restore(self._manager.latest_checkpoint)
        status.assert_consumed()
        return json.loads(self._record.numpy().decode())
