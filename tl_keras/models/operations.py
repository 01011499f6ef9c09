"""Layers of Keras by other operations of TensorFlow, which give the same and take less time.

Batch normalisation is in `norms`. The gradient of a convolution's kernel in bfloat16 takes oneDNN
up to six times as long on a processor as the products of matrices that it is made of: 20 ms against
3 for 512 channels to 512 at 3x3 pixels. These need copies of the map, which cost more than they
save where channels are few.
"""

import functools
from typing import Any

import keras
import tensorflow as tf

from tl_keras.models import norms

# From how many input channels on a kernel's gradient is computed of matrices.
MIN_CHANNELS = 256


def use_fused_ops(model: keras.Model, *, synchronised: bool = True) -> None:
    """Have the layers of `model` computed by the operations that take least; its weights stay.

    What is saved of the model stays Keras's own. A copy by its configuration is Keras's own too.

    Args:
        model: whose layers they are.
        synchronised: whether norms are of the whole batch where replicas share one, as they are
            without replicas, or each is of its share.
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
    """Tell whether this is a convolution of enough channels, all with all, pixel by pixel."""
    return (
        type(operation) is keras.layers.Conv2D
        and operation.groups == 1
        and operation.strides == operation.dilation_rate == (1, 1)
        and operation.data_format == "channels_last"
        and operation.input.shape[-1] >= MIN_CHANNELS
    )


def _convolve(layer: keras.layers.Conv2D, inputs: tf.Tensor, kernel: Any) -> tf.Tensor:
    """Return what the layer makes of (batch, height, width, channels), before its bias."""
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
    """Return the gradient of a kernel of that shape: one product of matrices for each place in it.

    Args:
        inputs: (batch, height, width, channels).
        shape: of the kernel: (rows, columns, channels, filters).
        upstream: (batch, height or less, width or less, filters), the gradient of the outputs.
        padding: "SAME" or "VALID".
    """
    rows, columns, channels, filters = shape
    if padding == "SAME":
        # What is left over of an even size stands behind, as in the convolution.
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
