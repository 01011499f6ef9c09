"""Averages of the weights over training steps."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_keras.config import Training


class Average:
    """A moving or an equal average of variables. Without --ema and --swa it does nothing.

    `--ema`: a <- d a + (1 - d) w after each step, where d grows from 0 to --ema, so that the
    initial weights have no extra weight (Polyak and Juditsky, 1992). `--swa`: the mean of w
    over the last part of the run (Izmailov et al., "Averaging Weights Leads to Wider Optima and
    Better Generalization", UAI 2018). The moving statistics of BatchNormalization are averaged
    with the weights. By default `statistics` recomputes them at the end.
    """

    def __init__(self, training: Training, total_steps: int, variables: Sequence[keras.Variable]):
        """Average the floating-point variables. It must be called under the strategy."""
        is_used = training.ema or training.swa
        floats = [v for v in variables if keras.backend.is_float_dtype(v.dtype)]
        self._averaged = floats if is_used else []
        self._averages = [
            keras.Variable(v, trainable=False, dtype=v.dtype, name="average")
            for v in self._averaged
        ]
        self._decay = training.ema or 1.0
        self._first = total_steps - round(training.swa * total_steps) if training.swa else 0

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of a checkpoint."""
        return self._averages

    def update(self, step: tf.Tensor) -> None:
        """Add the weights after `step` steps, () int32. Call it outside of replicas."""
        if not self._averaged:
            return
        count = tf.cast(tf.maximum(step - self._first, 1), tf.float32)
        rate = tf.maximum(1.0 / count, 1.0 - self._decay)
        for average, variable in zip(self._averages, self._averaged, strict=True):
            change = tf.convert_to_tensor(variable.value) - tf.convert_to_tensor(average.value)
            average.value.assign_add(change * tf.cast(rate, change.dtype))

    @contextlib.contextmanager
    def use_averages(self) -> Iterator[None]:
        """Assign the averages to the variables inside the context, and restore them afterwards."""
        values = [np.asarray(variable) for variable in self._averaged]
        self.assign_averages()
        try:
            yield
        finally:
            for variable, value in zip(self._averaged, values, strict=True):
                variable.assign(value)

    def assign_averages(self) -> None:
        """Assign the averages to the variables."""
        for variable, average in zip(self._averaged, self._averages, strict=True):
            variable.assign(np.asarray(average))
