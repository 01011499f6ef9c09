"""Decode one picture to the size that a model takes.

A JPEG that is larger than needed is decoded at a scale of 1/8 to 7/8, as a part of decoding, so its
full size is never in memory. Milliseconds of CPU for a JPEG of 500x375 to 96 and 224 pixels, and of
4000x3000 to 224, decoded and resized: Pillow 1.0, 1.2 and 65; Pillow with draft mode 0.65, 1.2 and
13.5; libjpeg-turbo (simplejpeg) with OpenCV's resizing 0.5, 0.7 and 13.7; TensorFlow 0.6, 0.8 and
23. Of the last, 12 are needed to read the file's entropy code, at whatever scale.
"""

from typing import NamedTuple

import numpy as np
import simplejpeg
from PIL import Image

from tl_keras.pictures import images, limits, picture_file, pixels
from tl_keras.pictures.picture_file import PictureReader, Source
from tl_keras.pictures.pixels import Levels, Rendering

_ORIENTATION = 0x0112


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
    with picture_file.open_picture(source, max_pixels) as (picture, file):
        levels = Levels()
        if picture.format in ("JPEG", "MPO") and picture.mode in ("L", "RGB"):
            image = _decode_jpeg(picture, file, form)
        else:
            raster = picture_file.load_raster(picture, file)
            levels = pixels.measure(raster)
            image = pixels.to_8_bits(raster, form.rendering)
    if form.framed:
        return Decoded(images.frame(image[None])[0], True, levels)
    image = images.fit(image, form.size, form.fit)
    return Decoded(image, picture_file.is_grey(image), levels)


def _decode_jpeg(picture: Image.Image, file: PictureReader, form: PictureFormat) -> np.ndarray:
    """Return (height, width, 1 or 3) uint8, upright and at least as large as `form` needs."""
    content = file.content()
    limits.check_scans(content)
    width, height = picture.size
    if form.framed:
        least = (height, width)
    elif form.fit == "pad":
        least = (form.size, 1) if height > width else (1, form.size)
    else:
        least = (form.size, form.size)
    image = simplejpeg.decode_jpeg(
        content,
        "GRAY" if picture.mode == "L" else "RGB",
        min_height=min(least[0], height),
        min_width=min(least[1], width),
    )
    return _turn(image, _read_orientation(picture))


def _read_orientation(picture: Image.Image) -> int:
    if not {"exif", "xmp"} & picture.info.keys():
        return 1
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data does not make the image unreadable
        return 1


def _turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image upright, by its EXIF orientation of 1 to 8."""
    if orientation in (3, 4, 6, 7):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    return np.ascontiguousarray(image)
