"""Tests that a folded model is the same function, and that there is less of it."""

import keras
import numpy as np
import pytest

from tl_keras.models import building, catalog
from tl_keras.models.feature_maps import copy_frozen
from tl_keras.models.folding import fold_norms

NORM = keras.layers.BatchNormalization

# How many norms follow what cannot take them in, a sum or a concatenation, and stay.
LEFT = {
    "conv4": 0,
    "small_cnn": 0,
    "mobilenet_v2_035": 0,
    "resnet50": 0,
    "xception": 0,
    "resnet50_v2": 17,
    "densenet121": 62,
    "efficientnet_b0": 0,
}
FEW = ["conv4", "mobilenet_v2_035", "resnet50_v2"]
MANY = [*FEW, "small_cnn", "efficientnet_b0"]


def made(name: str, seed: int = 0) -> keras.Model:
    """A model as small as it may be, whose norms have statistics and scales of their own."""
    entry = catalog.find(name)
    model = building.build(
        name,
        5,
        image_size=max(entry.min_size, 32),
        input_channels=3,
        body_channels=3,
        dense_units=16,
        seed=seed,
    )
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, NORM):
            layer.set_weights([random.uniform(0.5, 1.5, one.shape) for one in layer.get_weights()])
    return model


def images(model: keras.Model, count: int = 3) -> np.ndarray:
    """Noise as the model takes it."""
    shape = (count, *model.input.shape[1:])
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


def assert_same(model: keras.Model, other: keras.Model) -> None:
    """Hold two models to the same features and logits, up to rounding."""
    wanted, found = (one(images(model), training=False) for one in (model, other))
    assert set(wanted) <= set(found)
    for name, value in wanted.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name] / scale, value / scale, atol=2e-5)


def norms(model: keras.Model) -> int:
    """How many norms are computed."""
    return sum(isinstance(layer, NORM) for layer in model.layers)


def test_folded_model_is_the_same_function_with_fewer_layers(rounds):
    for name in rounds(FEW, MANY, sorted(catalog.MODELS)):
        model = made(name)
        before = {v.path: v.numpy() for v in model.variables}
        less = fold_norms(model)
        assert_same(model, less)
        assert norms(less) == LEFT.get(name, norms(less)) <= norms(model)
        assert all(np.array_equal(v.numpy(), before[v.path]) for v in model.variables)


def test_folded_model_without_its_norms_would_be_another_function():
    # What the test above rests on: with these statistics the norms do matter.
    model = made("conv4")
    for layer in model.layers:
        if isinstance(layer, NORM):
            layer.moving_mean.assign(layer.moving_mean + 0.1)
    with pytest.raises(AssertionError):
        assert_same(made("conv4"), fold_norms(model))


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Conv2D(6, 3, groups=2, name="one"),
        keras.layers.Conv2D(6, 3, use_bias=False, strides=2, name="one"),
        keras.layers.DepthwiseConv2D(3, depth_multiplier=3, name="one"),
        keras.layers.SeparableConv2D(5, 3, depth_multiplier=2, name="one"),
        keras.layers.Dense(5, name="one"),
    ],
    ids=["groups", "strides", "depthwise", "separable", "dense"],
)
@pytest.mark.parametrize("parts", [(True, True), (False, True), (True, False), (False, False)])
def test_kernel_takes_in_the_norm_behind_it(layer, parts):
    scale, center = parts
    layer = type(layer).from_config({**layer.get_config(), "bias_initializer": "uniform"})
    pictures = keras.Input((8, 8, 4), name="image")
    x = layer(pictures)
    norm = NORM(scale=scale, center=center, epsilon=0.01, name="norm")
    model = keras.Model(pictures, {"features": norm(x)})
    random = np.random.default_rng(0)
    norm.set_weights([random.uniform(0.5, 1.5, one.shape) for one in norm.get_weights()])
    assert norms(fold_norms(model)) == 0
    assert_same(model, fold_norms(model))


def _activated(pictures: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    x = keras.layers.Conv2D(4, 3, activation="relu", name="one")(pictures)
    return {"features": NORM(name="norm")(x)}


def _used_twice(pictures: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    x = keras.layers.Conv2D(4, 3, name="one")(pictures)
    return {"features": NORM(name="norm")(x) + x}


def _given_out(pictures: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    x = keras.layers.Conv2D(4, 3, name="one")(pictures)
    return {"features": NORM(name="norm")(x), "logits": x}


def _other_axis(pictures: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    x = keras.layers.Conv2D(4, 3, name="one")(pictures)
    return {"features": NORM(axis=1, name="norm")(x)}


@pytest.mark.parametrize("network", [_activated, _used_twice, _given_out, _other_axis])
def test_norm_stays_where_it_cannot_be_taken_in(network):
    pictures = keras.Input((8, 8, 4), name="image")
    model = keras.Model(pictures, network(pictures))
    norm = model.get_layer("norm")
    random = np.random.default_rng(0)
    norm.set_weights([random.uniform(0.5, 1.5, one.shape) for one in norm.get_weights()])
    assert norms(fold_norms(model)) == 1
    assert_same(model, fold_norms(model))


def test_copy_of_a_model_with_constants_of_its_own_is_the_same_function():
    # EfficientNet's preprocessing has constants that are made of its weights.
    model = made("efficientnet_b0")
    assert_same(model, copy_frozen(model))
