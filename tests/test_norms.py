"""Tests that norms of a built model give what Keras's own give, alone and shared, only sooner."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_keras.models.operations import use_fused_ops


def pair(shape=(4, 5, 3), **settings) -> tuple[keras.Model, keras.Model]:
    """The same model twice, with a norm that Keras computes and with a fused one."""
    models = []
    for _ in range(2):
        inputs = keras.Input(shape)
        models.append(keras.Model(inputs, keras.layers.BatchNormalization(**settings)(inputs)))
        random = np.random.default_rng(0)
        for weight in models[-1].weights:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    use_fused_ops(models[1])
    return models[0], models[1]


def images(batch: int = 7) -> tf.Tensor:
    """What a norm is given: a mean and a deviation of their own in each channel."""
    values = np.random.default_rng(1).normal(2, [1, 3, 0.1], (batch, 4, 5, 3))
    return tf.constant(values, tf.float32)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize(
    "settings", [{}, {"scale": False}, {"center": False, "epsilon": 0.01, "momentum": 0.7}]
)
def test_fused_norm_gives_what_kerass_gives_and_learns_the_same(settings, trainable, training):
    found = []
    for model in pair(**settings):
        model.trainable = trainable
        inputs = images()
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            outputs = model(inputs, training=training)
            # Of a weighted sum: the gradient of a plain one is zero through a norm.
            loss = tf.reduce_sum(outputs**3)
        variables = [v.value for v in model.trainable_variables]
        gradients = tape.gradient(loss, [inputs, *variables])
        found.append([outputs, *gradients, *(w.numpy() for w in model.weights)])
    for wanted, fused in zip(*found, strict=True):
        np.testing.assert_allclose(fused, wanted, rtol=2e-4, atol=2e-3)


def test_norm_in_inference_is_keras_own_on_gpus(monkeypatch):
    """There TensorFlow has no deterministic gradient of the fused operation."""
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    plain, fused = pair()
    for trainable, training, same in (
        (True, False, True),
        (False, True, True),
        (True, True, False),
    ):
        plain.trainable = fused.trainable = trainable
        expected, found = (one(images(), training=training) for one in (plain, fused))
        assert np.array_equal(found, expected) == same


@pytest.mark.parametrize("batch", [1, 64])
def test_moving_statistics_are_of_the_batch_not_of_what_it_was_drawn_from(batch):
    plain, fused = pair(momentum=0.0)
    for model in (plain, fused):
        model(images(batch), training=True)
    for wanted, found in zip(plain.weights, fused.weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_norm_of_channels_without_a_map_is_fused_too(training):
    plain, fused = pair(shape=(3,), momentum=0.5)
    assert "call" in vars(fused.layers[-1])
    batch = images(64)[:, 0, 0]
    expected, found = (one(batch, training=training) for one in (plain, fused))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    for wanted, weight in zip(plain.weights, fused.weights, strict=True):
        np.testing.assert_allclose(weight, wanted, rtol=1e-4)


def test_fused_norm_keeps_bfloat16_for_the_map_and_float32_for_the_statistics():
    _, model = pair()
    layer = model.layers[-1]
    layer.dtype_policy = "mixed_bfloat16"
    # The same numbers for both: what is lost when they are brought to bfloat16 is not the norm's.
    inputs = tf.cast(tf.cast(images(), tf.bfloat16), tf.float32)
    found = model(inputs, training=True)
    assert found.dtype == tf.bfloat16
    assert {weight.dtype for weight in model.weights} == {"float32"}
    wanted, _ = pair()
    expected = wanted(inputs, training=True)
    np.testing.assert_allclose(tf.cast(found, tf.float32), expected, atol=0.02)
    np.testing.assert_allclose(layer.moving_mean, wanted.layers[-1].moving_mean, rtol=1e-4)


@pytest.mark.parametrize("on_processor", [True, False])
def test_shared_norm_gives_its_share_of_what_one_gives_the_whole_batch(monkeypatch, on_processor):
    """Two replicas are made of one: the other has the same images, and sums are asked in turn."""
    monkeypatch.setattr(
        tf.config, "list_physical_devices", lambda kind: [kind] * (not on_processor)
    )
    whole, shared = pair()
    sums = iter([lambda rows: rows + rows[::-1], lambda sums: 2 * sums])
    context = types.SimpleNamespace(
        num_replicas_in_sync=2,
        replica_id_in_sync_group=1,
        all_reduce=lambda operation, values: next(sums)(values),
    )
    found = []
    for model, copies in ((whole, 2), (shared, 1)):
        inputs = tf.concat([images()] * copies, axis=0)
        with tf.GradientTape() as tape, monkeypatch.context() as patched:
            tape.watch(inputs)
            if model is shared:
                patched.setattr(tf.distribute, "get_replica_context", lambda: context)
            outputs = model(inputs, training=True)
            loss = tf.reduce_sum(outputs**3)
        of_inputs, *of_weights = tape.gradient(
            loss, [inputs, *(v.value for v in model.trainable_variables)]
        )
        share = [gradient / copies for gradient in of_weights]
        found.append([outputs[:7], of_inputs[:7], *share, *(w.numpy() for w in model.weights)])
    for wanted, part in zip(*found, strict=True):
        np.testing.assert_allclose(part, wanted, rtol=2e-4, atol=2e-3)


def test_what_is_no_plain_norm_stays_keras_own():
    inputs = keras.Input((4, 5, 3))
    norms = [
        keras.layers.BatchNormalization(axis=1),
        keras.layers.BatchNormalization(renorm=True),
        keras.layers.BatchNormalization(synchronized=True),
    ]
    outputs = [norm(inputs) for norm in norms]
    use_fused_ops(keras.Model(inputs, outputs))
    assert all("call" not in vars(norm) for norm in norms)
