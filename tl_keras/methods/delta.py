"""DELTA: feature maps are pulled to the source's, weighted by each channel's importance."""

from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tl_keras.data.pipeline import sequential_batches
from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.penalty import PenaltyInputs, PenaltyTerm
from tl_keras.models.feature_maps import with_feature_maps

# Labelled images on which channel importance is measured, with one forward pass per channel.
IMAGES = 32


def make(run: MethodInputs, alpha: float) -> PenaltyTerm:
    """Return alpha times the sum over maps j and channels c of W_jc (C / HW) 1/2 ||FM - FM0||^2.

    FM are the (height H, width W, channels C) feature maps FM_jc(x; w), FM0 those of the source's
    weights. j runs over the last map of each layer group. W_j is the softmax over the channels of
    the rise of the loss on target images when the channel is set to zero. The mean is taken over
    the batch, so alpha does not depend on the batch size. The authors' 0.01 is for the sum over
    batches of 64, which is about 0.6 here. Li et al., "DELTA: Deep Learning
    Transfer using Feature Map with Attention", ICLR 2019, arXiv 1901.09229.
    """
    rises = measure_loss_rises(run)
    channel_weights = {
        name: tf.constant(_softmax(rise), tf.float32) for name, rise in rises.items()
    }

    def value(inputs: PenaltyInputs) -> tf.Tensor:
        return alpha * compute_distance(
            channel_weights, inputs.inference_outputs["maps"], inputs.source["maps"]
        )

    return PenaltyTerm(value)


def compute_distance(
    channel_weights: Mapping[str, tf.Tensor],
    now: Mapping[str, tf.Tensor],
    source: Mapping[str, tf.Tensor],
) -> tf.Tensor:
    """Return the penalty for alpha = 1, () float32.

    Args:
        channel_weights: W_j of each map, (channels,).
        now: FM, (batch, height, width, channels).
        source: FM0, the same.
    """
    sums = []
    for name, weights in channel_weights.items():
        height, width, channels = now[name].shape[1:]
        changes = tf.cast(now[name], tf.float32) - tf.cast(source[name], tf.float32)
        squares = tf.reduce_sum(tf.square(changes), axis=[1, 2])
        sums.append(
            0.5 * channels / (height * width) * tf.reduce_mean(tf.linalg.matvec(squares, weights))
        )
    return tf.add_n(sums)


def measure_loss_rises(run: MethodInputs) -> dict[str, np.ndarray]:
    """Return the rise of the loss when a channel is set to zero, (channels,) for each map.

    The loss is that of a logistic regression on the source's features, trained and evaluated on the
    same few labelled target images. The model's own head may be untrained at this point.
    """
    generator = np.random.default_rng(run.seed_for("delta"))
    chosen = generator.permutation(run.split.train)[:IMAGES]
    images, labels = run.images.images[chosen], run.images.labels[chosen]
    # Before training, the model has the source's weights.
    source = with_feature_maps(run.model)
    batch = next(iter(sequential_batches(images, len(images), run.image_size)))
    outputs = source(batch, training=False)
    features = np.asarray(outputs["features"], np.float64)
    if len(set(labels.tolist())) < 2:
        return {n: np.zeros(maps.shape[-1]) for n, maps in outputs["maps"].items()}
    head = LogisticRegression(max_iter=1000).fit(features, labels)

    def loss_of(features: tf.Tensor) -> float:
        return log_loss(labels, head.predict_proba(np.asarray(features, np.float64)))

    before = loss_of(features)
    rises = {}
    for name, maps in outputs["maps"].items():
        rest = keras.Model(source.output["maps"][name], source.output["features"])
        compute = tf.function(lambda channel, rest=rest, maps=maps: rest(
            maps * (1 - tf.one_hot(channel, maps.shape[-1], dtype=maps.dtype)), training=False
        ), autograph=False)  # fmt: skip
        rises[name] = np.array(
            [loss_of(compute(tf.constant(c))) - before for c in range(maps.shape[-1])]
        )
    return rises


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()
