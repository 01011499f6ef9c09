"""Which layers of a model train: the language of --trainable."""

import re
from dataclasses import dataclass

# More layers than any model has.
MAX_LAYERS = 100_000


@dataclass(frozen=True)
class Trainable:
    """Which of a model's layers with weights train; the head always does.

    Attributes:
        kind: "all", "head", "last" or "pattern".
        count: of "last": how many layers from the end, of which the head is the first.
        pattern: of "pattern": a regular expression that is searched in the layers' names.
    """

    kind: str = "all"
    count: int = 0
    pattern: str = ""

    @classmethod
    def parse(cls, text: str) -> "Trainable":
        """Read `all`, `head`, `last:N` or a regular expression.

        Raises:
            ValueError: N is no number of layers, or the expression cannot be read.
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
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(
                f"is not all, head, last:N, or a regular expression ({error})"
            ) from None
        return cls("pattern", pattern=text)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return {"last": f"last:{self.count}", "pattern": self.pattern}.get(self.kind, self.kind)
