"""The form `NAME:NUMBER:NUMBER` of --method, --pretrain, --unfreeze and --penalty.

Which names there are, and what their numbers may be, stands in the rows of
`tl_keras.methods.catalog`.
"""

import math
import re
from typing import NamedTuple


class Term(NamedTuple):
    """A name, and the numbers behind it.

    Attributes:
        name: such as "l2sp".
        numbers: such as (0.1, 0.01); those that are left out have the defaults of the name's row.
    """

    name: str
    numbers: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str) -> "Term":
        """Read `NAME` or `NAME:NUMBER:NUMBER`.

        Raises:
            ValueError: there is no name, or what stands behind it is not a finite number.
        """
        name, *numbers = (part.strip() for part in text.split(":"))
        if not name:
            raise ValueError("a name is missing")
        return cls(name, tuple(_parse_number(number) for number in numbers))

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return ":".join([self.name, *map(format_number, self.numbers)])


class Terms(tuple[Term, ...]):
    """Terms of different names, in the order in which they were given."""

    @classmethod
    def parse(cls, text: str) -> "Terms":
        """Read a comma list of terms; empty for none.

        Raises:
            ValueError: a term cannot be read, or a name stands twice.
        """
        terms = [Term.parse(item) for item in text.split(",")] if text else []
        names = [term.name for term in terms]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name} stands twice. Remove one of the two")
        return cls(terms)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return ",".join(map(str, self))


class Names(tuple[str, ...]):
    """Names, as a comma list gives them."""

    @classmethod
    def parse(cls, text: str) -> "Names":
        """Read a comma list of names; empty for none."""
        return cls(name.strip() for name in text.split(",") if name.strip())

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return ",".join(self)


def format_number(number: float) -> str:
    """Return a number in as few characters as give it back: 1 for 1.0."""
    return str(int(number)) if number == int(number) else repr(float(number))


def _parse_number(text: str) -> float:
    # Without this, Python reads thousands of digits, and 1_000.
    is_number = re.fullmatch(r"[+-]?[0-9.]{1,30}([eE][+-]?[0-9]{1,3})?", text, re.ASCII)
    try:
        value = float(text) if is_number else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is not a number")
    return value
