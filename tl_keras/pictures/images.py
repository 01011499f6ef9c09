"""Pure functions on decoded images: grey, alpha, size, and MNIST's framing."""

from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

# Pictures are decoded in threads already. OpenCV's own would take half as much CPU time again.
cv2.setNumThreads(1)

FRAME_SIZE = 28
INK_SIZE = 20
# Row and column of the mass centre. Over MNIST's 60,000 training images it is 14.0, up to the half
# pixel of a shift by whole pixels.
CENTRE = 14

# An image whose brightest ink differs less than this (of 255) from the paper is noise without ink.
MIN_CONTRAST = 32
# Pixels above a tenth of the strongest ink are ink: above the noise of JPEG and of scanners, below
# most of the grey rim of a stroke. The accuracy of MNIST models on USPS is the same from 0.05 to
# 0.3. Lower values change MNIST's own images less.
INK_THRESHOLD = 0.1
# Accuracy on USPS' training images with Lanczos, bilinear and nearest: 98.5, 98.2, 97.8 %.
LANCZOS_LOBES = 3
# Up to this factor, four neighbours are enough: nothing is skipped. To 224 pixels, OpenCV takes 0.2
# ms and Pillow's antialiasing 0.5 ms. INTER_LINEAR_EXACT is the same on every processor.
MAX_PLAIN_SHRINK = 1.25
# Values that `frame` processes at a time, so that its memory does not grow with the dataset.
CHUNK_VALUES = 1 << 22


class Box(NamedTuple):
    """A part of an image, in pixels and their fractions."""

    top: float
    left: float
    height: float
    width: float


def to_grey(images: np.ndarray) -> np.ndarray:
    """Convert images to luminance (ITU-R 601, as Pillow does).

    Args:
        images: (..., 1) or (..., 3) uint8.

    Returns:
        (..., 1) uint8; grey images are returned unchanged.

    Raises:
        ValueError: for another number of channels.
    """
    channels = images.shape[-1]
    if channels == 1:
        return images
    if channels != 3:
        raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
    total = np.full(images.shape[:-1], 32768, np.uint32)
    for channel, weight in enumerate((19595, 38470, 7471)):
        total += images[..., channel] * np.uint32(weight)
    total >>= 16
    return total.astype(np.uint8)[..., None]


def composite(images: np.ndarray, alpha: np.ndarray, background: int = 255) -> np.ndarray:
    """Composite images with transparency on one grey level.

    Args:
        images: (..., channels) uint8.
        alpha: (..., 1) uint8; 0 is clear.
        background: the grey level, 0 to 255.

    Returns:
        (..., channels) uint8.
    """
    weights = alpha.astype(np.uint32)
    opaque = images.astype(np.uint32) * weights
    return ((opaque + background * (255 - weights) + 127) // 255).astype(np.uint8)


def fit(
    image: np.ndarray, size: int, how: str = "crop", shape: tuple[int, int] | None = None
) -> np.ndarray:
    """Bring one image to a square.

    Args:
        image: (height, width, 1 or 3) uint8.
        size: side of the result in pixels.
        how: "crop" cuts the centre square out; "pad" keeps the whole image, on black; "stretch"
            does not keep the aspect ratio.
        shape: height and width of the picture if `image` is a copy of it at a scale of 1/8 to 7/8,
            whose sides are rounded up to whole pixels.

    Returns:
        (size, size, channels) uint8.
    """
    height, width = shape or image.shape[:2]
    scale = (8 * max(image.shape[:2]) // max(height, width)) / 8
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        box = Box(top * scale, left * scale, side * scale, side * scale)
        return resize(image, size, size, box)
    whole = Box(0, 0, height * scale, width * scale)
    if how == "stretch" or height == width:
        return resize(image, size, size, whole)
    ratio = size / max(height, width)
    inside = resize(image, max(1, round(height * ratio)), max(1, round(width * ratio)), whole)
    padded = np.zeros((size, size, image.shape[-1]), np.uint8)
    top, left = (size - inside.shape[0]) // 2, (size - inside.shape[1]) // 2
    padded[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    return padded


def resize(image: np.ndarray, height: int, width: int, box: Box | None = None) -> np.ndarray:
    """Resize one image or a part of it, bilinear and antialiased.

    Args:
        image: (height, width, 1 or 3) uint8.
        height: of the result in pixels.
        width: of the result in pixels.
        box: the part to resize, which becomes the whole result; by default all of the image.

    Returns:
        (height, width, channels) uint8.
    """
    channels = image.shape[-1]
    box = box or Box(0, 0, *image.shape[:2])
    if all(float(edge).is_integer() for edge in box):
        top, left, rows, columns = map(int, box)
        image = image[top : top + rows, left : left + columns]
        box = Box(0, 0, rows, columns)
    if box == (0, 0, height, width) and image.shape[:2] == (height, width):
        return image
    if max(box.height / height, box.width / width) <= MAX_PLAIN_SHRINK:
        resized = _interpolate(image, height, width, box)
    else:
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        edges = box.left, box.top, box.left + box.width, box.top + box.height
        resized = np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, edges))
    return resized.reshape(height, width, channels)


def _interpolate(image: np.ndarray, height: int, width: int, box: Box) -> np.ndarray:
    """Resize a part of an image from the four neighbours of each pixel."""
    if image.shape[:2] == (box.height, box.width):
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)
    rows, columns = box.height / height, box.width / width
    matrix = np.array(
        [[columns, 0, box.left + (columns - 1) / 2], [0, rows, box.top + (rows - 1) / 2]]
    )
    return cv2.warpAffine(
        image,
        matrix,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
        hint=cv2.ALGO_HINT_ACCURATE,
    )


def frame(images: np.ndarray) -> np.ndarray:
    """Frame images as in MNIST: 20 pixels of ink, centred by mass in 28, white on black.

    Ink is the difference from the border's median. If the median is bright (above 127), the image
    is inverted first. The border's level becomes black and the strongest ink white. The ink's
    bounding box is resized to fit into 20x20, with its aspect ratio kept (Lanczos, antialiased). It
    is shifted by whole pixels to bring the mass centre to row and column 14, as far as the box
    stays inside. An image without ink becomes black. MNIST's own images stay nearly the same.

    Args:
        images: (examples, height, width), or the same with 1 or 3 channels at the end, uint8.
            Colour is converted to luminance first.

    Returns:
        (examples, 28, 28, 1) uint8.

    Raises:
        ValueError: the images are not uint8, not of that shape, or empty.
    """
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape[1:]:
        raise ValueError(f"frame takes uint8 pictures, not {images.dtype} {images.shape}")
    height, width = images.shape[1:3]
    chunk = max(1, CHUNK_VALUES // (height * width + FRAME_SIZE * (height + width)))
    framed = np.zeros((len(images), FRAME_SIZE, FRAME_SIZE, 1), np.uint8)
    for start in range(0, len(images), chunk):
        part = images[start : start + chunk]
        grey = to_grey(part)[..., 0] if part.ndim == 4 else part
        framed[start : start + chunk, ..., 0] = _frame_ink(_extract_ink(grey))
    return framed


def _extract_ink(grey: np.ndarray) -> np.ndarray:
    """Return (examples, height, width) float32, 0 for paper to 255 for the strongest ink."""
    values = grey.astype(np.float32)
    border = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], 1)
    paper = np.median(border, axis=1)[:, None, None]
    ink = np.maximum(np.where(paper > 127, paper - values, values - paper), 0)
    strongest = ink.max(axis=(1, 2), keepdims=True)
    return np.where(strongest < MIN_CONTRAST, 0, ink * (255 / np.maximum(strongest, 1)))


def _frame_ink(ink: np.ndarray) -> np.ndarray:
    """Fit and centre ink (examples, height, width) float32 into (examples, 28, 28) uint8."""
    is_ink = np.greater(ink, 255 * INK_THRESHOLD)
    top, bottom = _find_extent(is_ink.any(axis=2))
    left, right = _find_extent(is_ink.any(axis=1))
    scale = INK_SIZE / np.maximum(np.maximum(bottom - top, right - left), 1)
    rows = _resampling_matrices(ink.sum(axis=2), top, bottom, scale)
    columns = _resampling_matrices(ink.sum(axis=1), left, right, scale)
    framed = rows @ ink @ columns.transpose(0, 2, 1)
    return np.clip(np.rint(framed), 0, 255).astype(np.uint8)


def _find_extent(has_ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first true index of each row of (examples, length), and the last plus one.

    Both are 0 for a row without true values.
    """
    last = has_ink.shape[1] - has_ink[:, ::-1].argmax(axis=1)
    return has_ink.argmax(axis=1), np.where(has_ink.any(axis=1), last, 0)


def _resampling_matrices(
    mass: np.ndarray, first: np.ndarray, last: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Return (examples, 28, length) float32 matrices that resample and centre one axis.

    Args:
        mass: (examples, length) ink along the axis.
        first: (examples,) first index of the ink.
        last: (examples,) last index of the ink plus one.
        scale: (examples,) output pixels for one input pixel.
    """
    position = np.arange(mass.shape[1])
    inside = (position >= first[:, None]) & (position < last[:, None])
    mass = mass * inside
    # A line thinner than a pixel after scaling becomes one pixel wide.
    size = np.maximum(np.rint((last - first) * scale), 1)
    scale = size / np.maximum(last - first, 1)
    centre = (mass @ (position + 0.5)) / np.maximum(mass.sum(axis=1), 1e-6) - first
    offset = np.rint(CENTRE + 0.5 - centre * scale)
    offset = np.clip(offset, 0, FRAME_SIZE - size)

    output = np.arange(FRAME_SIZE)
    source = (output + 0.5 - offset[:, None]) / scale[:, None] + first[:, None]
    distance = source[:, :, None] - (position + 0.5)
    # Antialiasing: the kernel is widened by the factor of shrinking.
    distance *= np.minimum(scale, 1)[:, None, None]
    weights = np.sinc(distance) * np.sinc(distance / LANCZOS_LOBES)
    weights *= (np.abs(distance) < LANCZOS_LOBES) & inside[:, None, :]
    total = weights.sum(axis=2, keepdims=True)
    in_box = (output >= offset[:, None]) & (output < (offset + size)[:, None])
    # An image without ink has no weights to normalise.
    weights = np.where(in_box[:, :, None], weights, 0) / np.where(total == 0, 1, total)
    return weights.astype(np.float32)
