"""The language of `--augment`: which random changes a training picture gets, and how strong.

`tl_keras.data.augment` and `tl_keras.data.mixing` make these changes.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

from tl_keras.config.terms import format_number

# The factor of keras.layers.RandAugment when none is given.
DEFAULT_MAGNITUDE = 0.5


class Operation(NamedTuple):
    """What `name:VALUE` may say: `letter` stands for the value, `low` and `high` are inclusive."""

    letter: str
    low: float
    high: float
    unit: str
    whole: bool = False


OPERATIONS = {
    "shift": Operation("P", 0, 1, "parts of the side"),
    "rotate": Operation("P", 0, 0.5, "turns"),
    "zoom": Operation("P", 0, 0.9, "parts of the side"),
    "crop": Operation("N", 1, 64, "pixels", whole=True),
    "color": Operation("P", 0, 1, "parts of the range"),
    "randaugment": Operation("N", 1, 10, "operations a picture", whole=True),
    "mixup": Operation("A", 0.01, 10, "alpha of Beta(alpha, alpha)"),
    "cutmix": Operation("A", 0.01, 10, "alpha of Beta(alpha, alpha)"),
}
MAGNITUDE = Operation("M", 0, 1, "magnitude")


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a training picture; the defaults change nothing.

    Attributes:
        shift: largest move in x and in y, in parts of the width and of the height, 0 to 1.
        rotate: largest turn to either side, in turns, 0 to 0.5.
        zoom: how much the visible part of the side may differ from the whole side, 0 to 0.9.
        flip: whether half of the pictures are mirrored left to right.
        crop: pixels of black around the picture before a window of its size is cut out, 0 to 64.
        color: largest change of brightness, contrast and saturation, 0 to 1.
        randaugment: operations of RandAugment a picture, 0 to 10.
        magnitude: strength of RandAugment, 0 to 1.
        mixup: alpha of the Beta(alpha, alpha) of which the weight of each mixup is drawn, 0 to 10.
        cutmix: the same of cutmix; with both, half of the pictures get the one, half the other.
    """

    shift: float = 0.0
    rotate: float = 0.0
    zoom: float = 0.0
    flip: bool = False
    crop: int = 0
    color: float = 0.0
    randaugment: int = 0
    magnitude: float = DEFAULT_MAGNITUDE
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def moves(self) -> bool:
        """Whether pixels change their place."""
        return self.interpolates or self.flip or bool(self.crop)

    @property
    def interpolates(self) -> bool:
        """Whether pixels land between the places of the grid."""
        return bool(self.shift or self.rotate or self.zoom)

    @property
    def mixes(self) -> bool:
        """Whether each picture is mixed with another one, and its label with the other's."""
        return bool(self.mixup or self.cutmix)

    @property
    def is_identity(self) -> bool:
        """Whether every picture stays as it is."""
        return not (self.moves or self.color or self.randaugment or self.mixes)

    def __bool__(self) -> bool:
        return not self.is_identity

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        items = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "magnitude" or not value:
                continue
            items.append(field.name if value is True else f"{field.name}:{format_number(value)}")
            if field.name == "randaugment" and self.magnitude != DEFAULT_MAGNITUDE:
                items[-1] += f":{format_number(self.magnitude)}"
        return ",".join(items) or "none"


def parse(text: str) -> Augmentation:
    """Read a list of random changes.

    Args:
        text: "none", or a comma list of shift:P, rotate:P, zoom:P, flip, crop:N, color:P,
            randaugment:N or randaugment:N:M, mixup:A and cutmix:A, each at most once and in any
            order.

    Raises:
        ValueError: for a name that is not known or stands twice, and for a value that is
            missing, not a number, out of its range, or given to flip.
    """
    if text.strip() == "none":
        return Augmentation()
    values: dict[str, float | bool] = {}
    for item in text.split(","):
        name, *given = (part.strip() for part in item.split(":"))
        if name in values:
            raise ValueError(f"'{name}' is named twice")
        values.update(_read_item(name, given))
    return Augmentation(**values)  # type: ignore[arg-type]


def parse_flag(text: str) -> Augmentation | None:
    """Read --augment: as `parse`, and None for "auto", the dataset's own list.

    Raises:
        ValueError: see `parse`.
    """
    return None if text.strip() == "auto" else parse(text)


def format_flag(augmentation: Augmentation | None) -> str:
    """Return the text that `parse_flag` reads."""
    return "auto" if augmentation is None else str(augmentation)


def _read_item(name: str, given: list[str]) -> dict[str, float | bool]:
    if name in ("none", "auto"):
        raise ValueError(f"'{name}' stands for a whole list and cannot be part of one")
    if name == "flip":
        if given:
            raise ValueError("flip takes no value")
        return {name: True}
    if name not in OPERATIONS:
        raise ValueError(f"'{name}' is not known; allowed are {_list_allowed()}")
    if name == "randaugment" and len(given) == 2:
        return {
            name: _read_number(name, OPERATIONS[name], given[0]),
            "magnitude": _read_number(name, MAGNITUDE, given[1]),
        }
    if len(given) != 1:
        raise ValueError(f"{name} takes one value, as in {_describe(name)}")
    return {name: _read_number(name, OPERATIONS[name], given[0])}


def _read_number(name: str, operation: Operation, text: str) -> float:
    try:
        value = int(text) if operation.whole else float(text)
    except ValueError:
        kind = "whole number" if operation.whole else "number"
        raise ValueError(f"'{text}' is not a {kind}; allowed is {_describe(name)}") from None
    # Written so that nan, which compares false with everything, is refused.
    if not operation.low <= value <= operation.high:
        raise ValueError(f"'{text}' is out of range; allowed is {_describe(name)}")
    return value


def _describe(name: str) -> str:
    letter, low, high, unit, whole = OPERATIONS[name]
    text = f"{name}:{letter} ({'whole ' if whole else ''}{unit}, {low} to {high})"
    if name == "randaugment":
        text += (
            f" or {name}:{letter}:M (with M, the magnitude, {MAGNITUDE.low} to {MAGNITUDE.high})"
        )
    return text


def _list_allowed() -> str:
    return f"none, auto, or a comma list of flip, {', '.join(_describe(n) for n in OPERATIONS)}"
