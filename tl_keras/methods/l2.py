"""The L2 penalty: kernels are pulled to zero."""

import tensorflow as tf

from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.penalty import PenaltyTerm


def make(run: MethodInputs, alpha: float) -> PenaltyTerm:
    """Return (alpha/2) ||w||^2 over all trainable kernels, including the head's.

    Unlike --weight_decay it is part of the loss, so Adam scales it with the gradient.
    """
    kernels = [v for v in run.model.trainable_variables if "kernel" in v.name]
    return PenaltyTerm(lambda inputs: alpha * tf.add_n([tf.nn.l2_loss(v.value) for v in kernels]))
