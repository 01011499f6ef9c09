"""The L2-SP penalty: the body is pulled to the source's weights."""

import tensorflow as tf

from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.penalty import PenaltyTerm
from tl_keras.models.building import named_weights
from tl_keras.models.weights import HEAD


def make(run: MethodInputs, alpha: float, beta: float) -> PenaltyTerm:
    """Return (alpha/2) ||w_body - w0_body||^2 + (beta/2) ||w_head||^2, over all trainable weights.

    w0 are the source's weights. Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer
    Learning with Convolutional Networks", ICML 2018, arXiv 1802.01483.
    """
    source_tensors = run.source.tensors
    trainable = {n: v for n, v in named_weights(run.model).items() if v.trainable}
    body = [
        (v, tf.constant(source_tensors[n])) for n, v in trainable.items() if not n.startswith(HEAD)
    ]
    head = [v for n, v in trainable.items() if n.startswith(HEAD)]

    def value(inputs: object) -> tf.Tensor:
        pulls = [alpha * tf.nn.l2_loss(v.value - w0) for v, w0 in body]
        return tf.add_n(pulls + [beta * tf.nn.l2_loss(v.value) for v in head])

    return PenaltyTerm(value)
