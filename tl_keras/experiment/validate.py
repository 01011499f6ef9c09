"""What settings may be together. Light to import, as the command line is."""

import re

from tl_keras.config import PAIRED, Config, Training, bounds
from tl_keras.config.pace import Pace
from tl_keras.config.training import SOURCE_PREFIX
from tl_keras.data import augment_spec
from tl_keras.errors import UsageError
from tl_keras.methods import catalog as methods
from tl_keras.models import catalog as models
from tl_keras.models import preprocessing


def check(config: Config) -> None:
    """Raise UsageError where settings are out of bounds, contradict each other or do not exist."""
    bounds.check(config)
    for prefix, training in config.trainings.items():
        if training.augment != "auto":
            augment_spec.parse(training.augment, flag=f"{prefix}augment")
        if training.ema and training.swa:
            raise UsageError(
                f"--{prefix}ema={training.ema} and --{prefix}swa={training.swa} are two averages of"
                " the weights: give one of them"
            )
        if training.optimizer == "adamw" and not training.weight_decay:
            raise UsageError(
                f"--{prefix}optimizer=adamw with --{prefix}weight_decay=0 is adam: give"
                f" --{prefix}weight_decay, such as 0.01, or choose --{prefix}optimizer=adam"
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
    _check_source(config)
    _check_fine_tuning(config, method)
    _check_cached_views(config)
    _check_pretraining(config)
    _check_validation(config)
    _check_running(config)


def _check_source(config: Config) -> None:
    """Check what is said of the pretraining."""
    given = ("source_weights", config.source_weights)
    name, value = given if config.source_weights else ("source", config.source)
    if config.source_seed == PAIRED and (config.source_weights or value in ("imagenet", "none")):
        raise UsageError(
            f"--source_seed={PAIRED} pretrains once for each of --seeds, and --{name}={value}"
            " leaves nothing to pretrain: name a dataset as --source, or leave --source_seed out"
        )
    if config.source_training.batch_norm == "frozen":
        raise UsageError(
            "--source_batch_norm=frozen keeps the statistics of a source, and a pretraining has"
            " none: choose recomputed or moving"
        )


def _check_cached_views(config: Config) -> None:
    """Check what is said of the augmentation of images that frozen layers see."""
    training, views = config.training, config.cached_views
    augments = training.augment not in ("none", "")
    if config.method == "features" and augments and not views:
        raise UsageError(
            f"--augment={training.augment} changes the images each epoch, and --method=features"
            " computes their features once: leave --augment=none, or give --cached_views, such as"
            " 10"
        )
    if not views:
        return
    flag = f"--cached_views={views}"
    if not augments:
        raise UsageError(
            f"{flag} is of augmented images, and --augment={training.augment} changes none: give"
            " --augment, or leave it out"
        )
    if training.augment != "auto" and augment_spec.parse(training.augment).mixes:
        raise UsageError(
            f"{flag} keeps what frozen layers make of an image, and --augment={training.augment}"
            " mixes it with others: leave out mixup and cutmix, or --cached_views"
        )
    unfreeze, _ = methods.unfreezing(config)
    if config.method != "features" and config.trainable == "all" and unfreeze == "none":
        raise UsageError(
            f"{flag} is for layers that do not train, and all do: give --trainable, such as last:3,"
            " or --unfreeze; or leave it out"
        )


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
    for prefix, training in config.trainings.items():
        wants = needs_validation(training)
        if wants and config.validation == 0:
            raise UsageError(
                f"--{wants.format(prefix)} watches a validation set, and --validation=0 leaves"
                " none: give it a part of the training images, such as 0.1"
            )
    for prefix, training in config.trainings.items():
        wants = needs_validation(training) if prefix != SOURCE_PREFIX else ""
        if wants and config.shots == 1:
            raise UsageError(
                f"--{wants.format(prefix)} watches a validation set, and --shots=1 leaves no image"
                " for it: take --shots=2 or more"
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
    _check_preprocessing(config)
    if config.strategy == "one_device" and config.replicas > 1:
        raise UsageError(
            f"--replicas={config.replicas} are more than --strategy=one_device has a place for:"
            " leave one of them out"
        )
    for prefix, training in config.trainings.items():
        if training.batch_size < config.replicas:
            raise UsageError(
                f"--{prefix}batch_size={training.batch_size} has not an image for each of"
                f" --replicas={config.replicas}: raise the one, or lower the other"
            )
    known = config.experiment()
    unknown = [name for name in config.allowed_changes if name not in known]
    if unknown:
        raise UsageError(
            f"--allow_changed={config.allow_changed}: {unknown[0]} is no flag that makes another"
            " experiment; name such, without dashes and with commas, as in steps,learning_rate"
        )


def _check_preprocessing(config: Config) -> None:
    if config.source_preprocessing == "auto":
        return
    flag = f"--source_preprocessing={config.source_preprocessing}"
    try:
        preprocessing.parse(config.source_preprocessing)
    except ValueError as error:
        raise UsageError(f"{flag} {error}") from None
    if not config.source_weights:
        raise UsageError(
            f"{flag} is that of the weights in a file, and --source_weights names none: give it, or"
            " leave --source_preprocessing out"
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
