"""What a setting is made of: a field of a dataclass that is a command line flag too."""

import dataclasses
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

from tl_keras.errors import UsageError


class Option(NamedTuple):
    """What makes a flag of a field.

    Attributes:
        help: what `--help` says.
        group: under which heading `--help` has it.
        unit: of a number.
        low: the least that a number may be.
        high: the most.
        choices: words that are allowed; of a number, besides numbers.
        parse: makes the field's value of the flag's text, or raises a ValueError whose message
            goes on from `--NAME=TEXT: `. None where the text is the value, or a number.
        show: makes text of the value, for reports.
        rare: whether only `--helpfull` has it.
    """

    help: str
    group: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    parse: Callable[[str], Any] | None = None
    show: Callable[[Any], str] = str
    rare: bool = False


def option(default: Any, help_text: str, group: str = "", **more: Any) -> Any:
    """Return a dataclass field whose flag has this default, help and group.

    Args:
        default: the field's value, or the text that is parsed to it.
        help_text: what `--help` says.
        group: under which heading `--help` has it.
        more: further fields of `Option`.
    """
    spec = Option(help_text, group, **more)
    if spec.parse is not None and isinstance(default, str):
        default = spec.parse(default)
    return dataclasses.field(default=default, metadata={"option": spec})


def parse_value(name: str, value: Any, spec: Option) -> Any:
    """Return the value of a setting that may be given as text.

    Args:
        name: of the flag.
        value: text, or what the field holds.
        spec: the field's option.

    Raises:
        UsageError: the text cannot be read.
    """
    if spec.parse is None or not isinstance(value, str):
        return value
    try:
        return spec.parse(check_text(value))
    except ValueError as error:
        shown = " ".join(f"--{name}={value}".split())
        raise UsageError(f"{shown}: {error}") from None


def check_text(value: Any) -> str:
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


def parse_fields(settings: Any, prefix: str = "") -> None:
    """Parse the text in the fields of a frozen dataclass that is being made.

    Args:
        settings: the dataclass, which calls this in `__post_init__`.
        prefix: of its flags' names, for errors.

    Raises:
        UsageError: a text cannot be read.
    """
    for field in dataclasses.fields(settings):
        if spec := field.metadata.get("option"):
            value = parse_value(prefix + field.name, getattr(settings, field.name), spec)
            object.__setattr__(settings, field.name, value)


def to_plain(value: Any, spec: Option) -> Any:
    """Return a setting's value as reports and files have it: a number, or text."""
    is_plain = spec.parse is None or isinstance(value, (int, float))
    return value if is_plain else spec.show(value)


def parse_auto_number(text: str) -> float | None:
    """Read a number, and None for `auto`.

    Raises:
        ValueError: it is neither.
    """
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number, or auto") from None


def format_auto_number(number: float | None) -> str:
    """Return the text that `parse_auto_number` reads."""
    return "auto" if number is None else f"{number:g}"
