"""How one model is trained: what the source, the target and scratch have each of their own."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from tl_keras.config import augmentation
from tl_keras.config.augmentation import Augmentation
from tl_keras.config.options import Option, option, parse_fields, parse_value

TARGET_TRAINING = "Training on the target"
SOURCE_TRAINING = "Training on the source (the same, with --source_ before the name)"
SCRATCH_TRAINING = (
    "Training from scratch (the same, with --scratch_ before the name; default: as on the target)"
)

SOURCE_PREFIX, SCRATCH_PREFIX = "source_", "scratch_"

# The fields of Config that are trainings: what stands before their flags' names, and their group.
TRAININGS = {
    "training": ("", TARGET_TRAINING),
    "source_training": (SOURCE_PREFIX, SOURCE_TRAINING),
    "scratch_training": (SCRATCH_PREFIX, SCRATCH_TRAINING),
}


@dataclasses.dataclass(frozen=True)
class Training:
    """How one model is trained: on the target (`--epochs`) or the source (`--source_epochs`)."""

    epochs: float = option(
        5.0, "passes over the training images; 0 trains nothing", unit="epochs", low=0, high=1e6
    )
    steps: int = option(
        0, "steps to train, instead of --epochs; 0 leaves it to them", unit="steps", low=0, high=1e9
    )
    min_steps: int = option(
        300,
        "train no fewer than this where --epochs would: 5 epochs of 50 images are 5 steps",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    batch_size: int = option(
        128, "images a step, over all devices; never more than there are", unit="images", low=1,
        high=65536,
    )  # fmt: skip
    optimizer: str = option("adam", "the optimizer", choices=("adam", "adamw", "sgd"))
    learning_rate: float = option(0.001, "learning rate after the warm-up", low=1e-12, high=1e3)
    momentum: float = option(0.9, "momentum of sgd", low=0, high=0.9999, rare=True)
    weight_decay: float = option(
        0.0,
        "decoupled weight decay a step, times the learning rate; kernels only",
        low=0,
        high=1e3,
        rare=True,
    )
    schedule: str = option(
        "constant",
        "how the learning rate falls; plateau watches the validation loss",
        choices=("constant", "cosine", "exponential", "step", "plateau"),
    )
    decay_rate: float = option(
        0.1,
        "what exponential, step and plateau multiply the learning rate with",
        low=1e-9,
        high=1,
        rare=True,
    )
    decay_steps: int = option(
        0,
        "steps for one such multiplication; 0: the whole run (exponential), a third of it (step)",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    plateau_patience: int = option(
        2,
        "validations without progress before plateau decays",
        unit="validations",
        low=1,
        high=1e6,
        rare=True,
    )
    warmup_steps: int = option(
        0,
        "steps over which the learning rate rises linearly",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    clip_norm: float = option(
        0.0,
        "largest norm of all gradients together; 0 clips nothing",
        low=0,
        high=1e9,
        rare=True,
    )
    label_smoothing: float = option(
        0.0,
        "part of the wanted probability that goes evenly to all classes",
        low=0,
        high=0.99,
        rare=True,
    )
    class_weights: str = option(
        "none",
        "weight of a class in the loss: balanced (images / classes / the class's own images), sqrt"
        " (its square root, scaled so that its mean over the training images is 1), or none",
        choices=("none", "balanced", "sqrt"),
        rare=True,
    )
    ema: float = option(
        0.0,
        "decay a step of a moving average of the weights, which validates and is kept; 0 for none."
        " It reaches back 1 / (1 - decay) steps, which should be a small part of the run",
        low=0,
        high=0.99999,
        rare=True,
    )
    swa: float = option(
        0.0,
        "part of the run, from its end, over which the weights are averaged, as --ema does; 0 for"
        " none. --source_swa is 0.25 where there is no --source_ema",
        low=0,
        high=1,
        rare=True,
    )
    early_stopping: int = option(
        0,
        "stop after this many validations without progress, and keep the best weights; 0 never",
        unit="validations",
        low=0,
        high=1e6,
    )
    eval_steps: int = option(
        0,
        "steps between validations; 0: once an epoch, at most 20 times",
        unit="steps",
        low=0,
        high=1e9,
        rare=True,
    )
    batch_norm: str = option(
        "auto",
        "by which statistics BatchNormalization goes in the final model. recomputed: those of the"
        " final weights, over training images; moving: the moving averages of the last steps;"
        " frozen: the source's own, which also normalise in training, and in the scratch arm"
        " recomputed; auto: frozen for networks of keras.applications, else recomputed",
        choices=("auto", "recomputed", "moving", "frozen"),
        rare=True,
    )
    augment: Augmentation | None = option(
        "none",
        "none, auto (the dataset's own default), or a list such as"
        " shift:0.08,rotate:0.04,zoom:0.12,flip,crop:4,color:0.2,randaugment:2,mixup:0.2,cutmix:1"
        " (shift and zoom in parts of the side, rotate in turns, crop in pixels, color in parts of"
        " the range, randaugment in operations; mixup and cutmix mix two pictures and their labels,"
        " by a weight of Beta(A, A) for the value A)",
        parse=augmentation.parse_flag,
        show=augmentation.format_flag,
    )

    def __post_init__(self) -> None:
        """Parse what was given as text.

        Raises:
            UsageError: it cannot be read.
        """
        parse_fields(self)


def named_options(config: Any) -> Iterator[tuple[str, Option, Any]]:
    """Yield (flag name, option, value) for every setting, in the order of `--help`.

    The value is None where scratch is trained as the target is.

    Args:
        config: a Config, or another dataclass of options.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in TRAININGS:
            yield from _training_options(*TRAININGS[field.name], value)
        else:
            yield field.name, field.metadata["option"], value


def _training_options(
    prefix: str, group: str, training: Training | None
) -> Iterator[tuple[str, Option, Any]]:
    for field in dataclasses.fields(Training):
        named = field.metadata["option"]._replace(group=group)
        yield prefix + field.name, named, getattr(training, field.name) if training else None


def override(training: Training, prefix: str, values: dict[str, Any]) -> Training:
    """Return `training` with the settings that `values` has under `prefix`.

    Raises:
        UsageError: text cannot be read.
    """
    given = {
        field.name: parse_value(prefix + field.name, values[prefix + field.name], spec)
        for field in dataclasses.fields(Training)
        if (spec := field.metadata["option"]) and prefix + field.name in values
    }
    return dataclasses.replace(training, **given)
