"""Decode one picture file of any common format to 8 bits, grey or colour."""

import contextlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from tl_keras.data import images

# No others: Pillow hands PostScript to another program, and reads formats nobody photographs in.
FORMATS = (
    "AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP",
)  # fmt: skip
EXTENSIONS = (
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
MOST_PIXELS = 50_000_000


class PictureError(Exception):
    """A picture that cannot be used, with the reason; the file's name is the caller's to add."""


class NotAPictureError(PictureError):
    """A file that is no picture, and has no extension that says so."""


def load(path: Path) -> np.ndarray:
    """Decode a picture.

    Transparency is laid over white; palettes, CMYK and 16 bits come to 8 bits a channel; of an
    animation the first frame counts; the orientation that a camera noted is applied.

    Returns:
        (height, width, 1 or 3) uint8; 1 where the file stores grey.

    Raises:
        PictureError: if it is corrupt, cannot be opened, holds floating point numbers, or has a
            header that declares more than 50 million pixels: nothing is decoded before.
        NotAPictureError: if it is no picture and does not claim to be one.
    """
    try:
        with Image.open(path, formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > MOST_PIXELS:
                raise PictureError(f"{width}x{height} is more than {MOST_PIXELS} pixels")
            picture.load()
            return _to_8_bits(_upright(picture))
    except UnidentifiedImageError as error:
        if path.suffix.lower() in EXTENSIONS:
            raise PictureError("not a picture, by its content") from error
        raise NotAPictureError("not a picture") from error
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise PictureError(" ".join(str(error).split()) or type(error).__name__) from error


def is_grey(image: np.ndarray) -> bool:
    """Tell whether a picture (height, width, 1 or 3) shows no colour."""
    return bool((image == image[..., :1]).all())


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Bring a picture (height, width, 1 or 3) uint8 to 1 channel (luminance) or to 3."""
    if channels == 1:
        return images.to_grey(image)
    return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)


def _upright(picture: Image.Image) -> Image.Image:
    # Damaged notes of a camera do not make the picture unreadable.
    with contextlib.suppress(Exception):
        return ImageOps.exif_transpose(picture)
    return picture


def _to_8_bits(picture: Image.Image) -> np.ndarray:
    mode = picture.mode
    if mode == "F":
        raise PictureError("its pixels are floating point numbers")
    if mode.startswith("I"):
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return ((values + 128) // 257).astype(np.uint8)[..., None]
    if "transparency" in picture.info or mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        return images.over_white(np.asarray(picture.convert("RGBA")))
    if mode in ("1", "L"):
        return np.asarray(picture.convert("L"))[..., None]
    return np.asarray(picture.convert("RGB"))
