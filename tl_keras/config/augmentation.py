"""The syntax of `--augment`: which random changes a training image gets, and how strong.

`tl_keras.data.augment` and `tl_keras.data.mixing` apply these changes.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

from tl_keras.config.terms import format_number

# The default factor of keras.layers.RandAugment.
DEFAULT_MAGNITUDE = 0.5


class Operation(NamedTuple):
    """The allowed values of `name:VALUE`, from `low` to `high`; `letter` stands for the value."""

    letter: str
    low: float
    high: float
    unit: str
    whole: bool = False


# Larger images than this factor of the model's size would be kept for the sake of few crops.
MAX_ENLARGEMENT = 2.0


OPERATIONS = {
    "resized_crop": Operation("A", 0.08, 1, "smallest fraction of the area"),
    "shift": Operation("P", 0, 1, "fractions of the side"),
    "rotate": Operation("P", 0, 0.5, "turns"),
    "zoom": Operation("P", 0, 0.9, "fractions of the side"),
    "crop": Operation("N", 1, 64, "pixels", whole=True),
    "color": Operation("P", 0, 1, "fractions of the range"),
    "randaugment": Operation("N", 1, 10, "operations per image", whole=True),
    "mixup": Operation("A", 0.01, 10, "alpha of Beta(alpha, alpha)"),
    "cutmix": Operation("A", 0.01, 10, "alpha of Beta(alpha, alpha)"),
}
MAGNITUDE = Operation("M", 0, 1, "magnitude")


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a training image; the defaults change nothing.

    Attributes:
        resized_crop: smallest area of a random window that fills the image, as a fraction of the
            whole, 0.08 to 1; 0 for the whole image.
        shift: largest translation in x and y, as a fraction of width and height, 0 to 1.
        rotate: largest rotation in either direction, in turns, 0 to 0.5.
        zoom: largest relative difference of the visible side from the whole side, 0 to 0.9.
        flip: whether half of the images are mirrored left to right.
        crop: pixels of black padding around the image before a random crop of its size, 0 to 64.
        color: largest change of brightness, contrast and saturation, 0 to 1.
        randaugment: RandAugment operations per image, 0 to 10.
        magnitude: strength of RandAugment, 0 to 1.
        mixup: alpha of the Beta(alpha, alpha) that the weight of each mixup is drawn from, 0 to 10.
        cutmix: the same for cutmix. With both, each is applied to half of the images.
    """

    resized_crop: float = 0.0
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
        """Whether pixels change their position."""
        return self.interpolates or self.flip or bool(self.crop)

    @property
    def interpolates(self) -> bool:
        """Whether pixels are interpolated between grid positions."""
        return bool(self.resized_crop or self.shift or self.rotate or self.zoom)

    @property
    def enlargement(self) -> float:
        """How much larger than the model's images stored ones are useful, 1 to 2.

        The smallest window of `resized_crop` then has as many pixels as the model takes.
        """
        if not self.resized_crop:
            return 1.0
        return min(MAX_ENLARGEMENT, self.resized_crop**-0.5)

    @property
    def mixes(self) -> bool:
        """Whether images and their labels are mixed in pairs."""
        return bool(self.mixup or self.cutmix)

    @property
    def is_identity(self) -> bool:
        """Whether no image changes."""
        return not (self.moves or self.color or self.randaugment or self.mixes)

    def __bool__(self) -> bool:
        return not self.is_identity

    def __str__(self) -> str:
        """Return text that `parse` accepts."""
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
    """Parse a list of random changes.

    Args:
        text: "none", or a comma list of resized_crop:A, shift:P, rotate:P, zoom:P, flip, crop:N,
            color:P, randaugment:N or randaugment:N:M, mixup:A and cutmix:A, each at most once and
            in any order.

    Raises:
        ValueError: a name is unknown or repeated, or a value is missing, not a number, out of its
            range, or given to flip.
    """
    if text.strip() == "none":
        return Augmentation()
    values: dict[str, float | bool] = {}
    for item in text.split(","):
        name, *given = (part.strip() for part in item.split(":"))
        if name in values:
            raise ValueError(f"'{name}' is given twice")
        values.update(_read_item(name, given))
    return Augmentation(**values)  # type: ignore[arg-type]


def parse_flag(text: str) -> Augmentation | None:
    """Parse --augment like `parse`; "auto", the default list of the dataset, gives None.

    Raises:
        ValueError: see `parse`.
    """
    return None if text.strip() == "auto" else parse(text)


def format_flag(augmentation: Augmentation | None) -> str:
    """Return text that `parse_flag` accepts."""
    return "auto" if augmentation is None else str(augmentation)


def _read_item(name: str, given: list[str]) -> dict[str, float | bool]:
    if name in ("none", "auto"):
        raise ValueError(f"'{name}' is a list of its own and cannot be part of one")
    if name == "flip":
        if given:
            raise ValueError("flip takes no value")
        return {name: True}
    if name not in OPERATIONS:
        raise ValueError(f"'{name}' is not known. Allowed: {_list_allowed()}")
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
        raise ValueError(f"'{text}' is not a {kind}. Allowed: {_describe(name)}") from None
    # Written this way to refuse nan, for which every comparison is false.
    if not operation.low <= value <= operation.high:
        raise ValueError(f"'{text}' is out of range. Allowed: {_describe(name)}")
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
