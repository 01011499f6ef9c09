"""Tests that the layers of a built model give what Keras's own give, only sooner."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_keras.models import operations
from tl_keras.models.operations import use_fused_ops


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [1, 2, 3, (3, 1)])
def test_gradients_of_a_convolution_in_bfloat16_are_those_of_tensorflow(size, padding):
    inputs = keras.Input((5, 6, operations.MIN_CHANNELS))
    layer = keras.layers.Conv2D(8, size, padding=padding, dtype="mixed_bfloat16")
    model = keras.Model(inputs, layer(inputs))
    random = np.random.default_rng(0)
    images = tf.constant(random.normal(size=(3, *inputs.shape[1:])), tf.bfloat16)

    def found() -> list[np.ndarray]:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images)
            loss = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        gradients = tape.gradient(loss, [images, *(v.value for v in layer.trainable_variables)])
        return [np.asarray(tf.cast(one, tf.float32)) for one in [outputs, *gradients]]

    wanted = found()
    use_fused_ops(model)
    assert "convolution_op" in vars(layer)
    for expected, value in zip(wanted, found(), strict=True):
        np.testing.assert_allclose(value, expected, rtol=0.02, atol=0.01 * np.abs(expected).max())


def test_convolution_in_float32_is_tensorflows_to_the_bit():
    inputs = keras.Input((5, 6, operations.MIN_CHANNELS))
    layer = keras.layers.Conv2D(8, 3, padding="same")
    model = keras.Model(inputs, layer(inputs))
    images = np.random.default_rng(0).normal(size=(3, *inputs.shape[1:])).astype(np.float32)
    before = model(images)
    use_fused_ops(model)
    assert np.array_equal(model(images), before)


def test_few_channels_strides_groups_and_kinds_of_their_own_stay_keras_own():
    inputs = keras.Input((8, 8, operations.MIN_CHANNELS))
    layers = [
        keras.layers.Conv2D(8, 1, strides=2),
        keras.layers.Conv2D(8, 3, dilation_rate=2),
        keras.layers.Conv2D(8, 3, groups=4),
        keras.layers.DepthwiseConv2D(3),
        keras.layers.SeparableConv2D(8, 3),
    ]
    few = keras.layers.Conv2D(8, 3)
    outputs = [layer(inputs) for layer in layers]
    use_fused_ops(keras.Model(inputs, [*outputs, few(inputs[..., 1:])]))
    assert all("convolution_op" not in vars(layer) for layer in [*layers, few])
