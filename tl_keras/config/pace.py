"""The interval at which the state of a run is saved."""

import re
from typing import NamedTuple

from tl_keras.config.terms import format_number


class Pace(NamedTuple):
    """The interval between saves of a run, in steps or seconds; 0 disables one of them."""

    steps: int = 0
    seconds: float = 30.0

    @classmethod
    def parse(cls, text: str) -> "Pace":
        """Parse `200` (steps), `30s` (seconds), or `200,30s` (whichever comes first).

        Raises:
            ValueError: the text has another form.
        """
        match = re.fullmatch(r"(\d{1,9})|(?:(\d{1,9}),)?(\d{1,6}(?:\.\d{1,3})?)s", text, re.ASCII)
        if not match:
            raise ValueError("must be steps (200), seconds (30s) or both (200,30s)")
        return cls(int(match[1] or match[2] or 0), float(match[3] or 0.0))

    def __str__(self) -> str:
        """Return text that `parse` accepts."""
        seconds = f"{format_number(self.seconds)}s" if self.seconds or not self.steps else ""
        return ",".join(part for part in (str(self.steps or ""), seconds) if part)
