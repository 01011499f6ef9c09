"""The syntax of --trainable: which layers of a model train."""

import re
from dataclasses import dataclass

# Larger than the number of layers of any model.
MAX_LAYERS = 100_000


@dataclass(frozen=True)
class Trainable:
    """Which of a model's layers with weights train. The head always trains.

    Attributes:
        kind: "all", "head", "last" or "pattern".
        count: for "last", the number of layers from the end, including the head.
        pattern: for "pattern", a regular expression that is searched in the layer names.
    """

    kind: str = "all"
    count: int = 0
    pattern: str = ""

    @classmethod
    def parse(cls, text: str) -> "Trainable":
        """Parse `all`, `head`, `last:N` or a regular expression.

        Raises:
            ValueError: N is not a number of layers, or the expression is invalid.
        """
        if text in ("all", "head"):
            return cls(text)
        if text.startswith("last:"):
            number = text.removeprefix("last:")
            if not re.fullmatch("[0-9]{1,6}", number) or not 1 <= int(number) <= MAX_LAYERS:
                raise ValueError("last:N takes a whole number of layers from 1 on")
            return cls("last", int(number))
        try:
            re.compile(text)
        # A pattern of thousands of brackets, or a count beyond all numbers, is no pattern either.
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(
                f"is not all, head, last:N, or a regular expression ({error})"
            ) from None
        return cls("pattern", pattern=text)

    def __str__(self) -> str:
        """Return text that `parse` accepts."""
        return {"last": f"last:{self.count}", "pattern": self.pattern}.get(self.kind, self.kind)
