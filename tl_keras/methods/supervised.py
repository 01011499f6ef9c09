"""Supervised pretraining of all weights."""

from tl_keras.methods.interface import MethodInputs, MethodOutputs, prepare_supervised


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare training of all weights on the mean cross-entropy."""
    return prepare_supervised(run)
