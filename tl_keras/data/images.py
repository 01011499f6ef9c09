"""Pure operations on decoded pictures: grey, alpha, size, and the framing that MNIST has."""

import numpy as np
from PIL import Image

FRAME_SIZE = 28
INK_SIZE = 20
# Row and column of the mass centre: over MNIST's 60,000 training images it is 14.0, give or take
# the half pixel of a shift by whole pixels.
CENTRE = 14

# A picture whose brightest ink is closer to the paper than this (of 255) has none: it is noise.
MIN_CONTRAST = 32
# Ink begins at a tenth of the way from paper to the strongest ink: above the noise of JPEG and of
# scanners, below most of the grey rim of a stroke. MNIST models read USPS equally well from 0.05
# to 0.3; the lower it is, the less MNIST's own pictures change.
INK_THRESHOLD = 0.1
# On USPS' training images Lanczos reads better than bilinear or nearest: 98.5, 98.2, 97.8 %.
LANCZOS_LOBES = 3
# Values that one step of `frame` may hold at a time, so that its memory does not grow with the set.
CHUNK_VALUES = 1 << 22


def to_grey(images: np.ndarray) -> np.ndarray:
    """Bring pictures to their luminance (ITU-R 601, as Pillow does).

    Args:
        images: (..., 1) or (..., 3) uint8.

    Returns:
        (..., 1) uint8; grey pictures come back as they are.

    Raises:
        ValueError: for another number of channels.
    """
    channels = images.shape[-1]
    if channels == 1:
        return images
    if channels != 3:
        raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
    red, green, blue = np.moveaxis(images.astype(np.uint32), -1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)[..., None]


def composite_on_white(images: np.ndarray) -> np.ndarray:
    """Lay pictures with transparency over white.

    Args:
        images: (..., 2) grey and alpha, or (..., 4) colour and alpha, uint8; alpha 0 is clear.

    Returns:
        (..., 1) or (..., 3) uint8.
    """
    colour = images[..., :-1].astype(np.uint32)
    alpha = images[..., -1:].astype(np.uint32)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Resize one picture to a square, antialiased (bilinear); its aspect is not kept.

    Args:
        image: (height, width, 1 or 3) uint8.
        size: side of the result in pixels.

    Returns:
        (size, size, channels) uint8.
    """
    if image.shape[:2] == (size, size):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    return resized.reshape(size, size, image.shape[-1])


def frame(images: np.ndarray) -> np.ndarray:
    """Frame pictures as MNIST's were: 20 pixels of ink, centred by mass in 28, white on black.

    Ink is what differs from the border: where the border's median is bright (above 127), the
    picture is inverted first; the border's level becomes black and the strongest ink white. The
    ink's bounding box is fitted into 20x20, keeping its aspect (Lanczos, antialiased), and shifted
    by whole pixels to bring the mass centre to row and column 14, as far as the box stays inside.
    A picture without ink comes out black. A picture of MNIST comes out nearly as it was.

    Args:
        images: (examples, height, width), or the same with 1 or 3 channels at the end, uint8;
            colour is brought to its luminance first.

    Returns:
        (examples, 28, 28, 1) uint8.

    Raises:
        ValueError: if the images are not uint8, of that shape, and at least one pixel large.
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
    """Return first and one past the last true of each row of (examples, length); 0, 0 for none."""
    last = has_ink.shape[1] - has_ink[:, ::-1].argmax(axis=1)
    return has_ink.argmax(axis=1), np.where(has_ink.any(axis=1), last, 0)


def _resampling_matrices(
    mass: np.ndarray, first: np.ndarray, last: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Return the matrices (examples, 28, length) that resample one axis and centre it.

    Args:
        mass: (examples, length) ink along the axis.
        first: (examples,) where the ink begins.
        last: (examples,) one past where it ends.
        scale: (examples,) output pixels for one input pixel.
    """
    position = np.arange(mass.shape[1])
    inside = (position >= first[:, None]) & (position < last[:, None])
    mass = mass * inside
    # A line that is thinner than a pixel after scaling still gets one.
    size = np.maximum(np.rint((last - first) * scale), 1)
    scale = size / np.maximum(last - first, 1)
    centre = (mass @ (position + 0.5)) / np.maximum(mass.sum(axis=1), 1e-6) - first
    offset = np.rint(CENTRE + 0.5 - centre * scale)
    offset = np.clip(offset, 0, FRAME_SIZE - size)

    output = np.arange(FRAME_SIZE)
    source = (output + 0.5 - offset[:, None]) / scale[:, None] + first[:, None]
    distance = source[:, :, None] - (position + 0.5)
    # Shrinking widens the kernel by as much as it shrinks: that is the antialiasing.
    distance *= np.minimum(scale, 1)[:, None, None]
    weights = np.sinc(distance) * np.sinc(distance / LANCZOS_LOBES)
    weights *= (np.abs(distance) < LANCZOS_LOBES) & inside[:, None, :]
    total = weights.sum(axis=2, keepdims=True)
    in_box = (output >= offset[:, None]) & (output < (offset + size)[:, None])
    # A picture without ink has no weights to share out.
    weights = np.where(in_box[:, :, None], weights, 0) / np.where(total == 0, 1, total)
    return weights.astype(np.float32)
