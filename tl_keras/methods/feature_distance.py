"""The feature distance: the features are pulled to those of the source model."""

import tensorflow as tf

from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.penalty import PenaltyInputs, PenaltyTerm


def make(run: MethodInputs, strength: float) -> PenaltyTerm:
    """Return lambda times the mean over the batch of ||f(x; w) - f(x; w0)||^2 / d.

    f are the d features before the head, w0 the source's weights.
    """

    def value(inputs: PenaltyInputs) -> tf.Tensor:
        distances = inputs.inference_outputs["features"] - inputs.source["features"]
        return strength * tf.reduce_mean(tf.square(distances))

    return PenaltyTerm(value)
