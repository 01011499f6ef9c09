"""Checks of combinations of settings. It is light to import, because the command line uses it."""

import re

from tl_keras.config import PAIRED, Config, Training, bounds
from tl_keras.config.tfds import selection_options
from tl_keras.config.training import SOURCE_PREFIX
from tl_keras.data import catalog as datasets
from tl_keras.errors import UsageError
from tl_keras.methods import catalog as methods
from tl_keras.models import catalog as models


def check(config: Config) -> None:
    """Raise UsageError for settings that are unknown, out of bounds or contradict each other."""
    bounds.check(config)
    for prefix, training in config.trainings.items():
        _check_training(prefix, training)
    models.find(config.model)
    config.csv_columns()
    if not config.target:
        raise UsageError("--target is empty. Name a dataset, folder:PATH, or csv:FILE")
    if not config.source:
        raise UsageError("--source is empty. Name a dataset, imagenet, or none")
    if config.shots == 0:
        raise UsageError(
            f"--shots=0 means no labels, and --method={config.method} trains on labels. Give a"
            " number of images per class, or --shots=all"
        )
    _check_method(config)
    _check_penalties(config)
    _check_source(config)
    _check_tfds(config)
    _check_cached_views(config)
    _check_pretraining(config)
    _check_validation(config)
    _check_running(config)


def _check_training(prefix: str, training: Training) -> None:
    """Check the settings of one training, whose flags begin with `prefix`."""
    if training.ema and training.swa:
        raise UsageError(
            f"--{prefix}ema={training.ema} and --{prefix}swa={training.swa} are two averages of"
            " the weights. Remove one of them"
        )
    if training.optimizer == "adamw" and not training.weight_decay:
        raise UsageError(
            f"--{prefix}optimizer=adamw with --{prefix}weight_decay=0 is adam. Give"
            f" --{prefix}weight_decay, such as 0.01, or choose --{prefix}optimizer=adam"
        )


def _check_method(config: Config) -> None:
    """Check the requirements in the method's row: what it needs, takes and refuses."""
    method, flag = methods.find(config.method), f"--method={config.method}"
    methods.get_strengths(method.name, config)
    if method.needs_source and not _has_source(config):
        raise UsageError(
            f"{flag} transfers from a source, and --source=none leaves none."
            " Name a source, or choose --method=scratch"
        )
    if "source" in method.streams and config.source in ("imagenet", "none"):
        raise UsageError(
            f"{flag} trains on the source's images too, and"
            f" --source={config.source} has none. Name a dataset as --source"
        )
    if method.needs_head and (source := _find_headless_flag(config)):
        raise UsageError(
            f"{flag} continues with the source's head, and {source} brings none. Name a dataset"
            " with labels as --source"
        )
    settings, defaults = config.flat(), Config().flat()
    for name in sorted(methods.FINE_TUNING - method.takes):
        if settings[name] != defaults[name]:
            raise UsageError(
                f"--{name}={settings[name]} does not apply to {flag}. Remove it, or choose"
                " --method=finetune"
            )
    if reason := method.refuses(config):
        raise UsageError(f"{flag} {reason}")
    methods.get_unfreezing(config)
    imagenet = config.source == "imagenet" and method.copies_weights and not config.source_weights
    if imagenet and not models.find(config.model).function:
        raise UsageError(
            f"--source=imagenet: there are no ImageNet weights for --model={config.model}. Choose a"
            " model of keras.applications, such as mobilenet_v2_035 or resnet50"
        )


def _check_penalties(config: Config) -> None:
    """Check what the penalties need of the source."""
    for name in methods.get_penalties(config):
        row = methods.PENALTIES[name]
        if row.needs_source and not _has_source(config):
            raise UsageError(
                f"--penalty={name} compares with a source, and --source=none leaves none. Name a"
                " source, or remove the penalty"
            )
        if row.needs_head and (source := _find_headless_flag(config)):
            raise UsageError(
                f"{name} uses the source's head, and {source} brings no head. Name a dataset with"
                " labels as --source, or remove the penalty"
            )


def _check_source(config: Config) -> None:
    """Check the settings of the source."""
    given = ("source_weights", config.source_weights)
    name, value = given if config.source_weights else ("source", config.source)
    if config.source_seed == PAIRED and (config.source_weights or value in ("imagenet", "none")):
        raise UsageError(
            f"--source_seed={PAIRED} pretrains once for each of --seeds, and --{name}={value}"
            " leaves nothing to pretrain. Name a dataset as --source, or remove --source_seed"
        )
    if config.source_training.batch_norm == "frozen":
        raise UsageError(
            "--source_batch_norm=frozen keeps the statistics of a source, and a pretraining has"
            " none. Choose recomputed or moving"
        )


def _check_tfds(config: Config) -> None:
    """Check that features and splits are named of datasets of tensorflow-datasets alone."""
    for role, field_name in (("target", "tfds"), ("source", "source_tfds")):
        dataset, selection = getattr(config, role), getattr(config, field_name)
        is_tfds = datasets.find(dataset).reader == "tfds" and dataset not in ("imagenet", "none")
        for name, _, value in selection_options(field_name, selection):
            if value and not is_tfds:
                raise UsageError(
                    f"--{name}={value} is for datasets of tensorflow-datasets, and"
                    f" --{role}={dataset} is none. Remove it, or choose another --{role}"
                )


def _check_cached_views(config: Config) -> None:
    """Check that --cached_views has augmented images and frozen layers."""
    if not config.cached_views:
        return
    augmentation, views = config.training.augment, f"--cached_views={config.cached_views}"
    if augmentation is not None and augmentation.is_identity:
        raise UsageError(
            f"{views} needs augmented images, and --augment={augmentation} changes none. Give"
            " --augment, or remove --cached_views"
        )
    if augmentation is not None and augmentation.mixes:
        raise UsageError(
            "--cached_views cannot be combined with mixup or cutmix. Remove one of them"
        )
    trains_all = config.trainable.kind == "all" and methods.get_unfreezing(config).name == "none"
    if trains_all and config.method.name != "features":
        raise UsageError(
            f"{views} is for layers that do not train, and all do. Give --trainable, such as"
            " last:3, or --unfreeze; or remove --cached_views"
        )


def _check_pretraining(config: Config) -> None:
    """Check the requirements in the pretraining's row."""
    row, flag = methods.find_pretraining(config.pretrain), f"--pretrain={config.pretrain}"
    methods.get_pretraining_strengths(row.name, config)
    if row.uses_labels:
        return
    for name, value in (("source_weights", config.source_weights), ("source", config.source)):
        if value and (name == "source_weights" or value in ("imagenet", "none")):
            raise UsageError(
                f"{flag} trains on the source's images, and --{name}={value} leaves nothing to"
                " pretrain. Name only a dataset as --source, or remove --pretrain"
            )
    training = config.source_training
    mixes = training.augment is not None and training.augment.mixes
    labelled: tuple[tuple[str, object], ...] = (
        ("early_stopping", training.early_stopping),
        ("schedule", "plateau" if training.schedule == "plateau" else ""),
        ("label_smoothing", training.label_smoothing),
        ("class_weights", training.class_weights if training.class_weights != "none" else ""),
        ("augment", training.augment if mixes else ""),
    )
    for name, setting in labelled:
        if setting:
            raise UsageError(
                f"--source_{name}={setting} needs labels, and {flag} trains without them. Remove"
                f" --source_{name}, or choose --pretrain=supervised"
            )
    if reason := row.refuses(config):
        raise UsageError(f"{flag} {reason}")


def _has_source(config: Config) -> bool:
    return config.source != "none" or bool(config.source_weights)


def _find_headless_flag(config: Config) -> str:
    """Return the flag because of which the source's weights have no head, or ''."""
    if config.source_weights:
        return ""
    if config.source == "imagenet":
        return "--source=imagenet"
    uses_labels = methods.find_pretraining(config.pretrain).uses_labels
    return "" if uses_labels else f"--pretrain={config.pretrain}"


def _check_validation(config: Config) -> None:
    for prefix, training in config.trainings.items():
        flag = find_validation_flag(training)
        if flag and config.validation == 0:
            raise UsageError(
                f"--{flag.format(prefix)} needs a validation set, and --validation=0 leaves none."
                " Give a fraction of the training images, such as --validation=0.1"
            )
    for prefix, training in config.trainings.items():
        flag = find_validation_flag(training) if prefix != SOURCE_PREFIX else ""
        if flag and config.shots == 1:
            raise UsageError(
                f"--{flag.format(prefix)} needs a validation set, and --shots=1 leaves no image for"
                " it. Give --shots=2 or more"
            )


def _check_running(config: Config) -> None:
    """Check the settings of files, replicas and earlier runs."""
    sha256 = config.source_weights_sha256
    if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError(
            f"--source_weights_sha256={sha256} is not a sha256. Give 64 digits of 0 to 9 and a to f"
        )
    if sha256 and not config.source_weights:
        raise UsageError(
            f"--source_weights_sha256={sha256} is the hash of a file, and --source_weights names"
            " none. Give --source_weights"
        )
    _check_preprocessing(config)
    if config.strategy == "one_device" and config.replicas > 1:
        raise UsageError(
            f"--replicas={config.replicas} are more than --strategy=one_device allows. Remove one"
            " of the two flags"
        )
    for prefix, training in config.trainings.items():
        if training.batch_size < config.replicas:
            raise UsageError(
                f"--{prefix}batch_size={training.batch_size} has no image for some of"
                f" --replicas={config.replicas}. Raise --{prefix}batch_size, or lower --replicas"
            )
    settings = config.experiment()
    unknown = [name for name in config.allow_changed if name not in settings]
    if unknown:
        raise UsageError(
            f"--allow_changed={config.allow_changed}: {unknown[0]} is not a flag that defines the"
            " experiment. Name flags without dashes, with commas, as in steps,learning_rate"
        )


def _check_preprocessing(config: Config) -> None:
    if config.source_preprocessing is not None and not config.source_weights:
        raise UsageError(
            f"--source_preprocessing={config.flat()['source_preprocessing']} is that of a weights"
            " file, and --source_weights names none. Give --source_weights, or remove"
            " --source_preprocessing"
        )


def reads_source(config: Config) -> bool:
    """Return whether this experiment reads a source dataset."""
    images = not config.source_weights or "source" in methods.find(config.method).streams
    return images and config.source not in ("none", "imagenet")


def find_head_user(config: Config) -> str:
    """Return the name of the method or penalty that continues with the source's head, or ''."""
    if methods.find(config.method).needs_head:
        return config.method.name
    users = [name for name in methods.get_penalties(config) if methods.PENALTIES[name].needs_head]
    return users[0] if users else ""


def find_validation_flag(training: Training) -> str:
    """Return the flag that needs a validation set, with '{}' for its prefix, or ''."""
    if training.early_stopping:
        return f"{{}}early_stopping={training.early_stopping}"
    return "{}schedule=plateau" if training.schedule == "plateau" else ""
