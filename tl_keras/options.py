"""The command line: every flag, its check and its `--help` line, made from `tl_keras.config`.

Nothing heavy is imported here, so that `--help` and a mistyped flag are answered at once.
"""

import difflib
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from absl import flags

from tl_keras import config as config_module
from tl_keras.config import Config, Option, named_options
from tl_keras.data import augment_spec, catalog
from tl_keras.errors import UsageError
from tl_keras.methods import catalog as methods
from tl_keras.models import catalog as models

USAGE = """\
Transfer learning on images: pretrain on a source, transfer to a target, and measure what the
transfer was worth against the same model trained from scratch.

  python -m tl_keras.main --flagfile=experiments/mnist_to_usps.flags --shots=10 --seeds=0,1,2

Flags, with their defaults; later ones win, and --flagfile=FILE reads more of them from a file.
"""

Number = int | float


class _NumberParser(flags.ArgumentParser):
    """Reads one number and holds it to its option's bounds."""

    def __init__(self, kind: type, option: Option):
        self.kind = kind
        self.option = option
        self.syntactic_help = f"a {'whole number' if kind is int else 'number'}"

    def parse(self, argument: Any) -> Number:
        try:
            value = self.kind(argument)
        except (ValueError, TypeError, OverflowError):
            value = argument
        return _bounded(value, self.kind, self.option)

    def flag_type(self) -> str:
        return self.kind.__name__


class _SeedsParser(_NumberParser):
    """Reads a comma list of different whole numbers."""

    def __init__(self, option: Option):
        super().__init__(int, option)

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, tuple):
            return argument
        return _different([super(_SeedsParser, self).parse(part) for part in argument.split(",")])


class _BooleanParser(flags.BooleanParser):
    """Reads true or false, and says so where it is neither."""

    def parse(self, argument: Any) -> bool:
        try:
            return super().parse(argument)
        except (ValueError, TypeError):
            raise ValueError("must be true or false") from None


def _bounded(value: Any, kind: type, option: Option) -> Number:
    """Return a number that is one of `kind` and within the option's bounds, or raise ValueError."""
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    low, high = option.low, option.high
    # Written so that nan, which compares false with everything, is refused.
    if not is_number or low is None or high is None or not low <= value <= high:
        name = "whole number" if kind is int else "number"
        raise ValueError(f"must be a {name}{_range(option)} ({option.help})")
    return value


def _different(seeds: Sequence[Number]) -> tuple[Number, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("names a seed twice; each pair of runs needs a seed of its own")
    if not seeds:
        raise ValueError("names no seed; each pair of runs needs one")
    return tuple(seeds)


def parse(argv: Sequence[str]) -> Config | None:
    """Read a command line into a checked Config.

    Args:
        argv: the program's name and its arguments, as `sys.argv`.

    Returns:
        The configuration, or None where `--help` was asked for.

    Raises:
        UsageError: a flag is unknown, out of range, or contradicts another one.
    """
    if any(re.fullmatch("--?(help|h|helpfull|helpshort|\\?)", word) for word in argv[1:]):
        return None
    config = config_module.from_flat(_read(argv))
    check(config)
    return config


def _read(argv: Sequence[str]) -> dict[str, Any]:
    """Return the value of every flag, each within its own bounds."""
    values = flags.FlagValues()
    _define(values)
    try:
        words = values.read_flags_from_files(list(argv[1:]), force_gnu=False)
        _refuse_silent_flags([*argv[1:], *words])
        rest = values([argv[0], *words])
    except flags.UnrecognizedFlagError as error:
        close = difflib.get_close_matches(error.flagname, list(values), n=1)
        hint = f": did you mean --{close[0]}?" if close else ";"
        raise UsageError(
            f"--{error.flagname} is not a flag{hint} --help lists the flags"
        ) from error
    except flags.CantOpenFlagFileError as error:
        path, reason = _open_failure(error)
        raise UsageError(f"--flagfile={path} cannot be read: {reason}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--flagfile cannot be read: {_one_line(error)}") from error
    except (flags.Error, ValueError) as error:
        raise UsageError(f"{_one_line(error)}; --help lists the flags") from error
    if len(rest) > 1:
        raise UsageError(f"'{_one_line(rest[1])}' is not a flag; write --NAME=VALUE, see --help")
    return {name: values[name].value for name, _, _ in named_options(Config())}


def _refuse_silent_flags(words: Sequence[str]) -> None:
    """Refuse what absl passes over without a word, so that a typing error never runs defaults."""
    for word in words:
        if re.fullmatch(r"--?flagfile=\s*", word):
            raise UsageError("--flagfile= names no file; give it one, or leave it out")
        if re.match("--?undefok(=|$)", word):
            raise UsageError("--undefok is not a flag; --help lists the flags")


def _open_failure(error: flags.CantOpenFlagFileError) -> tuple[str, str]:
    cause = error.__context__
    if isinstance(cause, OSError) and cause.filename:
        return str(cause.filename), cause.strerror or type(cause).__name__
    return "", _one_line(error)


def _define(values: flags.FlagValues) -> None:
    for name, option, default in named_options(Config()):
        _define_one(values, name, option, default)


def _define_one(values: flags.FlagValues, name: str, option: Option, default: Any) -> None:
    plain: flags.ArgumentSerializer[Any] = flags.ArgumentSerializer()
    if isinstance(default, bool):
        flags.DEFINE(_BooleanParser(), name, default, option.help, values, plain, boolean=True)
    elif isinstance(default, tuple):
        serializer = flags.CsvListSerializer(",")
        flags.DEFINE(_SeedsParser(option), name, default, option.help, values, serializer)
    elif isinstance(default, (int, float)):
        parser = _NumberParser(type(default), option)
        flags.DEFINE(parser, name, default, option.help, values, plain)
    elif option.choices:
        flags.DEFINE_enum(name, default, option.choices, option.help, flag_values=values)
    else:
        flags.DEFINE_string(name, default, option.help, flag_values=values)


def check(config: Config) -> None:
    """Raise UsageError where settings are out of bounds, contradict each other or do not exist."""
    _check_bounds(config)
    for prefix, training in (("", config.training), ("source_", config.source_training)):
        if training.augment != "auto":
            augment_spec.parse(training.augment, flag=f"{prefix}augment")
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
    _check_validation(config)


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


def _check_bounds(config: Config) -> None:
    """Hold a Config that was made in Python to what the flags are held to."""
    defaults = Config().flat()
    for name, option, value in named_options(config):
        try:
            _check_one(value, defaults[name], option)
        except ValueError as error:
            raise UsageError(f"--{name}={value} {_one_line(error)}") from None


def _check_one(value: Any, default: Any, option: Option) -> None:
    if isinstance(default, tuple):
        _different([_bounded(one, int, option) for one in value])
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
    elif isinstance(default, (int, float)):
        _bounded(value, type(default), option)
    elif option.choices and value not in option.choices:
        raise ValueError(f"must be one of {', '.join(option.choices)}")


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


def reads_source(config: Config) -> bool:
    """Return whether the source is a dataset that this experiment has to read."""
    images = not config.source_weights or methods.find(config.method).source_images
    return images and config.source not in ("none", "imagenet")


def needs_validation(training: config_module.Training) -> str:
    """Return the flag that makes a validation set necessary ('{}' for its prefix), or ''."""
    if training.early_stopping:
        return f"{{}}early_stopping={training.early_stopping}"
    return "{}schedule=plateau" if training.schedule == "plateau" else ""


def help_text() -> str:
    """Return what `--help` prints: our flags only, in groups, each with its unit and range."""
    lines = [USAGE]
    group = ""
    for name, option, default in named_options(Config()):
        if option.group != group:
            group = option.group
            lines.append(f"\n{group}:\n")
        lines.append(_help_entry(name, option, default))
    lines.append("\nMethods:\n")
    lines += [f"  {method.name:10} {method.summary}" for method in methods.METHODS.values()]
    lines.append(f"\nDatasets:\n\n{_wrapped(', '.join(catalog.DATASETS))}")
    lines.append(f"\nModels:\n\n{_wrapped(', '.join(models.MODELS))}")
    return "\n".join(lines)


def _help_entry(name: str, option: Option, default: Any) -> str:
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = str(default).lower() if isinstance(default, bool) else default
    detail = f"one of {', '.join(option.choices)}" if option.choices else _range(option).strip()
    unit = f"; unit: {option.unit}" if option.unit else ""
    bounds = f"[{detail}{unit}]" if detail else ""
    if option.group == config_module.SOURCE_TRAINING:
        return f"  --{name}={shown}  {bounds}".rstrip()
    return f"  --{name}={shown}\n{_wrapped(f'{option.help} {bounds}')}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, width=96, initial_indent="      ", subsequent_indent="      ",
                         break_on_hyphens=False)  # fmt: skip


def _range(option: Option) -> str:
    if option.low is None or option.high is None:
        return ""
    return f" from {_number(option.low)} to {_number(option.high)}"


def _number(bound: float) -> str:
    """Return a bound in full where it is a whole number: seeds end at 2147483647, not 2.1e+09."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def _one_line(error: BaseException | str) -> str:
    return " ".join(str(error).split()).rstrip(".")
