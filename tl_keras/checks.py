"""What settings may be, one by one and together. Light to import, as the command line is.

Options reads them from flags, and a Config can be made in Python; both are held to the same.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from tl_keras.config import Config, Option, Training, named_options
from tl_keras.data import augment_spec
from tl_keras.errors import UsageError
from tl_keras.hyperparameters import Pace
from tl_keras.methods import catalog as methods
from tl_keras.models import catalog as models

Number = int | float


def check(config: Config) -> None:
    """Raise UsageError where settings are out of bounds, contradict each other or do not exist."""
    _check_bounds(config)
    for prefix, training in (("", config.training), ("source_", config.source_training)):
        if training.augment != "auto":
            augment_spec.parse(training.augment, flag=f"{prefix}augment")
        if training.ema and training.swa:
            raise UsageError(
                f"--{prefix}ema={training.ema} and --{prefix}swa={training.swa} are two averages of"
                " the weights: give one of them"
            )
    models.find(config.model)
    if not config.target:
        raise UsageError("--target is empty: name a dataset, or folder:PATH")
    if not config.source:
        raise UsageError("--source is empty: name a dataset, imagenet, or none")
    method = methods.find(config.method)
    if method.needs_source and not _has_source(config):
        raise UsageError(
            f"--method={config.method} transfers from a source, and --source=none leaves none:"
            " name a source, or choose --method=scratch"
        )
    if method.source_images and config.source in ("imagenet", "none"):
        raise UsageError(
            f"--method={method.name} trains on the source's images too, and"
            f" --source={config.source} has none: name a dataset"
        )
    if method.name == "features" and config.trainable not in ("all", "head"):
        raise UsageError(
            f"--trainable={config.trainable}: --method=features trains a head on frozen features,"
            " and nothing else; leave --trainable out, or choose --method=finetune"
        )
    imagenet = config.source == "imagenet" and method.copies_weights and not config.source_weights
    if imagenet and models.find(config.model).function == "":
        raise UsageError(
            f"--source=imagenet: there are no ImageNet weights for --model={config.model};"
            " choose a model of keras.applications, such as mobilenet_v2_035 or resnet50"
        )
    _check_fine_tuning(config, method)
    if config.method == "features" and config.training.augment not in ("none", ""):
        raise UsageError(
            f"--augment={config.training.augment} changes the images each epoch, and"
            " --method=features computes their features once: leave --augment=none"
        )
    _check_pretraining(config)
    _check_validation(config)
    _check_running(config)


def _check_pretraining(config: Config) -> None:
    """Check what goes with the labels of the source's images, and what goes without them."""
    training, flag = config.source_training, f"--pretrain={config.pretrain}"
    if config.pretrain != "simclr" and config.temperature != Config().temperature:
        raise UsageError(
            f"--temperature={config.temperature} is that of --pretrain=simclr, and {flag} has none:"
            " choose simclr, or leave --temperature out"
        )
    if config.pretrain == "supervised":
        return
    for name, value in (("source_weights", config.source_weights), ("source", config.source)):
        if value and (name == "source_weights" or value in ("imagenet", "none")):
            raise UsageError(
                f"{flag} trains on the source's images, and --{name}={value} leaves nothing to"
                " pretrain: name a dataset as --source alone, or leave --pretrain out"
            )
    augmentation = augment_spec.Augmentation()
    if training.augment != "auto":
        augmentation = augment_spec.parse(training.augment, flag="source_augment")
    labelled: tuple[tuple[str, object], ...] = (
        ("early_stopping", training.early_stopping),
        ("schedule", "plateau" if training.schedule == "plateau" else ""),
        ("label_smoothing", training.label_smoothing),
        ("class_weights", training.class_weights if training.class_weights != "none" else ""),
        ("augment", training.augment if augmentation.mixes else ""),
    )
    for name, setting in labelled:
        if setting:
            raise UsageError(
                f"--source_{name}={setting} needs labels, and {flag} trains without them: leave it"
                " out, or choose --pretrain=supervised"
            )
    if config.pretrain == "simclr":
        _check_views(training, augmentation)


def _check_views(training: Training, augmentation: augment_spec.Augmentation) -> None:
    if training.augment != "auto" and augmentation.is_identity:
        raise UsageError(
            f"--source_augment={training.augment}: --pretrain=simclr compares two views of each"
            " image, and these would be the same: choose --source_augment=auto, or a list such as"
            " shift:0.15,rotate:0.05,zoom:0.25"
        )
    if training.batch_size == 1:
        raise UsageError(
            "--source_batch_size=1: --pretrain=simclr compares each image with the others of its"
            " batch, and there would be none: take 2 or more, such as 256"
        )


def _check_fine_tuning(config: Config, method: methods.Method) -> None:
    """Check what goes with fine-tuning only, and what it needs of the source."""
    unfreeze, _ = methods.unfreezing(config)
    tunes = method.fine_tunes or method.name == "joint"
    for name, wanted, fits in (
        ("penalty", config.penalty, method.fine_tunes),
        ("unfreeze", unfreeze if unfreeze != "none" else "", tunes),
        ("layer_lr_decay", config.layer_lr_decay if config.layer_lr_decay != 1 else "", tunes),
        ("head_lr_multiplier", config.head_lr_multiplier != 1 or "", tunes),
    ):
        if wanted and not fits:
            raise UsageError(
                f"--{name}={getattr(config, name)} goes with fine-tuning, and"
                f" --method={method.name} is none: choose --method=finetune, or leave it out"
            )
    for name in methods.penalties(config):
        row = methods.PENALTIES[name]
        if row.needs_source and not _has_source(config):
            raise UsageError(
                f"--penalty={name} measures from a source, and --source=none leaves none:"
                " name a source, or leave it out"
            )
        if row.needs_head and _headless(config):
            raise UsageError(
                f"{name} keeps what the source's head says, and {_headless(config)} brings no head:"
                " name a dataset with labels as --source, or leave it out"
            )
    if method.source_images and _headless(config):
        raise UsageError(
            f"--method={method.name} goes on with the source's head, and {_headless(config)}"
            " brings none: name a dataset with labels as --source"
        )


def _has_source(config: Config) -> bool:
    return config.source != "none" or bool(config.source_weights)


def _headless(config: Config) -> str:
    """Return the flag that leaves the source's weights without a head, or ''."""
    if config.source_weights:
        return ""
    if config.source == "imagenet":
        return "--source=imagenet"
    return f"--pretrain={config.pretrain}" if config.pretrain != "supervised" else ""


def _check_validation(config: Config) -> None:
    for prefix, training in (("", config.training), ("source_", config.source_training)):
        wants = needs_validation(training)
        if wants and config.validation == 0:
            raise UsageError(
                f"--{wants.format(prefix)} watches a validation set, and --validation=0 leaves"
                " none: give it a part of the training images, such as 0.1"
            )
    if config.shots == 1 and (wants := needs_validation(config.training)):
        raise UsageError(
            f"--{wants.format('')} watches a validation set, and --shots=1 leaves no image for it:"
            " take --shots=2 or more"
        )


def _check_running(config: Config) -> None:
    """Check what is said of files and of earlier runs."""
    try:
        Pace.parse(config.checkpoint_every)
    except ValueError as error:
        raise UsageError(f"--checkpoint_every={config.checkpoint_every} {error}") from None
    sha256 = config.source_weights_sha256
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError(
            f"--source_weights_sha256={sha256} is no sha256: it has 64 digits of 0 to 9 and a to f"
        )
    if sha256 and not config.source_weights:
        raise UsageError(
            f"--source_weights_sha256={sha256} is that of a file, and --source_weights names none"
        )
    known = config.experiment()
    unknown = [name for name in config.allowed_changes if name not in known]
    if unknown:
        raise UsageError(
            f"--allow_changed={config.allow_changed}: {unknown[0]} is no flag that makes another"
            " experiment; name such, without dashes and with commas, as in steps,learning_rate"
        )


def reads_source(config: Config) -> bool:
    """Return whether the source is a dataset that this experiment has to read."""
    images = not config.source_weights or methods.find(config.method).source_images
    return images and config.source not in ("none", "imagenet")


def needs_head(config: Config) -> str:
    """Return the name of the method or penalty that goes on with the source's head, or ''."""
    if methods.find(config.method).source_images:
        return config.method
    wanting = [name for name in methods.penalties(config) if methods.PENALTIES[name].needs_head]
    return wanting[0] if wanting else ""


def needs_validation(training: Training) -> str:
    """Return the flag that makes a validation set necessary ('{}' for its prefix), or ''."""
    if training.early_stopping:
        return f"{{}}early_stopping={training.early_stopping}"
    return "{}schedule=plateau" if training.schedule == "plateau" else ""


def _check_bounds(config: Config) -> None:
    """Hold a Config that was made in Python to what the flags are held to."""
    defaults = Config().flat()
    for name, option, value in named_options(config):
        try:
            _check_one(value, defaults[name], option)
        except ValueError as error:
            raise UsageError(one_line(f"--{name}={value} {error}")) from None


def _check_one(value: Any, default: Any, option: Option) -> None:
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a tuple of whole numbers")
        different([bounded(one, int, option) for one in value])
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
    elif isinstance(default, (int, float)):
        bounded(value, type(default), option)
    elif not option.choices:
        plain_text(value)
    elif value not in option.choices:
        raise ValueError(f"must be one of {', '.join(option.choices)}")


def plain_text(value: Any) -> str:
    """Return text of one line, as names and paths are, or raise ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    # No file has a name with a zero in it, and what breaks lines breaks errors and reports.
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError("must be one line, without control characters")
    # What follows a flag without a value is taken for its value: --workdir --steps=3.
    if value.startswith("--"):
        raise ValueError("begins as a flag does: is its own value missing?")
    return value


def bounded(value: Any, kind: type, option: Option) -> Number:
    """Return a number that is one of `kind` and within the option's bounds, or raise ValueError."""
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    low, high = option.low, option.high
    # Written so that nan, which compares false with everything, is refused.
    if not is_number or low is None or high is None or not low <= value <= high:
        name = "whole number" if kind is int else "number"
        raise ValueError(f"must be a {name}{range_of(option)} ({option.help})")
    return value


def different(seeds: Sequence[Number]) -> tuple[Number, ...]:
    """Return seeds of which there is at least one, and each once, or raise ValueError."""
    if len(set(seeds)) != len(seeds):
        raise ValueError("names a seed twice; each pair of runs needs a seed of its own")
    if not seeds:
        raise ValueError("names no seed; each pair of runs needs one")
    return tuple(seeds)


def range_of(option: Option) -> str:
    """Return the option's bounds in words, after a blank, or ''."""
    if option.low is None or option.high is None:
        return ""
    return f" from {_number(option.low)} to {_number(option.high)}"


def _number(bound: float) -> str:
    """Return a bound in full where it is a whole number: seeds end at 2147483647, not 2.1e+09."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def one_line(error: BaseException | str) -> str:
    """Return a message without line breaks and without its full stop."""
    return " ".join(str(error).split()).rstrip(".")
