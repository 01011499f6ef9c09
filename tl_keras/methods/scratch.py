"""Structure transfer: the source's architecture with fresh weights. The arm to compare with."""

import dataclasses

from tl_keras.methods.penalty import added_to
from tl_keras.methods.setting import Prepared, Setting, cross_entropy_of, supervised


def prepare(setting: Setting) -> Prepared:
    """Prepare training of all weights, from fresh ones.

    Both arms have the penalties that need no source, such as `l2`. A penalty in one arm alone would
    count as a gain of the transfer.
    """
    prepared, added = supervised(setting), added_to(setting, from_scratch=True)
    objective = cross_entropy_of(added.model, setting.cross_entropy, added.terms)
    variables = [*prepared.task.variables, *added.variables]
    task = dataclasses.replace(prepared.task, objective=objective, variables=variables)
    return dataclasses.replace(prepared, task=task)
