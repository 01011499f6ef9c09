"""The settings of one training; source, target and scratch each have their own."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

from tl_keras.config import augmentation
from tl_keras.config.augmentation import Augmentation
from tl_keras.config.options import Option, option, parse_fields, parse_value
from tl_keras.config.tfds import SELECTIONS, TfdsSelection, selection_options

TARGET_TRAINING = "Training on the target"
SOURCE_TRAINING = "Training on the source (the same flags with the prefix --source_)"
SCRATCH_TRAINING = (
    "Training from scratch (the same flags with the prefix --scratch_; default: as on the target)"
)

SOURCE_PREFIX, SCRATCH_PREFIX = "source_", "scratch_"

# The fields of Config of type Training, with the prefix and the group of their flags.
TRAININGS = {
    "training": ("", TARGET_TRAINING),
    "source_training": (SOURCE_PREFIX, SOURCE_TRAINING),
    "scratch_training": (SCRATCH_PREFIX, SCRATCH_TRAINING),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """The settings of one training, such as `--epochs` (target) or `--source_epochs` (source)."""

    epochs: float = option(
        5.0, "passes over the training images; 0: no training", unit="epochs", low=0, high=1e6
    )
    steps: int = option(
        0, "training steps, instead of --epochs; 0: use --epochs", unit="steps", low=0, high=1e9
    )
    min_steps: int = option(
        300,
        "lower limit of the steps that --epochs gives: 5 epochs of 50 images would be 5 steps",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    batch_size: int = option(
        128, "images per step over all devices, at most the number of training images",
        unit="images", low=1, high=65536,
    )  # fmt: skip
    optimizer: str = option("adam", "the optimizer", choices=("adam", "adamw", "sgd"))
    learning_rate: float = option(0.001, "learning rate after the warm-up", low=1e-12, high=1e3)
    momentum: float = option(0.9, "momentum of sgd", low=0, high=0.9999, rare=True)
    weight_decay: float = option(
        0.0,
        "decoupled weight decay of kernels per step, multiplied by the learning rate",
        low=0,
        high=1e3,
        rare=True,
    )
    schedule: str = option(
        "constant",
        "decay of the learning rate; plateau follows the validation loss",
        choices=("constant", "cosine", "exponential", "step", "plateau"),
    )
    decay_rate: float = option(
        0.1,
        "factor of the learning rate for exponential, step and plateau",
        low=1e-9,
        high=1,
        rare=True,
    )
    decay_steps: int = option(
        0,
        "steps per multiplication by --decay_rate; 0: the whole run (exponential), a third (step)",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    plateau_patience: int = option(
        2,
        "validations without improvement before plateau decays the learning rate",
        unit="validations",
        low=1,
        high=1e6,
        rare=True,
    )
    warmup_steps: int = option(
        0,
        "steps of a linear rise of the learning rate at the start",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    clip_norm: float = option(
        0.0,
        "largest global norm of the gradients; 0: no clipping",
        low=0,
        high=1e9,
        rare=True,
    )
    label_smoothing: float = option(
        0.0,
        "fraction of the target probability that is spread evenly over all classes",
        low=0,
        high=0.99,
        rare=True,
    )
    class_weights: str = option(
        "none",
        "class weights in the loss: balanced (images / classes / images of the class), sqrt (its"
        " square root, scaled to a mean of 1 over the training images), or none",
        choices=("none", "balanced", "sqrt"),
        rare=True,
    )
    ema: float = option(
        0.0,
        "decay per step of a moving average of the weights, which is validated, tested and saved;"
        " 0: none. It spans 1 / (1 - decay) steps, which should be a small fraction of the run",
        low=0,
        high=0.99999,
        rare=True,
    )
    swa: float = option(
        0.0,
        "fraction of the run at its end over which the weights are averaged equally; 0: none. The"
        " default of --source_swa is 0.25 without --source_ema",
        low=0,
        high=1,
        rare=True,
    )
    early_stopping: int = option(
        0,
        "stop after this many validations without improvement and keep the best weights; 0: off",
        unit="validations",
        low=0,
        high=1e6,
    )
    eval_steps: int = option(
        0,
        "steps between validations; 0: once per epoch, at most 20 in a run",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    batch_norm: str = option(
        "auto",
        "statistics of BatchNormalization in the final model. recomputed: those of the final"
        " weights over training images; moving: the moving averages; frozen: the source's, in"
        " training too (recomputed in the scratch arm); auto: frozen for networks of"
        " keras.applications, else recomputed",
        choices=("auto", "recomputed", "moving", "frozen"),
        rare=True,
    )
    augment: Augmentation | None = option(
        "none",
        "none, auto (the default of the dataset), or a list such as"
        " shift:0.08,rotate:0.04,zoom:0.12,flip,crop:4,color:0.2,randaugment:2,mixup:0.2,cutmix:1"
        " (shift and zoom: fractions of the side; rotate: turns; crop: pixels; color: fraction of"
        " the range; randaugment: operations; mixup, cutmix: A of the weights Beta(A, A) by which"
        " two images and their labels are mixed)",
        parse=augmentation.parse_flag,
        show=augmentation.format_flag,
    )

    def __post_init__(self) -> None:
        """Parse the fields that are given as text.

        Raises:
            UsageError: a text cannot be parsed.
        """
        parse_fields(self)


def named_options(config: Any) -> Iterator[tuple[str, Option, Any]]:
    """Yield (flag name, option, value) for every setting, in the order of `--help`.

    Settings of a base class come after those of the class itself.

    The value of a --scratch_ flag is None if it inherits the target's.

    Args:
        config: a Config, or another dataclass of options.
    """
    own = inspect.get_annotations(type(config))
    for field in sorted(dataclasses.fields(config), key=lambda field: field.name not in own):
        value = getattr(config, field.name)
        if field.name in TRAININGS:
            yield from _training_options(*TRAININGS[field.name], value)
        elif field.name in SELECTIONS:
            yield from selection_options(field.name, value)
        else:
            yield field.name, field.metadata["option"], value


def _training_options(
    prefix: str, group: str, training: Training | None
) -> Iterator[tuple[str, Option, Any]]:
    for field in dataclasses.fields(Training):
        named = field.metadata["option"]._replace(group=group)
        yield prefix + field.name, named, getattr(training, field.name) if training else None


Settings = TypeVar("Settings", Training, TfdsSelection)


def override(settings: Settings, prefix: str, values: dict[str, Any]) -> Settings:
    """Return `settings` with those of `values` whose names begin with `prefix`.

    Raises:
        UsageError: a text cannot be parsed.
    """
    given = {
        field.name: parse_value(prefix + field.name, values[prefix + field.name], spec)
        for field in dataclasses.fields(settings)
        if (spec := field.metadata["option"]) and prefix + field.name in values
    }
    return dataclasses.replace(settings, **given)
