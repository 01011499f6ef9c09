"""Training of all weights with labels, from fresh ones: how a source learns."""

from tl_keras.methods.setting import Prepared, Setting, supervised


def prepare(setting: Setting) -> Prepared:
    """Prepare the mean cross-entropy, of what is trainable in the setting's model."""
    return supervised(setting)
