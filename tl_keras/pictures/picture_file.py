"""Open and decode one image file of any common format.

A file may be damaged or malicious. It is decoded or raises a PictureError, and needs at most the
memory and time of an image of 50 million pixels (`limits`).
"""

import contextlib
import io
import os
import struct
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from PIL import BmpImagePlugin, IcoImagePlugin, Image, PngImagePlugin

from tl_keras.pictures import images, limits, pixels
from tl_keras.pictures.limits import NotAPictureError, PictureError
from tl_keras.pictures.picture_format import Rendering
from tl_keras.pictures.pixels import Raster

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
_ORIENTATION = 0x0112
# The kind of an ISO media file is that of one of these brands.
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


# A file's path, or its content.
Source = str | os.PathLike[str] | bytes


class PictureReader(io.BufferedReader):
    """A file, or bytes in memory, whose reads are limited to its size.

    Python allocates the requested size, and Pillow requests gigabytes for some damaged files.
    """

    def __init__(self, source: Source):
        """Open the file; its `size` is in bytes."""
        # BytesIO has all that a buffered reader needs of a raw file.
        raw = io.BytesIO(source) if isinstance(source, bytes) else io.FileIO(source)
        super().__init__(raw)  # type: ignore[arg-type]
        self.size = self.seek(0, io.SEEK_END)
        self.seek(0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all that are left."""
        if size is None or not 0 <= size <= io.DEFAULT_BUFFER_SIZE:
            left = max(0, self.size - self.tell())
            size = left if size is None or size < 0 else min(size, left)
        return super().read(size)

    def content(self) -> bytes:
        """Return the whole file."""
        self.seek(0)
        return self.read()


@contextlib.contextmanager
def open_picture(
    source: Source, max_pixels: int = limits.MAX_PIXELS
) -> Iterator[tuple[Image.Image, PictureReader]]:
    """Open an image file and check its header, without decoding it.

    Args:
        source: the file. Its content has no extension, so it is no image if its format is unknown.
        max_pixels: the limit of its pixels.

    Yields:
        The picture, not loaded, and its file.

    Raises:
        PictureError: the file is corrupt, cannot be opened or exceeds a limit. This includes every
            error of a library inside the `with` block.
        NotAPictureError: the file is no image and has no image extension.
        MemoryError: there is not enough memory for the image.
    """
    try:
        extension = ""
        if not isinstance(source, bytes):
            extension = os.path.splitext(source)[1].lower()  # noqa: PTH122 (four times faster)
        with PictureReader(source) as file, _open(file, extension, max_pixels) as picture:
            limits.check_size(*picture.size, max_pixels)
            if picture.format == "TIFF":
                limits.check_tiff(picture, max_pixels)
            yield picture, file
    except (PictureError, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise PictureError(_describe_error(error)) from error


def load_raster(picture: Image.Image, file: PictureReader) -> Raster:
    """Decode an opened picture, and turn it upright.

    Of an animation, the first frame is used. Palettes and CMYK become RGB.

    Raises:
        PictureError: see `open_picture`.
    """
    if picture.format in ("JPEG", "MPO"):
        limits.check_scans(file.content())
    if pixels.is_deep_colour(picture):
        raster = _load_deep_colour(file)
    else:
        picture.load()
        raster = pixels.rasterize(picture)
    # Both libraries turn a TIFF themselves.
    orientation = 1 if picture.format == "TIFF" else read_orientation(picture)
    if orientation == 1:
        return raster
    alpha = None if raster.alpha is None else turn_upright(raster.alpha, orientation)
    return Raster(turn_upright(raster.values, orientation), alpha)


def load(source: Source) -> np.ndarray:
    """Decode an image file by itself, with transparency on white and 16 bits divided by 257.

    Returns:
        (height, width, 1 or 3) uint8, with 1 channel if the file stores grey.

    Raises:
        PictureError: see `open_picture`.
    """
    with open_picture(source) as (picture, file):
        return pixels.to_8_bits(load_raster(picture, file), Rendering())


def _load_deep_colour(file: PictureReader) -> Raster:
    values = cv2.imdecode(np.frombuffer(file.content(), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16 or values.ndim != 3:
        raise PictureError("its channels of 16 bits cannot be read")
    alpha = None
    if values.shape[-1] == 4:
        alpha = (values[..., 3:] // 257).astype(np.uint8)
    return Raster(values[..., 2::-1], alpha)


def is_grey(image: np.ndarray) -> bool:
    """Return whether an image (height, width, 1 or 3) has equal channels."""
    if image.shape[-1] == 1:
        return True
    # A few pixels tell of most pictures that they are in colour.
    return all(bool((part == part[..., :1]).all()) for part in (image[::16, ::16], image))


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert an image (height, width, 1 or 3) uint8 to 1 channel (luminance) or 3."""
    if channels == 1:
        return images.to_grey(image)
    return image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)


def _open(file: PictureReader, extension: str, max_pixels: int) -> Image.Image:
    """Read the header. A failure without an image extension means that the file is no image."""
    try:
        if file.size > limits.MAX_BYTES:
            raise PictureError(f"{file.size} bytes are more than {limits.MAX_BYTES}")
        start = file.read(64)
        if start.startswith(b"\0\0\1\0"):
            _check_icon(file, max_pixels)
        formats = (*FORMATS, *FORMATS_BY_EXTENSION.get(extension, ()), *_heif_formats(start))
        return _identify(file, start[:16], formats)
    except MemoryError:
        raise
    except Exception as error:
        if extension not in EXTENSIONS:
            raise NotAPictureError("not a picture") from error
        raise


def _identify(file: PictureReader, start: bytes, formats: Sequence[str]) -> Image.Image:
    """Read the header, as `Image.open` does.

    It would apply a limit of pixels which can be changed for the whole process only, and it does
    not tell why a picture of a known format is not read.
    """
    reason = "not a picture, by its content"
    for name in formats:
        if name not in Image.OPEN:
            Image.init()
        factory, accepts = Image.OPEN[name]
        accepted = accepts is None or accepts(start)
        if accepted and not isinstance(accepted, str):  # text tells that it cannot be decoded
            try:
                file.seek(0)
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reason = f"damaged, or a kind of {name} that is not read: {_describe_error(error)}"
    raise PictureError(reason)


def _heif_formats(start: bytes) -> tuple[str, ...]:
    """Return Pillow's name of the format if the file is HEIC, and raise PictureError without it."""
    # AVIF is of the same family, and Pillow reads it.
    if start[4:8] != b"ftyp" or start[8:12] not in _HEIC_BRANDS or b"avif" in start:
        return ()
    try:
        import pillow_heif
    except ImportError:
        raise PictureError("HEIC is read with pip install 'tl_keras[heic]'") from None
    pillow_heif.register_heif_opener()
    return ("HEIF",)


def _check_icon(file: PictureReader, max_pixels: int) -> None:
    """Check the image inside an icon, which Pillow decodes when it opens the file."""
    file.seek(0)
    file.seek(IcoImagePlugin.IcoFile(file).entry[0].offset)
    is_png = file.peek(8).startswith(b"\x89PNG")
    kind = PngImagePlugin.PngImageFile if is_png else BmpImagePlugin.DibImageFile
    width, height = kind(file).size
    # A bitmap inside an icon is stacked on its mask.
    limits.check_size(width, height if is_png else height // 2, max_pixels)


def read_orientation(picture: Image.Image) -> int:
    """Return the orientation by EXIF or XMP, 1 to 8; 1 is upright, and stands for damaged data."""
    try:
        orientation = picture.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (height, width, channels) by an orientation of 1 to 8."""
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image)


def _describe_error(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else str(error)
    return " ".join((said or str(error)).split()) or type(error).__name__
