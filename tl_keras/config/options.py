"""The options of settings: each is a dataclass field and a command line flag."""

import dataclasses
import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

from tl_keras.errors import UsageError


class Option(NamedTuple):
    """The flag of a field.

    Attributes:
        help: the text in `--help`.
        group: the heading in `--help`.
        unit: the unit of a number.
        low: the smallest allowed number.
        high: the largest allowed number.
        choices: the allowed words; for a number, words that are allowed besides numbers.
        parse: converts the flag's text into the field's value, or raises a ValueError whose message
            continues `--NAME=TEXT: `. None if the value is the text itself or a number.
        show: converts the value into text for reports.
        rare: whether only `--helpfull` lists the flag.
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
        help_text: the text in `--help`.
        group: the heading in `--help`.
        more: further fields of `Option`.
    """
    spec = Option(help_text, group, **more)
    if spec.parse is not None and isinstance(default, str):
        default = spec.parse(default)
    return dataclasses.field(default=default, metadata={"option": spec})


def parse_value(name: str, value: Any, spec: Option) -> Any:
    """Return the value of a setting, parsed if it is text.

    Args:
        name: name of the flag.
        value: text, or a value of the field's type.
        spec: the field's option.

    Raises:
        UsageError: the text cannot be parsed.
    """
    if spec.parse is None or not isinstance(value, str):
        return value
    try:
        return spec.parse(check_text(value))
    except ValueError as error:
        shown = " ".join(f"--{name}={value}".split())
        raise UsageError(f"{shown}: {error}") from None


def check_text(value: Any) -> str:
    """Return text of one line, such as a name or a path, or raise ValueError."""
    if not isinstance(value, str):
        raise ValueError("must be text")
    # File names cannot contain a null, and line breaks would break errors and reports.
    if any(unicodedata.category(character) in ("Cc", "Zl", "Zp") for character in value):
        raise ValueError("must be one line, without control characters")
    # absl takes the word after a flag without a value for that value: --workdir --steps=3.
    if value.startswith("--"):
        raise ValueError("begins with two dashes like a flag. Give the value that is missing")
    return value


def parse_fields(settings: Any, prefix: str = "") -> None:
    """Parse the fields of a frozen dataclass that are given as text.

    Args:
        settings: the dataclass, which calls this in `__post_init__`.
        prefix: prefix of its flag names, for errors.

    Raises:
        UsageError: a text cannot be parsed.
    """
    for field in dataclasses.fields(settings):
        if spec := field.metadata.get("option"):
            value = parse_value(prefix + field.name, getattr(settings, field.name), spec)
            object.__setattr__(settings, field.name, value)


def to_plain(value: Any, spec: Option) -> Any:
    """Return a setting's value in the form of reports and files: a number or text."""
    is_plain = spec.parse is None or isinstance(value, (int, float))
    return value if is_plain else spec.show(value)


def parse_auto_number(text: str) -> float | None:
    """Parse a number; `auto` gives None.

    Raises:
        ValueError: the text is neither.
    """
    if text == "auto":
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number, or auto") from None


def format_auto_number(number: float | None) -> str:
    """Return text that `parse_auto_number` accepts."""
    return "auto" if number is None else f"{number:g}"
