"""Tests of cuts: the two parts are the whole, and nothing before the cut moves or is random."""

import keras
import numpy as np
import pytest

from tl_keras.config.trainable import Trainable
from tl_keras.models import building, catalog
from tl_keras.models.frozen_split import differs_in_training, split_frozen
from tl_keras.models.naming import leaves

FEW = [("small_cnn", "head"), ("mobilenet_v2_035", "last:5"), ("resnet50_v2", "last:12")]
MANY = [
    *FEW,
    *(("small_cnn", "last:2"), ("densenet121", "last:3"), ("convnext_tiny", "head")),
]
# Dropout in the blocks of these is random from the first block that has it.
EARLY = ("efficientnet", "convnext", "conv4")


def built(name: str, trainable: str) -> keras.Model:
    size = max(catalog.find(name).min_size, 32)
    model = building.build(
        name, 3, image_size=size, input_channels=3, body_channels=3, dense_units=8, seed=1
    )
    building.set_trainable(model, Trainable.parse(trainable))
    return model


def images(model: keras.Model) -> np.ndarray:
    shape = (4, *model.input.shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def weighty(model: keras.Model) -> int:
    return sum(bool(leaf.weights) for leaf in leaves(model))


def test_two_parts_are_the_whole_model(rounds):
    every = [(name, spec) for name in sorted(catalog.MODELS) for spec in ("head", "last:8")]
    for name, spec in rounds(FEW, MANY, every):
        model = built(name, spec)
        parts = split_frozen(model)
        assert parts is not None, name
        wanted = model(images(model), training=False)
        found = parts.rest(parts.frozen(images(model), training=False), training=False)
        for key, value in wanted.items():
            np.testing.assert_array_equal(found[key], value)
        # In training it gives the same too, each time, or there would be nothing to keep.
        kept = parts.frozen(images(model), training=False)
        np.testing.assert_array_equal(parts.frozen(images(model), training=True), kept)
        assert not parts.frozen.trainable_variables
        moving = {id(v) for v in model.trainable_variables}
        assert {id(v) for v in parts.rest.trainable_variables} == moving
        if spec == "head" and not name.startswith(EARLY):
            # All but the head is before the cut.
            assert (weighty(parts.frozen), weighty(parts.rest)) == (weighty(model) - 1, 1)


@pytest.mark.parametrize("name", ["small_cnn", "mobilenet_025"])
def test_split_frozen_returns_none_where_all_trains(name):
    assert split_frozen(built(name, "all")) is None


def test_split_frozen_ends_before_what_is_random():
    parts = split_frozen(built("conv4", "head"))
    assert parts.frozen.layers[-1].name == "pool1"
    assert any(isinstance(layer, keras.layers.Dropout) for layer in parts.rest.layers)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (keras.layers.Dropout(0.5), True),
        (keras.layers.BatchNormalization(), True),
        (keras.layers.BatchNormalization(trainable=False), False),
        (keras.layers.Dense(2), False),
        (keras.layers.Conv2D(2, 1), False),
    ],
)
def test_layers_that_differ_in_training_are_known(layer, expected):
    assert differs_in_training(layer) == expected
