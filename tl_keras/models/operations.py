"""Layers of Keras by other operations of TensorFlow, which give the same and take less time.

Keras computes batch normalisation of means, variances, scales and offsets one after the other, each
a pass over the whole map: a third of a step of ResNet50 on a processor. TensorFlow has it as one
operation, forward and backward, which also takes a map in bfloat16 while its statistics stay in
float32.

The gradient of a convolution's kernel in bfloat16 takes oneDNN up to six times as long on a
processor as the products of matrices that it is made of: 20 ms against 3 for 512 channels to 512 at
3x3 pixels. These need copies of the map, which cost more than they save where channels are few.
"""

import functools
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

# From how many input channels on a kernel's gradient is computed of matrices.
LEAST_CHANNELS = 256


def quicken(model: keras.Model, *, synchronised: bool = True) -> None:
    """Have the layers of `model` computed by the operations that take least; its weights stay.

    What is saved of the model stays Keras's own. A copy by its configuration is Keras's own too.

    Args:
        model: whose layers they are.
        synchronised: whether norms are of the whole batch where replicas share one, as they are
            without replicas, or each is of its share.
    """
    on_processor = not tf.config.list_physical_devices("GPU")
    for layer in model.layers:
        if is_plain_norm(layer) and len(layer.output.shape) in (2, 4) and not layer.synchronized:
            layer.call = functools.partial(_normalised, layer, on_processor, synchronised)
        elif on_processor and _is_wide_convolution(layer):
            layer.convolution_op = functools.partial(_convolved, layer)


def is_plain_norm(operation: keras.Operation) -> bool:
    """Tell whether this is a BatchNormalization over all axes but the last."""
    return (
        isinstance(operation, keras.layers.BatchNormalization)
        and not operation.renorm
        and operation.axis in (-1, len(operation.output.shape) - 1)
    )


def _normalised(
    norm: keras.layers.BatchNormalization,
    on_processor: bool,
    synchronised: bool,
    inputs: tf.Tensor,
    training: bool | None = None,
    mask: None = None,  # noqa: ARG001  Keras gives it; pictures have none
) -> tf.Tensor:
    """Return what the layer makes of (batch, height, width, channels), in the dtype of that.

    Or of (batch, channels), which are maps of one pixel.
    """
    if inputs.shape.rank == 2:
        maps = inputs[:, None, None, :]
        return _normalised(norm, on_processor, synchronised, maps, training)[:, 0, 0]
    follows = bool(training and norm.trainable)
    if not (follows or on_processor):
        # On GPUs TensorFlow has no deterministic gradient of the operation in inference mode.
        return keras.layers.BatchNormalization.call(norm, inputs, training=False)
    ones = tf.ones(inputs.shape[-1])
    scale = tf.cast(norm.gamma.value, tf.float32) if norm.scale else ones
    offset = tf.cast(norm.beta.value, tf.float32) if norm.center else tf.zeros_like(ones)
    context = tf.distribute.get_replica_context()
    is_shared = follows and context and context.num_replicas_in_sync > 1
    if is_shared and synchronised:
        return _normalised_together(norm, on_processor, inputs, scale, offset)
    if follows:
        fused, mean, variance, _ = _fused(inputs, scale, offset, norm.epsilon)
        if is_shared:
            # What moves stays one model's: each would keep the statistics of its own shares.
            moments = context.all_reduce(tf.distribute.ReduceOp.MEAN, tf.stack([mean, variance]))
            mean, variance = tf.unstack(moments)
        _follow(norm, mean, variance)
        return fused
    moving = [tf.cast(kept.value, tf.float32) for kept in (norm.moving_mean, norm.moving_variance)]
    return _fused(inputs, scale, offset, norm.epsilon, moving)[0]


def _fused(
    inputs: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
    epsilon: float,
    moments: Sequence[tf.Tensor] = (),
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return maps with each channel normalised, then scaled and moved.

    Args:
        inputs: (batch, height, width, channels).
        scale: (channels,) float32.
        offset: the same.
        epsilon: above 0, in the units of a variance.
        moments: the mean and the variance to go by, (channels,) float32 each; none for the inputs'.

    Returns:
        The maps in the dtype of the inputs, the mean and the variance that they went by, and how
        many pixels a channel has, () float32.
    """
    mean, variance = moments or ([], [])
    found = tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=epsilon,
        is_training=not moments,
    )
    count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
    if moments:
        return found.y, mean, variance, count
    # The operation gives the variance of the population that the batch is a sample of.
    return found.y, found.batch_mean, found.batch_variance * ((count - 1.0) / count), count


def _follow(norm: keras.layers.BatchNormalization, mean: tf.Tensor, variance: tf.Tensor) -> None:
    """Move the moving statistics towards those of a batch."""
    for kept, new in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
        kept.assign(kept * norm.momentum + new * (1.0 - norm.momentum))


def _normalised_together(
    norm: keras.layers.BatchNormalization,
    on_processor: bool,
    inputs: tf.Tensor,
    scale: tf.Tensor,
    offset: tf.Tensor,
) -> tf.Tensor:
    """Return what the layer makes of this replica's share of a batch, by the whole batch's moments.

    The replicas ask each other once forward and once back. Each pixel's gradient takes with it what
    it moves the moments by (Ioffe and Szegedy, "Batch normalization", 2015, section 3).
    """
    mean, variance, count = _moments_of_all(tf.stop_gradient(inputs), norm.epsilon)
    _follow(norm, mean, variance)
    all_reduce = tf.distribute.get_replica_context().all_reduce
    normalise = functools.partial(_fused, epsilon=norm.epsilon, moments=(mean, variance))

    @tf.custom_gradient
    def normalised(inputs: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            slope = scale * tf.math.rsqrt(variance + norm.epsilon)
            if on_processor:
                direct, of_scale, of_offset, *_ = tf.raw_ops.FusedBatchNormGradV3(
                    y_backprop=upstream,
                    x=inputs,
                    scale=scale,
                    reserve_space_1=mean,
                    reserve_space_2=variance,
                    reserve_space_3=[],
                    epsilon=norm.epsilon,
                    is_training=False,
                )
            else:
                exact = tf.cast(upstream, tf.float32)
                plain = normalise(tf.cast(inputs, tf.float32), tf.ones_like(scale), 0.0 * scale)[0]
                direct = tf.cast(exact * slope, inputs.dtype)
                of_scale = tf.reduce_sum(exact * plain, axis=[0, 1, 2])
                of_offset = tf.reduce_sum(exact, axis=[0, 1, 2])
            sums = all_reduce(tf.distribute.ReduceOp.SUM, tf.stack([of_scale, of_offset]))
            through_moments = normalise(inputs, *tf.unstack(-slope * sums / count))[0]
            return direct + through_moments, of_scale, of_offset

        return normalise(inputs, scale, offset)[0], gradients

    return normalised(inputs, scale, offset)


def _moments_of_all(inputs: tf.Tensor, epsilon: float) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the mean and the variance of a whole batch's pixels, and how many a channel has.

    What each replica found goes to all in one sum, in which each has a row of its own: the squares
    of large numbers, summed and subtracted, would lose what they differ by.
    """
    context = tf.distribute.get_replica_context()
    channels = inputs.shape[-1]
    _, mean, variance, count = _fused(inputs, tf.ones(channels), tf.zeros(channels), epsilon)
    own = tf.concat([[count], mean, variance], axis=0)
    row = tf.one_hot(context.replica_id_in_sync_group, context.num_replicas_in_sync)
    rows = context.all_reduce(tf.distribute.ReduceOp.SUM, row[:, None] * own)
    counts, means, variances = tf.split(rows, [1, channels, channels], axis=1)
    count = tf.reduce_sum(counts)
    mean = tf.reduce_sum(counts / count * means, axis=0)
    variance = tf.reduce_sum(counts / count * (variances + tf.square(means - mean)), axis=0)
    return mean, variance, count


def _is_wide_convolution(operation: keras.Operation) -> bool:
    """Tell whether this is a convolution of enough channels, all with all, pixel by pixel."""
    return (
        type(operation) is keras.layers.Conv2D
        and operation.groups == 1
        and operation.strides == operation.dilation_rate == (1, 1)
        and operation.data_format == "channels_last"
        and operation.input.shape[-1] >= LEAST_CHANNELS
    )


def _convolved(layer: keras.layers.Conv2D, inputs: tf.Tensor, kernel: Any) -> tf.Tensor:
    """Return what the layer makes of (batch, height, width, channels), before its bias."""
    padding = layer.padding.upper()

    @tf.custom_gradient
    def convolved(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def gradients(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            of_inputs = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs),
                filter=kernel,
                out_backprop=upstream,
                strides=[1, 1, 1, 1],
                padding=padding,
            )
            return of_inputs, _kernel_gradient(inputs, kernel.shape, upstream, padding)

        return tf.nn.conv2d(inputs, kernel, 1, padding), gradients

    kernel = tf.convert_to_tensor(kernel)
    if inputs.dtype != tf.bfloat16:
        return tf.nn.conv2d(inputs, kernel, 1, padding)
    return convolved(inputs, kernel)


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
