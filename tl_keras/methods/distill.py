"""Learning without forgetting: the source head keeps the predictions of the source model."""

import tensorflow as tf

from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.penalty import PenaltyInputs, PenaltyTerm


def make(run: MethodInputs, strength: float, temperature: float) -> PenaltyTerm:
    """Return lambda T^2 KL(softmax(z0 / T) || softmax(z / T)), the mean over the batch.

    z are the logits of the source's head on the model's features, z0 those of the source model. A
    copy of the source's head trains with the model. Li and Hoiem, "Learning without
    Forgetting", ECCV 2016, arXiv 1606.09282, with the T^2 of Hinton et al., arXiv 1503.02531.
    """
    head, at_source = run.source_head(), run.source_head()

    def value(inputs: PenaltyInputs) -> tf.Tensor:
        targets = tf.nn.log_softmax(at_source(inputs.source["features"]) / temperature)
        log_p = tf.nn.log_softmax(head(inputs.inference_outputs["features"]) / temperature)
        divergence = tf.reduce_sum(tf.exp(targets) * (targets - log_p), axis=-1)
        return strength * temperature**2 * tf.reduce_mean(divergence)

    return PenaltyTerm(value, head.trainable_variables)
