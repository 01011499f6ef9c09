"""What a setting is made of: a field of a dataclass that is a command line flag too."""

import dataclasses
from typing import Any, NamedTuple


class Option(NamedTuple):
    """What makes a flag of a field: `low` and `high` are inclusive bounds, None for none."""

    help: str
    group: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


def option(default: Any, help_text: str, group: str = "", **bounds: Any) -> Any:
    """Return a dataclass field whose flag has this default, help, group and bounds."""
    return dataclasses.field(
        default=default, metadata={"option": Option(help_text, group, **bounds)}
    )
