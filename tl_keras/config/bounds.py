"""What settings may be, one by one. Light to import, as the command line is.

Options reads them from flags, and a Config can be made in Python; both are held to the same.
"""

from collections.abc import Sequence
from typing import Any

from tl_keras.config.config import Config
from tl_keras.config.options import Option, plain_text
from tl_keras.config.training import SCRATCH_PREFIX, named_options
from tl_keras.errors import UsageError

Number = int | float


def check(config: Config) -> None:
    """Hold a Config that was made in Python to what the flags are held to.

    Raises:
        UsageError: a setting is of another kind, or out of its bounds.
    """
    for name, option, value in named_options(config):
        if config.leaves_out(name):
            continue
        try:
            _check_one(value, example(name), option)
        except ValueError as error:
            raise UsageError(one_line(f"--{name}={value} {error}")) from None


def example(name: str) -> Any:
    """Return a value of the kind that a setting has: its default, or the one on the target.

    Args:
        name: of the flag.
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
        different([bounded(one, int, option) for one in value])
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
    elif isinstance(default, (int, float)):
        if value not in option.choices:
            bounded(value, type(default), option)
    elif not option.choices:
        plain_text(value)
    elif value not in option.choices:
        raise ValueError(f"must be one of {', '.join(option.choices)}")


def _check_parsed(value: Any, option: Option) -> None:
    """Raise ValueError where a value is none that text can be parsed to."""
    if isinstance(value, (int, float)) and option.low is not None:
        bounded(value, float if isinstance(value, float) else int, option)
        return
    try:
        is_parsed = option.parse is not None and option.parse(option.show(value)) == value
    except (TypeError, ValueError):
        is_parsed = False
    if not is_parsed:
        raise ValueError("must be text")


def bounded(value: Any, kind: type, option: Option) -> Number:
    """Return a number that is one of `kind` and within the option's bounds, or raise ValueError."""
    is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
    low, high = option.low, option.high
    # Written so that nan, which compares false with everything, is refused.
    if not is_number or low is None or high is None or not low <= value <= high:
        name = "whole number" if kind is int else "number"
        others = "".join(f", or {choice}" for choice in option.choices)
        raise ValueError(f"must be a {name}{range_of(option)}{others} ({option.help})")
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
