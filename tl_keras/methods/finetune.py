"""Parameter transfer: the source's weights are the start, and `--trainable` says what may move."""

from tl_keras.methods.setting import Prepared, Setting, supervised
from tl_keras.models.building import set_trainable


def prepare(setting: Setting) -> Prepared:
    """Prepare fine-tuning; what `--trainable` does not name stays as the source left it.

    Raises:
        UsageError: `--trainable` names no layer of this model.
    """
    set_trainable(setting.model, setting.config.trainable)
    return supervised(setting)
