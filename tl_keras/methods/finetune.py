"""Parameter transfer: the source's weights are the start, and the flags say what may move.

Penalties on the way (`--penalty`), stages of what trains (`--unfreeze`) and the speed of each layer
group (`--layer_lr_decay`) go together as one likes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras

from tl_keras.methods import catalog, unfreezing
from tl_keras.methods.frozen_part import shortened
from tl_keras.methods.interface import MethodInputs, MethodOutputs, cross_entropy_of, supervised
from tl_keras.methods.penalty import add_penalties
from tl_keras.models.building import set_trainable, train_only
from tl_keras.training.task import ObjectiveFunction, ObjectiveOf, Stage, Task


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare fine-tuning; what `--trainable` does not name stays as the source left it.

    Raises:
        UsageError: `--trainable` names no layer of this model, or leaves nothing to thaw.
    """
    set_trainable(run.model, run.config.trainable)
    added = add_penalties(run)

    def objective_of(model: keras.Model) -> ObjectiveFunction:
        return cross_entropy_of(model, run.cross_entropy, added.terms)

    prepared = supervised(run, views=run.config.cached_views)
    task = dataclasses.replace(prepared.task, objective=objective_of(added.model))
    task = in_stages(run, task, objective_of, added.variables)
    return dataclasses.replace(prepared, task=task)


def in_stages(
    run: MethodInputs,
    task: Task,
    objective_of: ObjectiveOf,
    variables: Sequence[keras.Variable],
) -> Task:
    """Return the task in the stages, and at the speeds, that the flags ask for.

    Args:
        run: of the run, in whose model what may train is chosen.
        task: of all stages.
        objective_of: gives its objective.
        variables: what trains besides the model, as fast as the head.

    Raises:
        UsageError: `--trainable` leaves nothing to thaw.
    """
    config, model = run.config, run.model
    speeds = unfreezing.multipliers(model, config)
    if speeds:
        speeds += [config.head_lr_multiplier] * len(variables)
    task = dataclasses.replace(
        task, variables=[*model.trainable_variables, *variables], multipliers=speeds
    )
    # What the source model makes of an image is asked for together with what this one does.
    compares = any(catalog.PENALTIES[name].compares for name in catalog.penalties(config))

    def entering(names: Sequence[str], share: float) -> Callable[[], Task]:
        def enter() -> Task:
            train_only(model, names)
            return task if compares else shortened(run, task, objective_of, share)

        return enter

    parts = unfreezing.parts(model, config)
    ends = [*(part.start for part in parts[1:]), 1.0]
    stages = [
        Stage(part.start, entering(part.names, end - part.start))
        for part, end in zip(parts, ends, strict=True)
    ]
    return dataclasses.replace(task, stages=stages)
