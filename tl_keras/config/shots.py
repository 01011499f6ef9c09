"""The number of labelled images per class, or None for all of them."""

import re

ALL = "all"
MAX_SHOTS = 10_000_000


def parse_shots(text: str) -> int | None:
    """Parse a number of images; `all` gives None.

    Raises:
        ValueError: the text is neither.
    """
    if text == ALL:
        return None
    # int() raises an error with another text for thousands of digits.
    if not re.fullmatch("[0-9]{1,8}", text) or int(text) > MAX_SHOTS:
        raise ValueError("must be a whole number from 1 to 10000000, or all")
    return int(text)


def format_shots(shots: int | None) -> str:
    """Return text that `parse_shots` accepts."""
    return ALL if shots is None else str(shots)
