"""Training from scratch: the same architecture with initial weights. It is the baseline."""

import dataclasses

from tl_keras.methods.interface import (
    MethodInputs,
    MethodOutputs,
    make_cross_entropy_objective,
    prepare_supervised,
)
from tl_keras.methods.penalty import add_penalties


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare training of all weights from their initial values.

    Both arms have the penalties that need no source, such as `l2`. A penalty in only one arm would
    be measured as a gain of transfer.
    """
    outputs, added = prepare_supervised(run), add_penalties(run, from_scratch=True)
    objective = make_cross_entropy_objective(added.model, run.cross_entropy, added.terms)
    variables = [*outputs.task.variables, *added.variables]
    task = dataclasses.replace(outputs.task, objective=objective, variables=variables)
    return dataclasses.replace(outputs, task=task)
