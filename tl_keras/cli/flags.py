"""The command line: every flag, its check and its line of `--help`, made from `tl_keras.config`.

This module is light to import, so that `--help` and errors in flags appear at once.
"""

import contextlib
import difflib
import io
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags

from tl_keras.config import Config, Option, from_flat, named_options
from tl_keras.config.bounds import (
    check_number,
    example_value,
    format_range,
    to_one_line,
    unique_seeds,
)
from tl_keras.config.options import check_text, parse_value, to_plain
from tl_keras.config.training import SCRATCH_TRAINING, SOURCE_TRAINING
from tl_keras.data import catalog
from tl_keras.errors import UsageError
from tl_keras.experiment.validate import check
from tl_keras.methods import catalog as methods
from tl_keras.methods.rows import Row
from tl_keras.models import catalog as models

USAGE = """\
Transfer learning on images: pretrain on a source, transfer to a target, and measure the gain over
the same model trained from scratch.

  python -m tl_keras.main --flagfile=experiments/mnist_to_usps.flags --shots=10 --seeds=0,1,2

Flags with their defaults. Later flags override earlier ones. --flagfile=FILE reads flags from a
file.
"""


_LONGEST_NAME = 100

# The dataclasses whose fields are the flags of a command. If two have a flag of the same name, the
# first one is used.
Settings = Sequence[object]
MAIN_SETTINGS: Settings = (Config(),)

# Flags of earlier versions, and their replacements.
REPLACED = {
    "joint_lambda": "--method=joint:LAMBDA",
    "feature_head": "--method=features:UNITS for an MLP, or --method=features for a linear head",
    "feature_units": "--method=features:UNITS",
    "temperature": "--pretrain=simclr:TEMPERATURE",
}


class _NumberParser(flags.ArgumentParser):
    """Parses a number within the bounds of the option, or one of its words."""

    def __init__(self, kind: type, option: Option):
        self.kind = kind
        self.option = option
        self.syntactic_help = f"a {'whole number' if kind is int else 'number'}"

    def parse(self, argument: Any) -> Any:
        if argument in self.option.choices:
            return argument
        try:
            value = self.kind(argument)
        except (ValueError, TypeError, OverflowError):
            value = argument
        return check_number(value, self.kind, self.option)

    def flag_type(self) -> str:
        return self.kind.__name__


class _SeedsParser(_NumberParser):
    """Parses a comma list of distinct whole numbers."""

    def __init__(self, option: Option):
        super().__init__(int, option)

    def parse(self, argument: Any) -> Any:
        if isinstance(argument, tuple):
            return argument
        read = super().parse
        return unique_seeds([read(part) for part in argument.split(",")])


class _TextParser(flags.ArgumentParser):
    """Parses text of one line."""

    def parse(self, argument: Any) -> str:
        return check_text(argument)


class _ParsedParser(flags.ArgumentParser):
    """Parses text with the `parse` of its option, such as the list of --augment."""

    def __init__(self, name: str, option: Option):
        self.name = name
        self.option = option
        self.syntactic_help = "text with a syntax of its own"

    def parse(self, argument: Any) -> Any:
        if not isinstance(argument, str):
            return argument
        value = parse_value(self.name, argument, self.option)
        is_number = isinstance(value, (int, float))
        return check_number(value, type(value), self.option) if is_number else value


class _BooleanParser(flags.BooleanParser):
    """Parses true or false, with an error that names both."""

    def parse(self, argument: Any) -> bool:
        try:
            return super().parse(argument)
        except (ValueError, TypeError):
            raise ValueError("must be true or false") from None


def parse(argv: Sequence[str]) -> Config | None:
    """Parse a command line into a checked Config.

    Args:
        argv: the program's name and its arguments, as `sys.argv`.

    Returns:
        The configuration, or None for `--help`.

    Raises:
        UsageError: a flag is unknown, out of range, or contradicts another one.
    """
    if asks_for_help(argv):
        return None
    config = from_flat(read(argv))
    check(config)
    return config


def asks_for_help(argv: Sequence[str]) -> bool:
    """Return whether a command line has a help flag."""
    return any(re.fullmatch("--?(help|h|helpfull|helpshort|\\?)", word) for word in argv[1:])


def read(argv: Sequence[str], settings: Settings = MAIN_SETTINGS) -> dict[str, Any]:
    """Return the values of all given flags by name, each checked against its bounds.

    Args:
        argv: the program's name and its arguments.
        settings: dataclasses of the command.

    Raises:
        UsageError: a flag is unknown or out of range.
    """
    defined = {name: (option, default) for name, option, default in _list_flags(settings)}
    values = flags.FlagValues()
    for name, (option, default) in defined.items():
        _define(values, name, option, default)
    try:
        words = _expand_flag_files(values, argv[1:])
        _refuse_silent_flags([*argv[1:], *words])
        rest = values([argv[0], *words])
    except flags.UnrecognizedFlagError as error:
        raise UsageError(_unknown_flag_message(error.flagname, values)) from error
    except flags.CantOpenFlagFileError as error:
        path, reason = _explain_open_failure(error)
        raise UsageError(to_one_line(f"--flagfile={path} cannot be read: {reason}")) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--flagfile cannot be read: {to_one_line(error)}") from error
    except (flags.Error, ValueError) as error:
        raise UsageError(f"{to_one_line(error)}. --help lists the flags") from error
    if len(rest) > 1:
        raise UsageError(f"'{to_one_line(rest[1])}' is not a flag. Write --NAME=VALUE")
    return {name: values[name].value for name in defined if not values[name].using_default_value}


def _unknown_flag_message(name: str, known: Iterable[str]) -> str:
    """Return the error message for an unknown flag."""
    if name in REPLACED:
        return f"--{name} is not a flag any more. Give {REPLACED[name]}"
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f": did you mean --{close[0]}?" if close else "."
    return to_one_line(f"--{name} is not a flag{hint} --helpfull lists the flags")


def _expand_flag_files(values: flags.FlagValues, words: Sequence[str]) -> list[str]:
    """Return the words of a command line with each --flagfile replaced by the lines of the file."""
    warnings = io.StringIO()
    try:
        with contextlib.redirect_stderr(warnings):
            read_words = values.read_flags_from_files(list(words), force_gnu=False)
    except RecursionError as error:
        raise UsageError(
            "--flagfile: the files are nested too deeply. Remove some --flagfile lines"
        ) from error
    # absl skips a file that includes itself and prints a warning.
    if warnings.getvalue():
        path = to_one_line(warnings.getvalue().splitlines()[0].rpartition(": ")[2])
        raise UsageError(f"--flagfile={path} includes itself. Remove that line")
    return read_words


def _refuse_silent_flags(words: Sequence[str]) -> None:
    """Refuse flags that absl ignores silently, so that a typing error never runs with defaults.

    Names beyond a length limit are refused too, because absl's search for similar names would hang.
    """
    for word in words:
        if re.fullmatch(r"--?flagfile=\s*", word):
            raise UsageError("--flagfile= names no file. Give a file, or remove --flagfile")
        if re.match("--?undefok(=|$)", word):
            raise UsageError("--undefok is not a flag. --help lists the flags")
        if word.startswith("-") and len(word.partition("=")[0]) > _LONGEST_NAME:
            shown = to_one_line(word[:_LONGEST_NAME])
            raise UsageError(f"{shown}... is not a flag. --help lists the flags")


def _explain_open_failure(error: flags.CantOpenFlagFileError) -> tuple[str, str]:
    cause = error.__context__
    if isinstance(cause, OSError) and cause.filename:
        return str(cause.filename), cause.strerror or type(cause).__name__
    return "", to_one_line(error)


def _list_flags(settings: Settings) -> list[tuple[str, Option, Any]]:
    """Return (name, option, default) of each flag, in the order of `--help`."""
    flags_by_name: dict[str, tuple[str, Option, Any]] = {}
    for one in settings:
        for name, option, default in named_options(one):
            flags_by_name.setdefault(name, (name, option, default))
    return list(flags_by_name.values())


def _define(values: flags.FlagValues, name: str, option: Option, default: Any) -> None:
    text: flags.ArgumentSerializer[Any] = flags.ArgumentSerializer()
    kind = default if default is not None else example_value(name)
    if option.parse is not None:
        flags.DEFINE(_ParsedParser(name, option), name, default, option.help, values, text)
    elif isinstance(kind, bool):
        flags.DEFINE(_BooleanParser(), name, default, option.help, values, text, boolean=True)
    elif isinstance(kind, tuple):
        serializer = flags.CsvListSerializer(",")
        flags.DEFINE(_SeedsParser(option), name, default, option.help, values, serializer)
    elif isinstance(kind, (int, float)):
        parser = _NumberParser(type(kind), option)
        flags.DEFINE(parser, name, default, option.help, values, text)
    elif option.choices:
        flags.DEFINE_enum(name, default, option.choices, option.help, flag_values=values)
    else:
        flags.DEFINE(_TextParser(), name, default, option.help, values, text)


def help_text(
    full: bool = False, usage: str = USAGE, settings: Settings = MAIN_SETTINGS, trains: bool = True
) -> str:
    """Return the text of `--help`: the flags in groups, each with its unit and range.

    Args:
        full: return the text of `--helpfull`, which includes the rare flags.
        usage: text before the flags.
        settings: dataclasses of the command.
        trains: whether to list methods, datasets and models too.
    """
    lines, all_flags = [usage], _list_flags(settings)
    for group, members in itertools.groupby(all_flags, lambda one: one[1].group):
        shown = [one for one in members if full or not one[1].rare]
        if not shown:
            continue
        lines.append(f"\n{group}:\n")
        if group == SCRATCH_TRAINING or (group == SOURCE_TRAINING and not full):
            lines.append(_wrap(" ".join(f"--{name}" for name, _, _ in shown)))
        else:
            lines += [_format_flag(*one) for one in shown]
    if not trains:
        return "\n".join(lines)
    lines.append("\nMethods:\n")
    lines += [_format_row(row) for row in methods.METHODS.values() if full or not row.penalty]
    lines.append("\nPenalties with their strengths; each is also a method of the same name:\n")
    if full:
        lines += [_format_row(row) for row in methods.PENALTIES.values()]
        lines.append(f"\nDatasets:\n\n{_wrap(', '.join(catalog.DATASETS))}")
        lines.append(f"\nModels:\n\n{_wrap(', '.join(models.MODELS))}")
    else:
        lines.append(_wrap(" ".join(row.form for row in methods.PENALTIES.values())))
        lines.append("\n--helpfull lists all flags, penalties, datasets and models.")
    return "\n".join(lines)


def _format_row(row: Row) -> str:
    return f"  {row.form}\n{_wrap(row.summary)}"


def _format_flag(name: str, option: Option, default: Any) -> str:
    if isinstance(default, tuple) and option.parse is None:
        default = ",".join(map(str, default))
    shown = str(default).lower() if isinstance(default, bool) else to_plain(default, option)
    words = ", ".join(option.choices)
    detail = f"one of {words}" if words else ""
    if numbers := format_range(option).strip():
        detail = f"{numbers}, or {words}" if words else numbers
    unit = f"; unit: {option.unit}" if option.unit else ""
    bounds = f"[{detail}{unit}]" if detail else ""
    if option.group == SOURCE_TRAINING:
        return f"  --{name}={shown}  {bounds}".rstrip()
    return f"  --{name}={shown}\n{_wrap(f'{option.help} {bounds}')}"


def _wrap(text: str) -> str:
    return textwrap.fill(text, width=96, initial_indent="      ", subsequent_indent="      ",
                         break_on_hyphens=False)  # fmt: skip
