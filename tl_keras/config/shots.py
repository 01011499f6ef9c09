"""How many labelled images of each class there are: a number, or None for all of them."""

import re

ALL = "all"
MAX_SHOTS = 10_000_000


def parse_shots(text: str) -> int | None:
    """Read a number of images, or `all`.

    Raises:
        ValueError: it is neither.
    """
    if text == ALL:
        return None
    # Python refuses to read thousands of digits, with an error of its own.
    if not re.fullmatch("[0-9]{1,8}", text) or int(text) > MAX_SHOTS:
        raise ValueError("must be a whole number from 1 to 10000000, or all")
    return int(text)


def format_shots(shots: int | None) -> str:
    """Return the text that `parse_shots` reads."""
    return ALL if shots is None else str(shots)
