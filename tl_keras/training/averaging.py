"""Averages of the weights over the steps, which are often better than the last weights."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from tl_keras.config import Training


class Average:
    """A moving or an equal average of variables; where no flag asks for one, it does nothing.

    `--ema`: a <- d a + (1 - d) w after each step, where d grows from 0 to --ema, so that the
    start weighs no more than any other step (Polyak and Juditsky, 1992). `--swa`: the mean of w
    over the last part of the run (Izmailov et al., "Averaging Weights Leads to Wider Optima and
    Better Generalization", UAI 2018). The moving statistics of normalisation are averaged with
    the weights; by default `statistics` measures them anew at the end.
    """

    def __init__(self, training: Training, total_steps: int, variables: Sequence[keras.Variable]):
        """Average those of `variables` that are real numbers; call it under the strategy."""
        wanted = training.ema or training.swa
        floats = [v for v in variables if keras.backend.is_float_dtype(v.dtype)]
        self._averaged = floats if wanted else []
        self._averages = [
            keras.Variable(v, trainable=False, dtype=v.dtype, name="average")
            for v in self._averaged
        ]
        self._decay = training.ema or 1.0
        self._first = total_steps - round(training.swa * total_steps) if training.swa else 0

    @property
    def variables(self) -> list[keras.Variable]:
        """What a checkpoint holds of it."""
        return self._averages

    def update(self, step: tf.Tensor) -> None:
        """Take in the weights as they are after `step` steps, () int32; not in a replica."""
        if not self._averaged:
            return
        count = tf.cast(tf.maximum(step - self._first, 1), tf.float32)
        rate = tf.maximum(1.0 / count, 1.0 - self._decay)
        for average, variable in zip(self._averages, self._averaged, strict=True):
            change = tf.convert_to_tensor(variable.value) - tf.convert_to_tensor(average.value)
            average.value.assign_add(change * tf.cast(rate, change.dtype))

    @contextlib.contextmanager
    def use_averages(self) -> Iterator[None]:
        """Let the variables be their averages for a while."""
        kept = [np.asarray(variable) for variable in self._averaged]
        self.assign_averages()
        try:
            yield
        finally:
            for variable, value in zip(self._averaged, kept, strict=True):
                variable.assign(value)

    def assign_averages(self) -> None:
        """Let the variables be their averages from now on."""
        for variable, average in zip(self._averaged, self._averages, strict=True):
            variable.assign(np.asarray(average))
