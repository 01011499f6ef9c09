"""Training of all weights with labels, from fresh ones: how a source learns."""

from tl_keras.methods.interface import MethodInputs, MethodOutputs, prepare_supervised


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare the mean cross-entropy, of what is trainable in the setting's model."""
    return prepare_supervised(run)
