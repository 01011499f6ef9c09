"""Autoencoder pretraining: a decoder reconstructs the image from the body's features."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data import pipeline
from tl_keras.data.dataset import ImageSet
from tl_keras.methods.interface import MethodInputs, PretrainingOutputs, find_body_variables
from tl_keras.training.task import Batch, Objective, Task

LARGEST_MAP = 8
WIDTH = 64
MIN_WIDTH = 16
IMAGES_PER_BATCH = 64


def prepare(run: MethodInputs) -> PretrainingOutputs:
    """Prepare L = mean over images, pixels and channels of (decoder(body(x)) - x / 255)^2.

    x is the augmented image. Hinton and Salakhutdinov, "Reducing the
    Dimensionality of Data with Neural Networks", Science 313, 2006. The labels are not used, and
    the decoder is discarded after training.
    """
    model = run.model
    with run.strategy.scope():
        width, shape = model.output["features"].shape[-1], model.input.shape[1:]
        decoder = _build_decoder(width, shape, run.seed_for("decoder"))

    def objective(batch: Batch, _: tf.Tensor) -> Objective:
        images, _ = batch["target"]
        rebuilt = decoder(model(images, training=True)["features"])
        return Objective(
            {"mean_squared_error": tf.reduce_mean(_squared_errors(images, rebuilt))}, {}
        )

    task = Task(
        model=model,
        variables=[*find_body_variables(model), *decoder.trainable_variables],
        streams={"target": run.stream(run.images)},
        objective=objective,
    )
    rebuild = tf.function(
        lambda images: decoder(model(images, training=False)["features"]), autograph=False
    )
    return PretrainingOutputs(
        task,
        model,
        evaluate=lambda images: _evaluate(images, run.image_size, rebuild),
        rebuild=lambda images: 255 * rebuild(tf.constant(images)).numpy(),
    )


def _build_decoder(width: int, shape: tuple[int, int, int], seed: int) -> keras.Model:
    """Return a decoder from (batch, width) features to (batch, *shape) images of 0 to 1.

    A dense layer makes a map of at most 8x8. Upsampling by 2 and a convolution repeat until the map
    is as large as the image. So the size of the dense layer does not grow with the image.
    """
    size, _, channels = shape
    doublings = 0
    while -(-size // 2**doublings) > LARGEST_MAP:
        doublings += 1
    side = -(-size // 2**doublings)
    seeds = iter(np.random.SeedSequence(seed).generate_state(doublings + 2).tolist())

    def make_initializer() -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=next(seeds))

    features = keras.Input((width,), name="features")
    x = keras.layers.Dense(side * side * WIDTH, "relu", kernel_initializer=make_initializer())(
        features
    )
    x = keras.layers.Reshape((side, side, WIDTH))(x)
    for number in range(1, doublings + 1):
        filters = max(MIN_WIDTH, WIDTH >> number)
        x = keras.layers.UpSampling2D(2)(x)
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", kernel_initializer=make_initializer()
        )(x)
    over = side * 2**doublings - size
    cropped = (over // 2, over - over // 2)
    x = keras.layers.Cropping2D((cropped, cropped))(x)
    x = keras.layers.Conv2D(
        channels, 3, padding="same", activation="sigmoid", kernel_initializer=make_initializer()
    )(x)
    return keras.Model(features, x, name="decoder")


def _squared_errors(images: tf.Tensor, rebuilt: tf.Tensor) -> tf.Tensor:
    """Return the mean squared error of each image, (batch,), for pixels from 0 to 1."""
    targets = tf.cast(images, tf.float32) / 255.0
    return tf.reduce_mean(tf.square(tf.cast(rebuilt, tf.float32) - targets), axis=(1, 2, 3))


def _evaluate(
    images: ImageSet, image_size: int, rebuild: Callable[[tf.Tensor], tf.Tensor]
) -> dict[str, float]:
    batches = pipeline.sequential_batches(images.images, IMAGES_PER_BATCH, image_size)
    errors = np.concatenate([_squared_errors(batch, rebuild(batch)) for batch in batches])
    error = float(np.mean(errors[: len(images.labels)], dtype=np.float64))
    return {"mean_squared_error": error, "loss": error}
