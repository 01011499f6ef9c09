"""Faster TensorFlow operations for Keras layers, with the same results up to rounding.

Batch normalisation is in `norms`. For the kernel gradient of a convolution in bfloat16 on a
processor, oneDNN takes up to six times as long as matrix products: 20 ms against 3 for 512 to 512
channels with a 3x3 kernel. The matrix products need copies of the map, which cost more than they
save with few channels.
"""

import functools
from typing import Any

import keras
import tensorflow as tf

from tl_keras.models import norms

# The minimum of input channels for a kernel gradient by matrix products.
MIN_CHANNELS = 256


def use_fused_ops(model: keras.Model, *, synchronised: bool = True) -> None:
    """Let the layers of `model` use faster operations. The weights do not change.

    A saved model, or a copy made from the configuration, has Keras' original operations.

    Args:
        model: the model to change.
        synchronised: whether BatchNormalization uses the statistics of the whole batch over all
            replicas, or of each replica's share.
    """
    on_processor = not tf.config.list_physical_devices("GPU")
    for layer in model.layers:
        if (
            norms.is_plain_norm(layer)
            and len(layer.output.shape) in (2, 4)
            and not layer.synchronized
        ):
            layer.call = functools.partial(norms.batch_normalise, layer, on_processor, synchronised)
        elif on_processor and _is_wide_convolution(layer):
            layer.convolution_op = functools.partial(_convolve, layer)


def _is_wide_convolution(operation: keras.Operation) -> bool:
    """Return whether this is an ungrouped convolution of stride 1 with at least MIN_CHANNELS."""
    return (
        type(operation) is keras.layers.Conv2D
        and operation.groups == 1
        and operation.strides == operation.dilation_rate == (1, 1)
        and operation.data_format == "channels_last"
        and operation.input.shape[-1] >= MIN_CHANNELS
    )


def _convolve(layer: keras.layers.Conv2D, inputs: tf.Tensor, kernel: Any) -> tf.Tensor:
    """Return the convolution of (batch, height, width, channels) inputs, without the bias."""
    padding = layer.padding.upper()

    @tf.custom_gradient
    def convolve(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            input_gradient = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding=padding,
            )
            return input_gradient, _kernel_gradient(inputs, kernel.shape, upstream, padding)

        return tf.nn.conv2d(inputs, kernel, 1, padding), gradients

    kernel = tf.convert_to_tensor(kernel)
    if inputs.dtype != tf.bfloat16:
        return tf.nn.conv2d(inputs, kernel, 1, padding)
    return convolve(inputs, kernel)


def _kernel_gradient(
    inputs: tf.Tensor, shape: tf.TensorShape, upstream: tf.Tensor, padding: str
) -> tf.Tensor:
    """Return the gradient of a kernel, computed by one matrix product per kernel position.

    Args:
        inputs: (batch, height, width, channels).
        shape: of the kernel: (rows, columns, channels, filters).
        upstream: (batch, height or less, width or less, filters), the gradient of the outputs.
        padding: "SAME" or "VALID".
    """
    rows, columns, channels, filters = shape
    if padding == "SAME":
        # For even sizes, the extra padding is at the end, as in the convolution.
        around = [[(size - 1) // 2, size // 2] for size in (rows, columns)]
        inputs = tf.pad(inputs, [[0, 0], *around, [0, 0]])
    height, width = upstream.shape[1:3]
    gradient = tf.reshape(upstream, [-1, filters])
    products = []
    for row in range(rows):
        for column in range(columns):
            seen = inputs[:, row : row + height, column : column + width]
            seen = tf.reshape(seen, [-1, channels])
            products.append(tf.matmul(seen, gradient, transpose_a=True))
    return tf.reshape(tf.stack(products), shape)
