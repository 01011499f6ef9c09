"""Tests of prediction: every example once, in order, whatever the batch and the devices."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_keras.data import pipeline
from tl_keras.training import prediction
from tl_keras.training.prediction import Predictor

STRATEGY = tf.distribute.get_strategy()


def a_model(side: int = 5, dropout: float = 0.5) -> keras.Model:
    """Return a model with features and logits, of which dropout makes training mode show."""
    image = keras.Input((side, side, 1), dtype="uint8")
    pixels = keras.layers.Rescaling(1 / 255)(image)
    features = keras.layers.Dense(4, "tanh")(keras.layers.Flatten()(pixels))
    features = keras.layers.BatchNormalization()(features)
    logits = keras.layers.Dense(3)(keras.layers.Dropout(dropout)(features))
    model = keras.Model(image, {"features": features, "logits": logits})
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(generator.uniform(0.1, 1.0, weight.shape))
    return model


def pixels(count: int, side: int = 5) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 1), np.uint8)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return a_model()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 50])
def test_predictor_gives_what_the_model_says_of_each_example(model, monkeypatch, count) -> None:
    monkeypatch.setattr(prediction, "VALUES_PER_BATCH", 1)  # batches of the least size, 16
    images = pixels(count)
    found = Predictor(model, STRATEGY).predict(images)
    expected = model(images, training=False)["logits"]
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_predictor_serves_several_splits_of_different_sizes(model) -> None:
    predictor = Predictor(model, STRATEGY)
    for count in (3, 513, 40):
        images = pixels(count)
        found = predictor.predict(images)
        expected = model(images, training=False)["logits"]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_predictor_follows_the_weights_as_they_are_now() -> None:
    model = a_model()
    predictor = Predictor(model, STRATEGY)
    before = predictor.predict(pixels(4))
    model.layers[-1].bias.assign_add([1.0, 2.0, 3.0])
    after = predictor.predict(pixels(4))
    np.testing.assert_allclose(after - before, np.tile([1.0, 2.0, 3.0], (4, 1)), rtol=1e-4)


def test_predictor_brings_images_to_the_size_of_the_model(model) -> None:
    images = pixels(7, side=9)
    resized = tf.image.resize(images, (5, 5), antialias=True)
    expected = model(np.round(resized).astype(np.uint8), training=False)["logits"]
    found = Predictor(model, STRATEGY).predict(images, image_size=5)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_predictor_takes_features_instead_of_images() -> None:
    features = keras.Input((6,))
    model = keras.Model(features, {"features": features, "logits": keras.layers.Dense(2)(features)})
    inputs = np.random.default_rng(0).normal(size=(21, 6)).astype(np.float32)
    found = Predictor(model, STRATEGY).predict(inputs)
    np.testing.assert_allclose(found, model(inputs)["logits"], rtol=1e-5, atol=1e-6)


TWO_DEVICES = """
import numpy as np
import tensorflow as tf

from tl_keras.distributed import distribution
distribution.configure_devices(2)

import test_prediction
from tl_keras.distributed import distribution
from tl_keras.data import pipeline
from tl_keras.training import prediction

prediction.VALUES_A_BATCH = 1
strategy = distribution.make_strategy("mirrored", 2)
assert strategy.num_replicas_in_sync == 2
with strategy.scope():
    model = test_prediction.a_model()
predictor = prediction.Predictor(model, strategy)
for count in (1, 2, 31, 32, 33, 47):
    images = test_prediction.pixels(count)
    found = predictor.predict(images)
    expected = model(images, training=False)["logits"]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
"""


def test_predictor_on_two_devices_gives_the_same(request) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES],
        capture_output=True,
        text=True,
        check=False,
        cwd=request.path.parents[1],
        env={**os.environ, "PYTHONPATH": f"{request.path.parent}:."},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_pipeline_of_the_same_examples_is_built_once(monkeypatch):
    """A run validates on the same images again and again."""
    built = []
    build = pipeline.sequential_batches

    def noted(*arguments, **more):
        built.append(arguments)
        return build(*arguments, **more)

    monkeypatch.setattr(pipeline, "sequential_batches", noted)
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 5, 1), np.uint8)
    predictor = Predictor(a_model(), STRATEGY)
    first = predictor.predict(images)
    assert np.array_equal(predictor.predict(images), first) and len(built) == 1
    other = predictor.predict(images[::-1])
    assert np.array_equal(other[::-1], first) and len(built) == 2
    assert np.array_equal(predictor.predict(images), first) and len(built) == 3
