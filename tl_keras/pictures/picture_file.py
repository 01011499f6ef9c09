"""Decode one image file of any common format to 8 bits, grey or colour.

A file may be damaged or malicious. It is decoded or raises a PictureError, and needs at most the
memory and time of an image of 50 million pixels. tests/test_fuzz_pictures.py tests it.
"""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import BmpImagePlugin, IcoImagePlugin, Image, ImageOps, PngImagePlugin

from tl_keras.pictures import images

# Other formats of Pillow are rare in photography, and PostScript runs another program.
FORMATS = (
    "AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP",
)  # fmt: skip
# A TGA has no signature: any file that begins with zeros may look like one.
FORMATS_BY_EXTENSION = {".tga": ("TGA",)}
EXTENSIONS = (
    ".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe",
    ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
MAX_PIXELS = 50_000_000
# The limit of JPEG. Framing a line of 50 million pixels would take 10 GB.
MAX_SIDE = 65_535
# An uncompressed image of MAX_PIXELS with four channels of 16 bits has 0.4 GB.
MAX_BYTES = 1_000_000_000
# Ten are common. Each scan, even of a few bytes, makes the decoder visit all pixels again: a file
# of a megabyte could take many minutes.
MAX_SCANS = 100
# The start of a JPEG segment, but no stuffed byte of 255 in the pixels and no restart marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
# Pixels that are converted to 8 bits at a time, in numbers of up to 64 bits.
_BAND_PIXELS = 1 << 20


class PictureError(Exception):
    """An unusable image, with the reason. The caller adds the file's name."""


class NotAPictureError(PictureError):
    """A file that is no image and has no image extension."""


class _SizedReader(io.BufferedReader):
    """A file, or bytes in memory, whose reads are limited to its size.

    Python allocates the requested size, and Pillow requests gigabytes for some damaged files.
    """

    def __init__(self, source: Path | bytes):
        """Open the file; its `size` is in bytes."""
        # BytesIO has all that a buffered reader needs of a raw file.
        super().__init__(io.FileIO(source) if isinstance(source, Path) else io.BytesIO(source))  # type: ignore[arg-type]
        self.size = self.seek(0, io.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all that are left."""
        left = max(0, self.size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


def load(path: Path) -> np.ndarray:
    """Decode an image file.

    Transparency is composited on white. Palettes, CMYK and 16 bits become 8 bits per channel. Of an
    animation, the first frame is used. The EXIF orientation is applied.

    Returns:
        (height, width, 1 or 3) uint8, with 1 channel if the file stores grey.

    Raises:
        PictureError: the file is corrupt, cannot be opened, holds floating point numbers, or
            declares more than 50 million pixels or a side of more than 65,535. The header is
            checked before anything is decoded.
        NotAPictureError: the file is no image and has no image extension.
        MemoryError: there is not enough memory for the image.
    """
    return _load(path, path.suffix.lower())


def load_bytes(content: bytes) -> np.ndarray:
    """Decode the content of an image file, with the conversions and limits of `load`.

    Returns:
        (height, width, 1 or 3) uint8, with 1 channel if the content stores grey.

    Raises:
        PictureError: see `load`; NotAPictureError if the format is not known.
        MemoryError: there is not enough memory for the image.
    """
    return _load(content, "")


def _load(source: Path | bytes, extension: str) -> np.ndarray:
    try:
        with _SizedReader(source) as file, _open(file, extension) as picture:
            _check(picture, file)
            picture.load()
            _turn_upright(picture)
            return _to_8_bits(picture)
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise PictureError(_describe_error(error)) from error


def is_grey(image: np.ndarray) -> bool:
    """Return whether an image (height, width, 1 or 3) has equal channels."""
    return bool((image == image[..., :1]).all())


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert an image (height, width, 1 or 3) uint8 to 1 channel (luminance) or 3."""
    if channels == 1:
        return images.to_grey(image)
    return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)


def _open(file: _SizedReader, extension: str) -> Image.Image:
    """Read the header. A failure without an image extension means that the file is no image."""
    try:
        if file.size > MAX_BYTES:
            raise PictureError(f"{file.size} bytes are more than {MAX_BYTES}")
        _check_icon(file)
        return Image.open(file, formats=(*FORMATS, *FORMATS_BY_EXTENSION.get(extension, ())))
    except MemoryError:
        raise
    except Exception as error:
        if extension not in EXTENSIONS:
            raise NotAPictureError("not a picture") from error
        if isinstance(error, Image.UnidentifiedImageError):
            raise PictureError("not a picture, by its content") from error
        raise


def _check_icon(file: _SizedReader) -> None:
    """Check the image inside an icon, which Pillow decodes when it opens the file."""
    if file.peek(4).startswith(b"\0\0\1\0"):
        file.seek(IcoImagePlugin.IcoFile(file).entry[0].offset)
        is_png = file.peek(8).startswith(b"\x89PNG")
        kind = PngImagePlugin.PngImageFile if is_png else BmpImagePlugin.DibImageFile
        width, height = kind(file).size
        # A bitmap inside an icon is stacked on its mask.
        _check_size(width, height if is_png else height // 2)


def _check(picture: Image.Image, file: _SizedReader) -> None:
    """Raise PictureError if decoding would take too much memory or time."""
    _check_size(*picture.size)
    if picture.format == "TIFF":
        # A tile is decoded as a whole, even if the image is smaller.
        tags = picture.tag_v2  # type: ignore[attr-defined]
        _check_size(tags.get(322, 1), tags.get(323, 1))
    if picture.format in ("JPEG", "MPO"):
        position = file.tell()
        file.seek(0)
        _check_scans(file.read())
        file.seek(position)


def _check_scans(content: bytes) -> None:
    """Raise PictureError for a JPEG with too many scans."""
    scans, position = 0, 2
    # Up to the end of the image. Telephones append videos.
    while (marker := _MARKER.search(content, position)) and marker[1] != b"\xd9":
        scans += marker[1] == b"\xda"
        if scans > MAX_SCANS:
            raise PictureError(f"it has more than {MAX_SCANS} scans")
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise PictureError(f"{width}x{height} is more than {MAX_PIXELS} pixels")
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"{width}x{height} has a side of more than {MAX_SIDE} pixels")


def _turn_upright(picture: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(picture, in_place=True)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data does not make the image unreadable
        return


def _to_8_bits(picture: Image.Image) -> np.ndarray:
    mode = picture.mode
    if mode == "F":
        raise PictureError("its pixels are floating point numbers")
    if mode.startswith("I"):
        return _convert_in_bands(_from_16_bits, np.asarray(picture), 1)
    if "transparency" in picture.info or mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        return _convert_in_bands(
            images.composite_on_white, np.asarray(_convert_mode(picture, "RGBA")), 3
        )
    if mode in ("1", "L"):
        return np.asarray(_convert_mode(picture, "L"))[..., None]
    return np.asarray(_convert_mode(picture, "RGB"))


def _convert_mode(picture: Image.Image, mode: str) -> Image.Image:
    """Convert an image to a mode. Pillow would copy it if it has that mode already."""
    return picture if picture.mode == mode else picture.convert(mode)


def _from_16_bits(pixels: np.ndarray) -> np.ndarray:
    values = np.clip(pixels.astype(np.int64), 0, 65535)
    return ((values + 128) // 257).astype(np.uint8)[..., None]


def _convert_in_bands(
    change: Callable[[np.ndarray], np.ndarray], pixels: np.ndarray, channels: int
) -> np.ndarray:
    """Return change(pixels), (height, width, channels) uint8, computed some rows at a time."""
    height, width = pixels.shape[:2]
    changed = np.empty((height, width, channels), np.uint8)
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        changed[top : top + rows] = change(pixels[top : top + rows])
    return changed


def _describe_error(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join((said or str(error)).split()) or type(error).__name__
