"""The syntax `NAME:NUMBER:NUMBER` of --method, --pretrain, --unfreeze and --penalty.

The rows of `tl_keras.methods.catalog` define the names and the ranges of their numbers.
"""

import math
import re
from typing import NamedTuple


class Term(NamedTuple):
    """A name with numbers.

    Attributes:
        name: such as "l2sp".
        numbers: such as (0.1, 0.01). Omitted numbers have the defaults of the name's row.
    """

    name: str
    numbers: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Term":
        """Parse `NAME` or `NAME:NUMBER:NUMBER`.

        Raises:
            ValueError: the name is missing, or a number is not finite.
        """
        name, *numbers = (part.strip() for part in text.split(":"))
        if not name:
            raise ValueError("a name is missing")
        return cls(name, tuple(_parse_number(number) for number in numbers))

    def __str__(self) -> str:
        """Return text that `parse` accepts."""
        return ":".join([self.name, *map(format_number, self.numbers)])


class Terms(tuple[Term, ...]):
    """Terms with distinct names, in the order of the flag."""

    @classmethod
    def parse(cls, text: str) -> "Terms":
        """Parse a comma list of terms; the empty text gives none.

        Raises:
            ValueError: a term cannot be parsed, or a name is repeated.
        """
        terms = [Term.parse(item) for item in text.split(",")] if text else []
        names = [term.name for term in terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} is given twice. Remove one of them")
        return cls(terms)

    def __str__(self) -> str:
        """Return text that `parse` accepts."""
        return ",".join(map(str, self))


class Names(tuple[str, ...]):
    """The names of a comma list."""

    @classmethod
    def parse(cls, text: str) -> "Names":
        """Parse a comma list of names; the empty text gives none."""
        return cls(name.strip() for name in text.split(",") if name.strip())

    def __str__(self) -> str:
        """Return text that `parse` accepts."""
        return ",".join(self)


def format_number(number: float) -> str:
    """Return the shortest text that parses to the number: 1 for 1.0."""
    return str(int(number)) if number == int(number) else repr(float(number))


def _parse_number(text: str) -> float:
    # float() would accept thousands of digits, and 1_000.
    is_number = re.fullmatch(r"[+-]?[0-9.]{1,30}([eE][+-]?[0-9]{1,3})?", text, re.ASCII)
    try:
        value = float(text) if is_number else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is not a number")
    return value
