"""Unfreezing schedules, and learning-rate multipliers of layer groups."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import keras

from tl_keras.config import Config
from tl_keras.errors import UsageError
from tl_keras.methods import catalog
from tl_keras.models import building, groups
from tl_keras.models import catalog as models
from tl_keras.models.building import HEAD, named_weights

# The factor of the updates of the body for networks of keras.applications. It was chosen on
# validation images; see experiments/defaults.md.
PRETRAINED_BODY = 0.1


class StagePlan(NamedTuple):
    """A stage of a run in which the same layers train.

    Attributes:
        start: the fraction of all steps after which it begins, 0 to below 1.
        names: the body's layers that train; the head always trains.
    """

    start: float
    names: Sequence[str]


def plan_stages(model: keras.Model, config: Config) -> list[StagePlan]:
    """Return the stages of the unfreezing schedule; one if all layers train from the start.

    "lp_ft" first trains the head on the frozen body, then all layers
    (Kumar et al., "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-
    Distribution", ICLR 2022, arXiv 2202.10054). "gradual" also begins with the head, and
    unfreezes one more layer group in each stage, the last first (Howard and Ruder, "Universal
    Language Model Fine-tuning for Text Classification", ACL 2018, arXiv 1801.06146).

    Each stage begins with a reset optimizer: its moments and step count are zero. The learning rate
    follows the schedule of the whole run.

    Args:
        model: the model, with trainable layers set by --trainable.
        config: the flags.

    Raises:
        UsageError: --trainable leaves no layer to unfreeze, or --unfreeze names too many stages.
    """
    kind, lengths = catalog.get_unfreezing(config)
    body = building.named_body(model)
    if kind == "none":
        return [StagePlan(0.0, [name for name, layer in body.items() if layer.trainable])]
    chosen = [[n for n in group if body[n].trainable] for group in groups.find_groups(model)]
    later = [group for group in chosen if group]
    if not later:
        raise UsageError(
            f"--trainable={config.trainable} leaves no layer for --unfreeze={kind}. Choose"
            " --trainable=all, or --method=finetune with --unfreeze=none"
        )
    counts = [0, len(later)] if kind == "lp_ft" else range(len(later) + 1)
    stages = [list(itertools.chain(*later[len(later) - count :])) for count in counts]
    if len(lengths) > len(stages) - 1:
        raise UsageError(
            f"--unfreeze={config.unfreeze} gives {len(lengths)} stage lengths, and the model has"
            f" {len(stages) - 1} stages before the last. Give at most {len(stages) - 1}"
        )
    starts = _compute_starts(lengths, len(stages))
    return [StagePlan(start, names) for start, names in zip(starts, stages, strict=True)]


def _compute_starts(lengths: tuple[float, ...], count: int) -> list[float]:
    """Return the start of each stage; stages without a length share the rest evenly."""
    even = (1.0 - sum(lengths)) / (count - len(lengths))
    every = [*lengths, *[even] * (count - len(lengths))]
    return [sum(every[:number]) for number in range(count)]


def get_lr_multipliers(model: keras.Model, config: Config) -> list[float]:
    """Return the factor of the updates of each trainable variable of the model.

    It is --head_lr_multiplier for the head, and --body_lr_multiplier times --layer_lr_decay to the
    power of n for the n-th layer group below it. The list is empty if all factors are 1.
    """
    body = config.body_lr_multiplier
    if body is None:
        body = PRETRAINED_BODY if models.find(config.model).function else 1.0
    if body == config.layer_lr_decay == config.head_lr_multiplier == 1:
        return []
    distance = groups.steps_from_head(model)
    owner = {id(v): name.rpartition("/")[0] for name, v in named_weights(model).items()}
    layers = [owner[id(variable)] for variable in model.trainable_variables]
    return [
        config.head_lr_multiplier if n == HEAD else body * config.layer_lr_decay ** distance[n]
        for n in layers
    ]
