"""The pixels of one decoded picture as 8 bits per channel, grey or colour.

Two conversions need to know all pictures of a dataset, and never one picture alone:

- Pictures of more than 8 bits have a value range, which becomes 0 to 255. 16 bits often hold 12.
- Transparent pictures are composited on one grey level. White icons would vanish on white.

`measure` returns what both are chosen from, and `choose_rendering` chooses them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tl_keras.pictures import images
from tl_keras.pictures.limits import PictureError
from tl_keras.pictures.picture_format import WHITE, Rendering

_OPAQUE = 255
# Pixels that are converted at a time, in numbers of up to 64 bits.
_BAND_PIXELS = 1 << 20
# The share of the brightest pixels, and of the darkest, that is cut off, and at least one of each:
# the hot and dead pixels of a sensor are fewer, and would compress all other values.
_CUT = 1e-5
# Mean luminance of pictures that are hard to see on white, and on black.
_LIGHT, _DARK = 192, 64
# Fewer light (or dark) pictures than this share do not change the background.
_RARE = 0.01
GREY_MODES = ("1", "L", "I", "I;16", "I;16B", "I;16L", "F")
_UNSIGNED = 1
_SAMPLE_FORMAT, _BITS, _PHOTOMETRIC = 339, 258, 262
_WHITE_IS_ZERO = 0


class Raster(NamedTuple):
    """The pixels of one picture as they are stored.

    Attributes:
        values: (height, width, 1 or 3), uint8, or integers of more bits.
        alpha: (height, width, 1) uint8, 0 is clear; None if nothing is transparent.
    """

    values: np.ndarray
    alpha: np.ndarray | None


class Levels(NamedTuple):
    """What the rendering of a dataset is chosen from.

    Attributes:
        is_deep: whether the picture has more than 8 bits per channel.
        low: its smallest value, without the darkest 0.001 % (at least one); 0 unless it is deep.
        high: its largest value, without the brightest 0.001 %; 0 unless it is deep.
        opaque: mean luminance of its opaque part, 0 to 255; -1 if nothing is transparent.
    """

    is_deep: bool = False
    low: int = 0
    high: int = 0
    opaque: int = -1


def choose_rendering(levels: Sequence[Levels]) -> Rendering:
    """Choose the rendering of a dataset from the levels of its training pictures.

    The range of deep pictures is 16 bits, or fewer if the two highest bits are 0 in all of them: 12
    bits are 0 to 4095 whatever their brightest pixel is. It is that of their values if these use
    less than a quarter of it, or are negative. The background is white unless more than 1 % of the
    transparent pictures are light. Then it is black, or grey if more than 1 % are dark.
    """
    deep = [level for level in levels if level.is_deep]
    low, high = 0, 65535
    if deep:
        low, high = min(level.low for level in deep), max(level.high for level in deep)
        if low >= 0 and (low == high or 4 * (high - low + 1) > high + 1):
            bits = max(8, int(high).bit_length())
            low, high = 0, (1 << (16 if bits == 15 else bits)) - 1
    opaque = np.array([level.opaque for level in levels if level.opaque >= 0])
    background = WHITE
    if opaque.size and (opaque >= _LIGHT).mean() > _RARE:
        background = 128 if (opaque < _DARK).mean() > _RARE else 0
    return Rendering(low, high, background)


def measure(raster: Raster) -> Levels:
    """Return the levels of a picture."""
    values, alpha = raster
    levels = Levels(True, *_find_range(values)) if values.dtype != np.uint8 else Levels()
    if alpha is None or alpha.min() == _OPAQUE or not alpha.any():
        return levels
    rendering = choose_rendering([levels])
    luminance = weight = 0
    for part in _bands(values):
        grey = images.to_grey(to_8_bits(Raster(values[part], None), rendering))
        luminance += int((grey * alpha[part].astype(np.int64)).sum())
        weight += int(alpha[part].sum(dtype=np.int64))
    return levels._replace(opaque=luminance // weight)


def _find_range(values: np.ndarray) -> tuple[int, int]:
    """Return the smallest and the largest value, without those that are cut off."""
    cut = min(max(1, round(_CUT * values.size)), (values.size - 1) // 2)
    lows, highs = [], []
    for part in _bands(values):
        band = values[part].reshape(-1)
        last = min(cut, band.size - 1)
        ordered = np.partition(band, (last, band.size - 1 - last))
        lows.append(ordered[: last + 1])
        highs.append(ordered[band.size - 1 - last :])
    low, high = np.concatenate(lows), np.concatenate(highs)
    return int(np.partition(low, cut)[cut]), int(np.partition(high, -1 - cut)[-1 - cut])


def to_8_bits(raster: Raster, rendering: Rendering) -> np.ndarray:
    """Return (height, width, 1 or 3) uint8."""
    values, alpha = raster
    if values.dtype == np.uint8 and alpha is None:
        return values
    changed = np.empty(values.shape, np.uint8)
    for part in _bands(values):
        band = values[part]
        if band.dtype != np.uint8:
            band = _scale(band, rendering)
        if alpha is not None:
            band = images.composite(band, alpha[part], rendering.background)
        changed[part] = band
    return changed


def _bands(values: np.ndarray) -> Iterator[slice]:
    rows = max(1, _BAND_PIXELS // values.shape[1])
    return (slice(top, top + rows) for top in range(0, len(values), rows))


def rasterize(picture: Image.Image) -> Raster:
    """Return the pixels of a loaded picture.

    Raises:
        PictureError: the pixels are floating point numbers.
    """
    mode = picture.mode
    if mode == "F":
        raise PictureError("its pixels are floating point numbers")
    if mode.startswith("I"):
        return Raster(_deep_values(picture)[..., None], None)
    if _has_alpha(picture):
        pixels = np.asarray(_convert_mode(picture, "RGBA"))
        return Raster(pixels[..., :3], pixels[..., 3:])
    if mode in GREY_MODES:
        return Raster(np.asarray(_convert_mode(picture, "L"))[..., None], None)
    return Raster(np.asarray(_convert_mode(picture, "RGB")), None)


def needs_rendering(picture: Image.Image) -> bool:
    """Return whether an opened picture has more than 8 bits per channel, or transparency."""
    return picture.mode.startswith("I") or is_deep_colour(picture) or _has_alpha(picture)


def is_deep_colour(picture: Image.Image) -> bool:
    """Return whether a picture has several channels of 16 bits, which Pillow would cut to 8."""
    return len(picture.getbands()) > 1 and any(
        ";16" in str(tile[3])
        for tile in picture.tile  # type: ignore[attr-defined]
    )


def _has_alpha(picture: Image.Image) -> bool:
    return "transparency" in picture.info or picture.mode in ("RGBA", "RGBa", "LA", "La", "PA")


def _deep_values(picture: Image.Image) -> np.ndarray:
    values = np.asarray(picture)
    tags = getattr(picture, "tag_v2", {})
    # Pillow inverts these for 8 bits, and not for 16.
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = ~values
    # Pillow reads 32 unsigned bits as signed.
    if tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, (_UNSIGNED,)) == (_UNSIGNED,):
        return values.view(np.uint32)
    return values


def _scale(values: np.ndarray, rendering: Rendering) -> np.ndarray:
    span = max(1, rendering.high - rendering.low)
    offsets = np.clip(values.astype(np.int64), rendering.low, rendering.high) - rendering.low
    return ((offsets * 255 + span // 2) // span).astype(np.uint8)


def _convert_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Convert an image to a mode. Pillow would copy it if it has that mode already."""
    return picture if picture.mode == mode else picture.convert(mode)
