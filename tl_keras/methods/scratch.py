"""Structure transfer: the source's architecture with fresh weights. The arm to compare with."""

from tl_keras.methods.setting import Prepared, Setting, supervised


def prepare(setting: Setting) -> Prepared:
    """Prepare training of all weights, from fresh ones."""
    return supervised(setting)
