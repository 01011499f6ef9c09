"""How often the state of a run is saved."""

import re
from typing import NamedTuple

from tl_keras.config.terms import format_number


class Pace(NamedTuple):
    """How often the state of a run is saved: after so many steps or seconds; 0 for neither."""

    steps: int = 0
    seconds: float = 30.0

    @classmethod
    def parse(cls, text: str) -> "Pace":
        """Read `200` (steps), `30s` (seconds), or both with a comma: whichever comes first.

        Raises:
            ValueError: it cannot be read; the error says what is allowed.
        """
        match = re.fullmatch(r"(\d{1,9})|(?:(\d{1,9}),)?(\d{1,6}(?:\.\d{1,3})?)s", text, re.ASCII)
        if not match:
            raise ValueError("must be steps (200), seconds (30s) or both (200,30s)")
        return cls(int(match[1] or match[2] or 0), float(match[3] or 0.0))

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        seconds = f"{format_number(self.seconds)}s" if self.seconds or not self.steps else ""
        return ",".join(part for part in (str(self.steps or ""), seconds) if part)
