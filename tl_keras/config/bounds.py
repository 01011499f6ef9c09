"""Checks of single settings. It is light to import, because the command line uses it.

The same checks apply to flags and to a Config that is made in Python.
"""

from collections.abc import Sequence
from typing import Any

from tl_keras.config.config import Config
from tl_keras.config.options import Option, check_text
from tl_keras.config.training import SCRATCH_PREFIX, named_options
from tl_keras.errors import UsageError

Number = int | float


def check(config: Config) -> None:
    """Check a Config that was made in Python in the same way as flags.

    Raises:
        UsageError: a setting has a wrong type, or is out of its bounds.
    """
    for name, option, value in named_options(config):
        if config.is_inherited(name):
            continue
        try:
            _check_one(value, example_value(name), option)
        except ValueError as error:
            raise UsageError(to_one_line(f"--{name}={value} {error}")) from None


def example_value(name: str) -> Any:
    """Return a value of a setting's type: its default, or that of the target's training.

    Args:
        name: name of the flag.
    """
    defaults = Config().flat()
    default = defaults[name]
    return defaults[name.removeprefix(SCRATCH_PREFIX)] if default is None else default


def _check_one(value: Any, default: Any, option: Option) -> None:
    if option.parse is not None:
        _check_parsed(value, option)
    elif isinstance(default, tuple):
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a tuple of whole numbers")
        unique_seeds([check_number(one, int, option) for one in value])
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
    elif isinstance(default, (int, float)):
        if value not in option.choices:
            check_number(value, type(default), option)
    elif not option.choices:
        check_text(value)
    elif value not in option.choices:
        raise ValueError(f"must be one of {', '.join(option.choices)}")


def _check_parsed(value: Any, option: Option) -> None:
    """Raise ValueError for a value that no text can be parsed to."""
    if isinstance(value, (int, float)) and option.low is not None:
        check_number(value, float if isinstance(value, float) else int, option)
        return
    try:
        is_parsed = option.parse is not None and option.parse(option.show(value)) == value
    except (TypeError, ValueError):
        is_parsed = False
    if not is_parsed:
        raise ValueError("must be text")


def check_number(value: Any, kind: type, option: Option) -> Number:
    """Return a number of type `kind` within the option's bounds, or raise ValueError."""
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    low, high = option.low, option.high
    # Written this way to refuse nan, for which every comparison is false.
    if not is_number or low is None or high is None or not low <= value <= high:
        name = "whole number" if kind is int else "number"
        others = "".join(f", or {choice}" for choice in option.choices)
        raise ValueError(f"must be a {name}{format_range(option)}{others} ({option.help})")
    return value


def unique_seeds(seeds: Sequence[Number]) -> tuple[Number, ...]:
    """Return one or more distinct seeds, or raise ValueError."""
    if len(set(seeds)) != len(seeds):
        raise ValueError("names a seed twice. Give each pair of runs its own seed")
    if not seeds:
        raise ValueError("names no seed. Give at least one")
    return tuple(seeds)


def format_range(option: Option) -> str:
    """Return the option's bounds in words, with a leading space, or ''."""
    if option.low is None or option.high is None:
        return ""
    return f" from {_format_bound(option.low)} to {_format_bound(option.high)}"


def _format_bound(bound: float) -> str:
    """Return a bound as text, whole numbers in full: 2147483647, not 2.1e+09."""
    return str(int(bound)) if bound == int(bound) else f"{bound:g}"


def to_one_line(error: BaseException | str) -> str:
    """Return a message without line breaks and without its full stop."""
    return " ".join(str(error).split()).rstrip(".")
