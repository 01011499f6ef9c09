"""The feature distance R(f^; f): what the model computes stays near what the source computed."""

import tensorflow as tf

from tl_keras.methods.penalty import Term, Watched
from tl_keras.methods.setting import Setting


def make(setting: Setting, strength: float) -> Term:
    """Return lambda times the mean over the batch of ||f(x; w) - f(x; w0)||^2 / d.

    f are the d features before the head, w0 the source's weights.
    """

    def value(watched: Watched) -> tf.Tensor:
        distances = watched.now["features"] - watched.source["features"]
        return strength * tf.reduce_mean(tf.square(distances))

    return Term(value)
