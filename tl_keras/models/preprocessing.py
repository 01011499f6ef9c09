"""What an architecture of the catalog, or a file of ours, says of its preprocessing."""

from collections.abc import Mapping
from typing import Any

from tl_keras.config.preprocessing import MAX_PIXEL, NAMED, Preprocessing, make_preprocessing, parse
from tl_keras.models.catalog import Entry

# Networks that have their preprocessing inside, by how the name of their function begins.
INSIDE = {
    "MobileNetV3": "tf",
    "EfficientNetV2S": "0.0078125:-1",
    "EfficientNetV2M": "0.0078125:-1",
    "EfficientNetV2L": "0.0078125:-1",
    "EfficientNet": "torch",
    "ConvNeXt": "torch",
}


def from_description(fields: Any) -> Preprocessing | None:
    """Return what a file of ours says of its preprocessing; None where it is the catalog's.

    Raises:
        ValueError, TypeError, KeyError: it is not what we write.
    """
    if fields is None:
        return None
    if not isinstance(fields, Mapping) or set(fields) != {"scale", "offset", "bgr"}:
        raise ValueError("its preprocessing is no map of scale, offset and bgr")
    scale, offset, bgr = fields["scale"], fields["offset"], fields["bgr"]
    lists = isinstance(scale, list) and isinstance(offset, list) and type(bgr) is bool
    if not lists or len(scale) != len(offset) or len(scale) not in (1, 3):
        raise ValueError("its preprocessing has not one number or three for each of both")
    if any(type(number) not in (int, float) for number in (*scale, *offset)):
        raise ValueError("its preprocessing is not made of numbers")
    return make_preprocessing(tuple(map(float, scale)), tuple(map(float, offset)), bgr)


def inside(entry: Entry) -> Preprocessing | None:
    """Return the preprocessing that a network of keras.applications has inside, if it has."""
    if not entry.function or entry.preprocessing != "none":
        return None
    return next(parse(text) for begin, text in INSIDE.items() if entry.function.startswith(begin))


def of_entry(entry: Entry) -> Preprocessing:
    """Return the preprocessing with which an architecture of the catalog is built."""
    if not entry.function:
        return Preprocessing((1 / MAX_PIXEL,), (0.0,))
    return inside(entry) or NAMED[entry.preprocessing]
