"""Validation: the best loss so far, decay of the learning rate, and early stopping."""

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.special import log_softmax

from tl_keras.config import Training
from tl_keras.models import weights
from tl_keras.models.batch_statistics import Measurer
from tl_keras.models.colour import with_colour_input
from tl_keras.training import statistics
from tl_keras.training.averaging import Average
from tl_keras.training.optimizers import Schedule
from tl_keras.training.prediction import Predictor
from tl_keras.training.task import Task

BEST = "best/"


class Validator:
    """Evaluates a run on its validation images. A checkpoint holds `record()` and `arrays()`."""

    def __init__(
        self,
        task: Task,
        training: Training,
        strategy: tf.distribute.Strategy,
        average: Average,
        schedule: Schedule,
    ):
        """Validate `task`, with averaged weights if --ema or --swa is set."""
        self._model = task.model
        self._strategy = strategy
        self._training = training
        self._average = average
        self._schedule = schedule
        self._best_loss: float | None = None
        self._since_best = self._since_decay = 0
        self._best: dict[str, np.ndarray] = {}
        self.bind(task)

    def bind(self, task: Task) -> None:
        """Use the model and the validation images of another task.

        A stage may compute the same results with a part of the model on cached features.
        """
        self._task = task
        self._validation, self._image_size = task.validation, task.image_size
        self._predictor = Predictor(task.model, self._strategy)
        is_joint = len(task.normalised) > 1
        self._measurer = Measurer(with_colour_input(task.model) if is_joint else task.model)

    def evaluate(self) -> dict[str, float]:
        """Validate, update the best loss, and decay the learning rate of the plateau schedule.

        Returns:
            The figures by name; empty without validation images.
        """
        validation = self._validation
        if validation is None or len(validation.labels) == 0:
            return {}
        with self._average.use_averages(), self._statistics():
            logits = self._predictor.predict(validation.images, self._image_size)
            labels = validation.labels
            log_likelihoods = log_softmax(logits.astype(np.float64), axis=1)
            loss = -float(log_likelihoods[np.arange(len(labels)), labels].mean())
            self._record_loss(loss)
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        return {"validation/loss": loss, "validation/accuracy": accuracy}

    def _statistics(self) -> contextlib.AbstractContextManager[None]:
        """Use the BatchNormalization statistics of a run that ends here."""
        if self._training.batch_norm != "recomputed":
            return contextlib.nullcontext()
        return statistics.use_current_statistics(self._measurer, self._task)

    def _record_loss(self, loss: float) -> None:
        training = self._training
        self._since_best += 1
        self._since_decay += 1
        if self._best_loss is None or loss < self._best_loss:
            self._best_loss, self._since_best, self._since_decay = loss, 0, 0
            if training.early_stopping:
                self._best = weights.get_tensors(self._model)
        if training.schedule == "plateau" and self._since_decay >= training.plateau_patience:
            self._schedule.factor.assign(self._schedule.factor * training.decay_rate)
            self._since_decay = 0

    @property
    def should_stop(self) -> bool:
        """Whether early stopping ends the training."""
        patience = self._training.early_stopping
        return bool(patience) and self._since_best >= patience

    def reset_patience(self) -> None:
        """Reset the patience counter at the start of a stage."""
        self._since_best = self._since_decay = 0

    @property
    def has_best(self) -> bool:
        """Whether early stopping has kept weights, with the statistics of their validation."""
        return bool(self._best)

    def keep_best(self) -> None:
        """Assign the weights with the lowest validation loss if early stopping is on."""
        if self._best:
            weights.assign(self._model, self._best)

    def record(self) -> dict[str, Any]:
        """Return the figures for a checkpoint."""
        return {
            "best_loss": self._best_loss,
            "since_best": self._since_best,
            "since_decay": self._since_decay,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays for a checkpoint: the best weights."""
        return {f"{BEST}{name}": value for name, value in self._best.items()}

    def restore(self, record: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Restore figures and arrays from a checkpoint."""
        self._best_loss = record["best_loss"]
        self._since_best = record["since_best"]
        self._since_decay = record["since_decay"]
        self._best = {n.removeprefix(BEST): v for n, v in arrays.items() if n.startswith(BEST)}
