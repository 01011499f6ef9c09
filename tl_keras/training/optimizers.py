"""Optimizers and learning-rate schedules, made from the training flags."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tl_keras.config import Training


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate of each step: a linear warm-up, then the decay of --schedule.

    `factor` () float32 multiplies it. The plateau schedule lowers it after validations.
    """

    def __init__(self, training: Training, total_steps: int):
        self.training = training
        self.total_steps = total_steps
        self.factor = keras.Variable(1.0, trainable=False, dtype="float32", name="plateau")
        self.start = keras.Variable(0, trainable=False, dtype="int64", name="start")

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of a checkpoint."""
        return [self.factor, self.start]

    def restart(self, step: int) -> None:
        """Continue from `step` after the step count of the optimizer is reset."""
        self.start.assign(step)

    def __call__(self, iterations: Any) -> tf.Tensor:
        """Return the learning rate () float32 after `iterations` updates of the optimizer."""
        return self.at(tf.cast(self.start.value, tf.int64) + tf.cast(iterations, tf.int64))

    def at(self, step: Any) -> tf.Tensor:
        """Return the learning rate () float32 of the update after `step` updates."""
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
        """Return the configuration for a saved optimizer."""
        return {"schedule": self.training.schedule, "total_steps": self.total_steps}


class _Fused:
    """An optimizer with one fused operation per variable; Keras uses about ten.

    Updates and weight decay have a multiplier per variable. The update is scaled and not the
    gradient, because Adam is invariant to the scale of a gradient.
    """

    multipliers: Sequence[float] = ()
    decays: Sequence[float] = ()

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable: w <- w - decay * rate * w, then the update by the gradient."""
        index = self._get_variable_index(variable)  # type: ignore[attr-defined]
        rate = tf.cast(learning_rate, tf.float32)
        if self.multipliers:
            rate *= self.multipliers[index]
        if self.decays[index]:
            variable.assign_sub(variable * self.decays[index] * rate)
        self.move(_handle(variable), tf.convert_to_tensor(gradient), rate, index)

    def _all_reduce_sum_gradients(self, pairs: Iterable[Any]) -> list[Any]:
        """Return the gradients unchanged: `Steps` has summed them over the replicas."""
        return list(pairs)

    def move(self, handle: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor, index: int) -> None:
        """Update the variable of `handle`, the `index`-th of the optimizer's variables."""
        raise NotImplementedError


def _handle(variable: Any) -> tf.Tensor:
    """Return the resource handle of a Keras or TensorFlow variable."""
    return (variable.value if isinstance(variable, keras.Variable) else variable).handle


class _SGD(_Fused, keras.optimizers.SGD):
    def move(self, handle: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor, index: int) -> None:
        """Set m <- momentum * m - rate * g, and w <- w + m."""
        if not self.momentum:
            tf.raw_ops.ResourceApplyGradientDescent(var=handle, alpha=rate, delta=gradient)
            return
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=handle,
            accum=_handle(self.momentums[index]),
            lr=rate,
            grad=gradient,
            momentum=self.momentum,
        )


class _Adam(_Fused, keras.optimizers.Adam):
    def move(self, handle: tf.Tensor, gradient: tf.Tensor, rate: tf.Tensor, index: int) -> None:
        """Update by Adam: Kingma and Ba, ICLR 2015, arXiv 1412.6980."""
        count = tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=handle,
            m=_handle(self._momentums[index]),
            v=_handle(self._velocities[index]),
            beta1_power=tf.pow(self.beta_1, count),
            beta2_power=tf.pow(self.beta_2, count),
            lr=rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


def make_optimizer(
    training: Training,
    schedule: Schedule,
    variables: Sequence[keras.Variable],
    multipliers: Sequence[float] = (),
    *,
    scales_loss: bool = False,
) -> keras.optimizers.Optimizer:
    """Return the optimizer that `--optimizer` names, built for `variables`.

    Weight decay is decoupled in all of them (Loshchilov and Hutter, ICLR 2019), so adam with weight
    decay is adamw. Only kernels decay, not biases and normalisation parameters.

    Args:
        training: the training settings.
        schedule: the learning-rate schedule.
        variables: all variables that it will update.
        multipliers: factors of the update of each variable; empty for 1.
        scales_loss: scale the loss so that gradients stay in the range of float16. Steps with
            non-finite gradients are skipped.
    """
    # Explicit names, because TensorFlow refuses scopes that begin with an underscore.
    if training.optimizer == "sgd":
        optimizer = _SGD(schedule, momentum=float(training.momentum), name="sgd")
    else:
        optimizer = _Adam(schedule, name="adam")
    optimizer.multipliers = tuple(multipliers)
    optimizer.decays = [training.weight_decay * ("kernel" in v.name) for v in variables]
    if scales_loss:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale")
    optimizer.build(list(variables))
    return optimizer


def reset_optimizer(optimizer: keras.optimizers.Optimizer) -> None:
    """Reset moments and step count to zero. The loss scale is kept."""
    for variable in getattr(optimizer, "inner_optimizer", optimizer).variables:
        variable.assign(tf.zeros(variable.shape, variable.dtype))


def total_steps(training: Training, steps_per_epoch: float) -> int:
    """Return the number of steps: --steps, or that of --epochs but at least --min_steps."""
    if training.steps:
        return training.steps
    if training.epochs == 0:
        return 0
    return max(math.ceil(training.epochs * steps_per_epoch), training.min_steps)
