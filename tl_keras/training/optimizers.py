"""Optimizers and learning-rate schedules, made from the training flags."""

import math
from typing import Any

import keras
import tensorflow as tf

from tl_keras.config import Training

# Only kernels decay: pulling normalisation and thresholds to zero is not what decay is for. By
# what a name lacks, as some layers' scales have no name.
NOT_DECAYED = ["^(?!.*kernel)"]


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step: a linear warm-up, then the decay that the flags name.

    `factor` () float32 multiplies it; the plateau schedule lowers it as validation goes.
    """

    def __init__(self, training: Training, total_steps: int):
        self.training = training
        self.total_steps = total_steps
        self.factor = keras.Variable(1.0, trainable=False, dtype="float32", name="plateau")

    def __call__(self, step: Any) -> tf.Tensor:
        """Return the learning rate () float32 of the update that follows `step` updates."""
        training = self.training
        step = tf.cast(tf.convert_to_tensor(step), tf.float32)
        warmup = float(training.warmup_steps)
        rate = training.learning_rate * self.factor * self._decay(tf.maximum(step - warmup, 0.0))
        if warmup:
            rate *= tf.minimum(1.0, (step + 1.0) / warmup)
        return tf.convert_to_tensor(rate)

    def _decay(self, step: tf.Tensor) -> tf.Tensor:
        training = self.training
        length = max(1.0, float(self.total_steps - training.warmup_steps))
        if training.schedule == "cosine":
            return 0.5 * (1.0 + tf.cos(math.pi * tf.minimum(step / length, 1.0)))
        if training.schedule == "exponential":
            return tf.pow(training.decay_rate, step / (training.decay_steps or length))
        if training.schedule == "step":
            interval = training.decay_steps or math.ceil(length / 3)
            return tf.pow(training.decay_rate, tf.floor(step / interval))
        return tf.ones(())

    def get_config(self) -> dict[str, Any]:
        """Return what describes the schedule in a saved optimizer."""
        return {"schedule": self.training.schedule, "total_steps": self.total_steps}


def make_optimizer(training: Training, schedule: Schedule) -> keras.optimizers.Optimizer:
    """Return the optimizer that `--optimizer` names; weight decay leaves biases and norms alone."""
    decay = training.weight_decay or None
    if training.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(
            schedule, momentum=float(training.momentum), weight_decay=decay
        )  # fmt: skip
    elif training.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=training.weight_decay)
    else:
        optimizer = keras.optimizers.Adam(schedule, weight_decay=decay)
    if training.weight_decay:
        optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    return optimizer


def total_steps(training: Training, steps_per_epoch: float) -> int:
    """Return how many steps the flags ask for: --steps, or --epochs but at least --min_steps."""
    if training.steps:
        return training.steps
    if training.epochs == 0:
        return 0
    return max(math.ceil(training.epochs * steps_per_epoch), training.min_steps)
