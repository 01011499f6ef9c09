"""Parameter transfer: the source's weights are the start, and the flags say what may move.

Penalties on the way (`--penalty`), stages of what trains (`--unfreeze`) and the speed of each layer
group (`--layer_lr_decay`) go together as one likes.
"""

import dataclasses

from tl_keras.methods import unfreezing
from tl_keras.methods.penalty import added_to
from tl_keras.methods.setting import Prepared, Setting, supervised
from tl_keras.models.building import set_trainable


def prepare(setting: Setting) -> Prepared:
    """Prepare fine-tuning; what `--trainable` does not name stays as the source left it.

    Raises:
        UsageError: `--trainable` names no layer of this model, or leaves nothing to thaw.
    """
    config, model = setting.config, setting.model
    set_trainable(model, config.trainable)
    added = added_to(setting)
    prepared = supervised(setting, added.model, added.terms)
    variables = [*model.trainable_variables, *added.variables]
    speeds = unfreezing.multipliers(model, config)
    if speeds:
        speeds += [config.head_lr_multiplier] * len(added.variables)
    task = dataclasses.replace(
        prepared.task,
        variables=variables,
        stages=unfreezing.stages(model, config),
        multipliers=speeds,
    )
    return dataclasses.replace(prepared, task=task)
