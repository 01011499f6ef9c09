"""Fine-tuning: training starts from the source's weights.

Penalties (`--penalty`), stages (`--unfreeze`) and learning rates per layer group
(`--layer_lr_decay`) can be combined freely.
"""

import dataclasses
from collections.abc import Callable, Sequence

import keras

from tl_keras.methods import catalog, unfreezing
from tl_keras.methods.frozen_part import use_frozen_part
from tl_keras.methods.interface import (
    MethodInputs,
    MethodOutputs,
    make_cross_entropy_objective,
    prepare_supervised,
)
from tl_keras.methods.penalty import add_penalties
from tl_keras.models.building import set_trainable, train_only
from tl_keras.training.task import ObjectiveFunction, ObjectiveOf, Stage, Task


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare fine-tuning. Layers that `--trainable` does not name keep the source's weights.

    Raises:
        UsageError: `--trainable` names no layer of this model, or leaves no layer to unfreeze.
    """
    set_trainable(run.model, run.config.trainable)
    added = add_penalties(run)

    def objective_of(model: keras.Model) -> ObjectiveFunction:
        return make_cross_entropy_objective(model, run.cross_entropy, added.terms)

    outputs = prepare_supervised(run, views=run.config.cached_views)
    task = dataclasses.replace(outputs.task, objective=objective_of(added.model))
    task = add_stages(run, task, objective_of, added.variables)
    return dataclasses.replace(outputs, task=task)


def add_stages(
    run: MethodInputs,
    task: Task,
    objective_of: ObjectiveOf,
    variables: Sequence[keras.Variable],
) -> Task:
    """Return the task with the stages and learning-rate multipliers of the flags.

    Args:
        run: the inputs of the method; the layers of its model are already set to trainable or not.
        task: the task without stages.
        objective_of: returns the objective for a model.
        variables: variables besides the model's; they have the multiplier of the head.

    Raises:
        UsageError: `--trainable` leaves no layer to unfreeze.
    """
    config, model = run.config, run.model
    multipliers = unfreezing.get_lr_multipliers(model, config)
    if multipliers:
        multipliers += [config.head_lr_multiplier] * len(variables)
    task = dataclasses.replace(
        task, variables=[*model.trainable_variables, *variables], multipliers=multipliers
    )
    # Penalties that compare with the source model need the images, not cached features.
    compares = any(catalog.PENALTIES[name].compares for name in catalog.get_penalties(config))

    def make_enter(names: Sequence[str], share: float) -> Callable[[], Task]:
        def enter() -> Task:
            train_only(model, names)
            return task if compares else use_frozen_part(run, task, objective_of, share)

        return enter

    plans = unfreezing.plan_stages(model, config)
    ends = [*(plan.start for plan in plans[1:]), 1.0]
    stages = [
        Stage(plan.start, make_enter(plan.names, end - plan.start))
        for plan, end in zip(plans, ends, strict=True)
    ]
    return dataclasses.replace(task, stages=stages)
