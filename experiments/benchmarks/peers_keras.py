"""Keras as its guides have it: `fit` and `predict`, the preprocessing inside of the model."""

import importlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from experiments.benchmarks import pictures
from experiments.benchmarks.worker import Rounds

APPLICATIONS = {
    "resnet50": ("resnet50", "ResNet50"),
    "vgg16": ("vgg16", "VGG16"),
    "mobilenet_v2": ("mobilenet_v2", "MobileNetV2"),
}
ENDLESS = 10**8


class _Epochs(keras.callbacks.Callback):
    """Has each epoch of a long `fit` be one round."""

    def __init__(self, rounds: Rounds, images: int):
        super().__init__()
        self._rounds = rounds
        self._images = images

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Wait until a round is asked for."""
        self._rounds.begin()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """End the round."""
        self._rounds.end(self._images)


def train_small_cnn(rounds: Rounds, images: int, batch_size: int, chain: bool) -> None:
    """Train the small CNN; a round is an epoch.

    Args:
        rounds: when to.
        images: in an epoch.
        batch_size: of a step.
        chain: whether the images come as tf.data; else as arrays.
    """
    model = small_cnn()
    _compile(model, keras.optimizers.Adam(1e-3))
    x, y = pictures.pictures(images, 28, 1), pictures.labels(images)
    how: dict[str, Any] = {"epochs": ENDLESS, "verbose": 0, "callbacks": [_Epochs(rounds, images)]}
    if chain:
        model.fit(_chain(x, y, batch_size), **how)
    else:
        # As the guides have it: scaled once, before training.
        model.fit(x.astype("float32") / 255, y, batch_size=batch_size, shuffle=True, **how)


def fine_tune(
    rounds: Rounds, name: str, images: int, size: int, batch_size: int, momentum: float
) -> None:
    """Train a whole application with SGD; a round is an epoch."""
    model = application(name, size)
    _compile(model, keras.optimizers.SGD(1e-3, momentum=momentum))
    chain = _chain(pictures.pictures(images, size, 3), pictures.labels(images), batch_size)
    model.fit(chain, epochs=ENDLESS, verbose=0, callbacks=[_Epochs(rounds, images)])


def train_last(
    rounds: Rounds, name: str, images: int, size: int, batch_size: int, epochs: int, last: int
) -> None:
    """Train the last layers of a fresh application for some epochs in each round."""
    x, y = pictures.pictures(images, size, 3), pictures.labels(images)
    while True:
        keras.backend.clear_session()
        model = application(name, size)
        weighted = [layer for layer in model.layers if layer.weights]
        for layer in weighted[: len(weighted) - last]:
            layer.trainable = False
        _compile(model, keras.optimizers.Adam(1e-3))
        rounds.begin()
        model.fit(_chain(x, y, batch_size), epochs=epochs, verbose=0)
        rounds.end(images * epochs)


def features(rounds: Rounds, name: str, images: int, size: int, batch_size: int) -> None:
    """Predict the pooled features of all images in each round."""
    model = body(name, size)
    x = pictures.pictures(images, size, 3)
    while True:
        rounds.begin()
        model.predict(x, batch_size=batch_size, verbose=0)
        rounds.end(images)


def small_cnn() -> keras.Model:
    """Return the small CNN for (batch, 28, 28, 1) from 0 to 1."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(pictures.CLASSES),
        ]
    )


def body(name: str, size: int) -> keras.Model:
    """Return an application without top, from (batch, size, size, 3) uint8 to pooled features."""
    module_name, function = APPLICATIONS[name]
    module = importlib.import_module(f"keras.applications.{module_name}")
    inputs = keras.Input((size, size, 3), dtype="uint8")
    prepared = module.preprocess_input(keras.ops.cast(inputs, "float32"))
    network = getattr(module, function)(
        include_top=False, weights=None, input_tensor=prepared, pooling="avg"
    )
    return keras.Model(inputs, network.output)


def application(name: str, size: int) -> keras.Model:
    """Return an application with a fresh head, from (batch, size, size, 3) uint8 to logits."""
    below = body(name, size)
    logits = keras.layers.Dense(pictures.CLASSES)(below.output)
    return keras.Model(below.input, logits)


def _compile(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss=loss, metrics=["accuracy"])


def _chain(images: np.ndarray, labels: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Return the usual chain; pictures of one channel come scaled from 0 to 1."""

    def scaled(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.cast(image, tf.float32) / 255.0, label

    dataset = tf.data.Dataset.from_tensor_slices((images, labels))
    if images.shape[-1] == 1:
        dataset = dataset.map(scaled, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.cache().shuffle(min(len(images), 10_000)).batch(batch_size)
    return dataset.prefetch(tf.data.AUTOTUNE)
