"""The preprocessing of pixels before the first layer with weights: an affine map per channel."""

import math
from dataclasses import dataclass

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

# Two maps are equivalent if they differ by less than this fraction of their range.
TOLERANCE = 1e-6
MAX_PIXEL = 255
# No preprocessing needs values outside these bounds; a file that has them is damaged or hostile.
MIN_SCALE, MAX_SCALE = 1e-6, 1e6
MAX_OFFSET = 1e6


@dataclass(frozen=True)
class Preprocessing:
    """The map `scale * pixel + offset` of each channel, for pixels from 0 to 255.

    Attributes:
        scale: one number for all channels, or three, one for each channel of the network.
        offset: as many numbers as `scale`.
        bgr: whether the channels are reversed first, so that the network sees blue first.
    """

    scale: tuple[float, ...]
    offset: tuple[float, ...]
    bgr: bool = False

    def __str__(self) -> str:
        """Return text that `parse` accepts."""
        numbers = [",".join(f"{x:.9g}" for x in xs) for xs in (self.scale, self.offset)]
        return ":".join([*numbers, *(["bgr"] if self.bgr else [])])

    def is_equivalent(self, other: "Preprocessing") -> bool:
        """Return whether both maps give the same values for all pixels, up to rounding."""
        if self.bgr != other.bgr:
            return False
        for scale, offset, scale_2, offset_2 in zip(
            *_expand_channels(self), *_expand_channels(other), strict=True
        ):
            ends = [(offset, offset_2)]
            ends.append((scale * MAX_PIXEL + offset, scale_2 * MAX_PIXEL + offset_2))
            size = max(abs(value) for end in ends for value in end)
            if any(abs(one - two) > TOLERANCE * size for one, two in ends):
                return False
        return True

    def without(self, inside: "Preprocessing") -> "Preprocessing":
        """Return the map that, followed by `inside`, gives this one; `inside` is not BGR."""
        scales, offsets = _expand_channels(self)
        scales_in, offsets_in = _expand_channels(inside)
        scale = tuple(one / two for one, two in zip(scales, scales_in, strict=True))
        offset = tuple(
            (one - two) / by for one, two, by in zip(offsets, offsets_in, scales_in, strict=True)
        )
        return make_preprocessing(scale, offset, self.bgr)


def _expand_channels(one: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and offset for three channels."""
    return one.scale * (3 // len(one.scale)), one.offset * (3 // len(one.offset))


def make_preprocessing(
    scale: tuple[float, ...], offset: tuple[float, ...], bgr: bool
) -> Preprocessing:
    """Return a map, with one number instead of three equal ones.

    Raises:
        ValueError: a number is not finite, or out of bounds, or a scale is zero.
    """
    for number in (*scale, *offset):
        if not math.isfinite(number):
            raise ValueError(f"{number} is not a finite number")
    for number in scale:
        if not MIN_SCALE <= abs(number) <= MAX_SCALE:
            raise ValueError(
                f"a scale of {number:g} is not between {MIN_SCALE:g} and {MAX_SCALE:g}"
            )
    for number in offset:
        if abs(number) > MAX_OFFSET:
            raise ValueError(f"an offset of {number:g} is larger than {MAX_OFFSET:g}")
    if len(set(scale)) == len(set(offset)) == 1:
        scale, offset = scale[:1], offset[:1]
    return Preprocessing(scale, offset, bgr)


TORCH = Preprocessing(
    tuple(1 / (MAX_PIXEL * deviation) for deviation in IMAGENET_DEVIATION),
    tuple(-mean / by for mean, by in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)),
)
NAMED = {
    "tf": Preprocessing((1 / 127.5,), (-1.0,)),
    "torch": TORCH,
    "caffe": Preprocessing((1.0,) * 3, tuple(-mean for mean in CAFFE_MEAN_BGR), bgr=True),
    "none": Preprocessing((1.0,), (0.0,)),
}
ALLOWED = f"auto, {', '.join(NAMED)}, SCALE:OFFSET or SCALE:OFFSET:bgr"


def parse(text: str) -> Preprocessing:
    """Parse a name of `NAMED`, SCALE:OFFSET, or SCALE:OFFSET:bgr.

    SCALE and OFFSET are each one number, or three with commas in the network's channel order.

    Raises:
        ValueError: the text has another form; the message continues the flag's value.
    """
    if text in NAMED:
        return NAMED[text]
    scale_text, *rest = text.split(":")
    if not rest or len(rest) > 2 or rest[1:] not in ([], ["bgr"]):
        raise ValueError(f"is none of {ALLOWED}")
    try:
        scale, offset = _parse_numbers(scale_text), _parse_numbers(rest[0])
        return make_preprocessing(scale, offset, len(rest) == 2)
    except ValueError as error:
        raise ValueError(
            f"is none of {ALLOWED}. Give one number or three for SCALE and for OFFSET ({error})"
        ) from None


def _parse_numbers(text: str) -> tuple[float, ...]:
    """Return three numbers from text with one or three."""
    numbers = tuple(float(part) for part in text.split(","))
    if len(numbers) not in (1, 3):
        raise ValueError(f"{len(numbers)} numbers")
    return numbers * (3 // len(numbers))


def parse_flag(text: str) -> Preprocessing | None:
    """Parse --source_preprocessing like `parse`; "auto" gives None.

    Raises:
        ValueError: see `parse`.
    """
    return None if text == "auto" else parse(text)


def format_flag(preprocessing: Preprocessing | None) -> str:
    """Return text that `parse_flag` accepts, the name if the map has one."""
    if preprocessing is None:
        return "auto"
    names = (name for name, known in NAMED.items() if known == preprocessing)
    return next(names, str(preprocessing))
