"""Decode one picture to the size that a model takes.

A JPEG that is larger than needed is decoded at a scale of 1/8 to 7/8, as a part of decoding, so its
full size is never in memory. Milliseconds of CPU for a JPEG of 500x375 to 96 and 224 pixels, and of
4000x3000 to 224, decoded and resized: Pillow 1.0, 1.2 and 65; Pillow with draft mode 0.65, 1.2 and
13.5; libjpeg-turbo (simplejpeg) with OpenCV's resizing 0.5, 0.7 and 13.7; TensorFlow 0.6, 0.8 and
23. Of the last, 12 are needed to read the file's entropy code, at whatever scale. With reading the
file, `decode` takes 0.7, 0.9 and 16.8, and keras.utils.image_dataset_from_directory 0.75, 0.9 and
29.7, on files of more noise.
"""

import re
import threading
from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from tl_keras.pictures import images, limits, picture_file, pixels
from tl_keras.pictures.picture_file import Source
from tl_keras.pictures.picture_format import PictureFormat
from tl_keras.pictures.pixels import Levels

# What holds the orientation of a JPEG.
_UPRIGHT_INFO = frozenset(("exif", "xmp"))
# Warnings of libjpeg that pixels are wrong. Others are harmless.
_DAMAGE = re.compile("premature end|bad huffman|bad arithmetic|instead of rst|inconsistent", re.I)


_MAX_SCRATCH_BYTES = 1 << 24
# A hundred times the side of a framed image.
_MAX_FRAMED_SIDE = 2800


class Decoded(NamedTuple):
    """A decoded picture.

    Attributes:
        image: (size, size, 1 or 3) uint8. It may have 3 channels and still be grey.
        is_grey: whether the channels are equal.
        levels: see `pixels.Levels`.
    """

    image: np.ndarray
    is_grey: bool
    levels: Levels


def decode(source: Source, form: PictureFormat, max_pixels: int = limits.MAX_PIXELS) -> Decoded:
    """Decode a picture.

    Args:
        source: the file's path, or its content.
        form: the picture that is wanted.
        max_pixels: limit of the pixels that the file may declare.

    Raises:
        PictureError: the file cannot be used, see `picture_file.open_picture`.
        NotAPictureError: the file is no image and has no image extension.
        MemoryError: there is not enough memory for the image.
    """
    levels, orientation = Levels(), 1
    with picture_file.open_picture(source, max_pixels) as (picture, file):
        shape = picture.height, picture.width
        if picture.format in ("JPEG", "MPO"):
            image = _decode_jpeg(picture, file.content(), form)
            if not _UPRIGHT_INFO.isdisjoint(picture.info):
                orientation = picture_file.read_orientation(picture)
        else:
            raster = picture_file.load_raster(picture, file)
            levels = pixels.measure(raster)
            image = pixels.to_8_bits(raster, form.rendering)
            shape = image.shape[:2]
    if orientation != 1:
        image = picture_file.turn_upright(image, orientation)
        shape = shape if orientation < 5 else shape[::-1]
    if form.framed:
        return Decoded(images.frame(_limit_sides(image)[None])[0], True, levels)
    image = images.fit(image, form.size, form.fit, shape)
    if np.may_share_memory(image, _SCRATCH.get(0)):
        image = image.copy()
    return Decoded(image, picture_file.is_grey(image), levels)


def _limit_sides(image: np.ndarray) -> np.ndarray:
    """Shrink an image that `images.frame` would need gigabytes for."""
    height, width = image.shape[:2]
    scale = _MAX_FRAMED_SIDE / max(height, width)
    if scale >= 1:
        return image
    return images.resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


class _Scratch(threading.local):
    """Memory of a thread for decoded pictures before they are resized.

    Fresh memory for each picture would take a tenth of the time for decoding it.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def get(self, size: int) -> bytearray | None:
        """Return at least `size` bytes, or None if they are too many to be held."""
        if size > _MAX_SCRATCH_BYTES:
            return None
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        return self._buffer


_SCRATCH = _Scratch()


def _decode_jpeg(picture: Image.Image, content: bytes, form: PictureFormat) -> np.ndarray:
    """Return (height, width, 1 or 3) uint8, not turned, at the smallest scale that is enough.

    Raises:
        PictureError, ValueError: the file is damaged or has too many scans.
    """
    limits.check_scans(content)
    eighths = _choose_scale(picture.height, picture.width, form)
    height, width = (-(-side * eighths // 8) for side in (picture.height, picture.width))
    if picture.mode in ("L", "RGB"):
        try:
            return simplejpeg.decode_jpeg(
                content,
                "GRAY" if picture.mode == "L" else "RGB",
                min_height=height,
                min_width=width,
                buffer=_SCRATCH.get(height * width * len(picture.mode)),
            )
        except ValueError as error:
            if _DAMAGE.search(str(error)):
                raise
    # CMYK, and files with stray bytes between their parts.
    picture.draft(picture.mode, (width, height))
    picture.load()
    return pixels.to_8_bits(pixels.rasterize(picture), form.rendering)


def _choose_scale(height: int, width: int, form: PictureFormat) -> int:
    """Return the smallest scale, 1 to 8 eighths, that is not below the scale of the result."""
    if form.framed:
        return 8
    sides = {"crop": (min(height, width),), "pad": (max(height, width),)}
    return max(
        -(-8 * min(form.size, side) // side) for side in sides.get(form.fit, (height, width))
    )
