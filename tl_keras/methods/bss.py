"""Batch spectral shrinkage: the smallest singular values of the features are pulled to zero."""

import tensorflow as tf

from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.penalty import PenaltyInputs, PenaltyTerm


def make(run: MethodInputs, eta: float, k: float) -> PenaltyTerm:
    """Return eta times the sum of the k smallest squared singular values of the batch's features.

    The matrix is (batch, d). With several replicas, the features of the whole batch are gathered.
    Chen et al., "Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe
    Transfer Learning", NeurIPS 2019.
    """

    def value(inputs: PenaltyInputs) -> tf.Tensor:
        features = tf.cast(inputs.outputs["features"], tf.float32)
        if run.strategy.num_replicas_in_sync > 1:
            context = tf.distribute.get_replica_context()
            features = context.all_gather(features, axis=0)
        smallest = tf.linalg.svd(features, compute_uv=False)[-int(k) :]
        return eta * tf.reduce_sum(tf.square(smallest))

    return PenaltyTerm(value)
