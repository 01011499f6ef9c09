"""Batch normalisation in one operation.

Keras computes it of means, variances, scales and offsets one after the other, each a pass over the
whole map: a third of a step of ResNet50 on a processor. TensorFlow has it as one operation, forward
and backward, which also takes a map in bfloat16 while its statistics stay in float32.
"""

import functools
from typing import Any

import keras
import tensorflow as tf


def fuse(model: keras.Model) -> None:
    """Have the norms of `model` computed in one operation each; their weights are as they were.

    What is saved of the model stays Keras's own. A copy by its configuration is not fused.
    """
    for layer in model.layers:
        if is_plain(layer) and len(layer.output.shape) == 4 and not layer.synchronized:
            layer.call = functools.partial(_call, layer)


def is_plain(operation: keras.Operation) -> bool:
    """Tell whether this is a BatchNormalization over all axes but the last."""
    return (
        isinstance(operation, keras.layers.BatchNormalization)
        and not operation.renorm
        and operation.axis in (-1, len(operation.output.shape) - 1)
    )


def _call(
    norm: keras.layers.BatchNormalization,
    inputs: tf.Tensor,
    training: bool | None = None,
    mask: None = None,  # noqa: ARG001  Keras gives it; pictures have none
) -> tf.Tensor:
    """Return what the layer makes of (batch, height, width, channels), in the dtype of that."""
    channels = inputs.shape[-1]
    values: dict[str, Any] = {
        "scale": norm.gamma.value if norm.scale else tf.ones(channels),
        "offset": norm.beta.value if norm.center else tf.zeros(channels),
        "mean": norm.moving_mean.value,
        "variance": norm.moving_variance.value,
    }
    follows = bool(training and norm.trainable)
    if follows:
        values |= {"mean": [], "variance": []}
    fused = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        **{name: tf.cast(value, tf.float32) for name, value in values.items()},
        epsilon=norm.epsilon,
        is_training=follows,
    )
    if follows:
        # The operation gives the variance of the population that the batch is a sample of.
        count = tf.cast(tf.size(inputs) // channels, tf.float32)
        found = fused.batch_variance * ((count - 1.0) / count)
        for kept, new in ((norm.moving_mean, fused.batch_mean), (norm.moving_variance, found)):
            kept.assign(kept * norm.momentum + new * (1.0 - norm.momentum))
    return fused.y
