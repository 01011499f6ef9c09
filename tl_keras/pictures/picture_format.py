"""What a picture becomes before a model sees it. Light to import, for the metadata of models."""

from typing import Any, NamedTuple

FITS = ("crop", "pad", "stretch")
WHITE = 255
MAX_SIZE = 8192
_MAX_VALUE = 2**32


class Rendering(NamedTuple):
    """How the pictures of a dataset become 8 bits.

    Attributes:
        low: the value that becomes 0, in pictures of more than 8 bits.
        high: the value that becomes 255.
        background: grey level under transparent pixels, 0 to 255.
    """

    low: int = 0
    high: int = 65535
    background: int = WHITE


class PictureFormat(NamedTuple):
    """The pictures that a model takes.

    Attributes:
        size: side in pixels.
        fit: how a picture becomes a square: "crop", "pad" or "stretch", see `images.fit`.
        framed: whether pictures are framed as in MNIST instead, see `images.frame`.
        rendering: how pictures become 8 bits per channel.
    """

    size: int
    fit: str = "crop"
    framed: bool = False
    rendering: Rendering = Rendering()

    def describe(self) -> dict[str, Any]:
        """Return the format as JSON values, for `parse`."""
        return {**self._asdict(), "rendering": self.rendering._asdict()}


def parse(description: Any) -> PictureFormat:
    """Return the format that `describe` described.

    Args:
        description: JSON values, which may come from a damaged or malicious file.

    Raises:
        ValueError: they are not what `describe` returns.
    """
    try:
        rendering = Rendering(**description["rendering"])
        form = PictureFormat(**{**description, "rendering": rendering})
    except (TypeError, KeyError) as error:
        raise ValueError("it is no format of pictures") from error
    low, high, background = rendering
    numbers = (form.size, low, high, background)
    sound = (
        all(type(number) is int for number in numbers)
        and 1 <= form.size <= MAX_SIZE
        and form.fit in FITS
        and type(form.framed) is bool
        and -_MAX_VALUE <= low < high <= _MAX_VALUE
        and 0 <= background <= WHITE
    )
    if not sound:
        raise ValueError("it is no format of pictures")
    return form
