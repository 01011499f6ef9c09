"""Random augmentation of training images. Each result is a pure function of the image's key.

A key is (seed, epoch, index). The result does not depend on the batch, the position in it, the
process or the number of replicas. So a run can be resumed, or use more devices, and still see the
same images.

The steps have this order, whatever the order of `--augment`. u is uniform in [-1, 1) and drawn anew
at each place:

1. resized_crop:A: a window at a random place fills the image, as in Szegedy et al. 2015. Its area
   is uniform from A to 1 of the whole, its aspect ratio log-uniform from 3/4 to 4/3, and its sides
   at most those of the image.
2. flip: mirrored left to right with probability 1/2.
3. zoom:P: a window of (1 + u P) of the side, in both directions, fills the image.
4. rotate:P: rotated about the centre by u P turns, counter-clockwise if positive.
5. shift:P: moved by u P of the width and u P of the height.
6. crop:N: moved by whole pixels, uniform in -N .. N, in x and in y. This equals padding with N
   black pixels and a random crop of the original size (He et al. 2016, for CIFAR).
7. color:P: saturation and contrast times (1 + u P), brightness plus u P 255.
8. randaugment:N:M: N operations of keras.layers.RandAugment, with factor M. The ranges are Keras'
   own: rotations (up to M of a full turn), translations and brightness go in one direction only,
   and small M posterizes and solarizes more than large M.

Steps 1 to 6 are one projective transform, so that pixels are interpolated (bilinear) only once.
With flip and crop alone, pixels are copied. Pixels from outside of the image are 0, the background
of digits and the convention for photographs.

mixup and cutmix combine two images after these steps: `tl_keras.data.mixing`.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from tl_keras.config.augmentation import Augmentation
from tl_keras.data.draws import draw_bits, draw_integers, draw_uniform
from tl_keras.errors import UsageError

# Each draw has its own column of an image's random numbers, so that an operation does not change
# the draws of the others.
(FLIP, ZOOM, ROTATE, SHIFT_X, SHIFT_Y, CROP_X, CROP_Y, BRIGHTNESS, CONTRAST, SATURATION) = range(10)
RANDAUGMENT = 10
COLUMNS_PER_OPERATION = 3  # the operation, and two halves of the seed of its strength
# After those of the largest number of operations, and those of mixing.
(AREA, ASPECT, LEFT, TOP) = range(60, 64)
MAX_ASPECT = 4 / 3

RANDAUGMENT_LAYERS = (
    "random_shear",
    "random_translation",
    "random_rotation",
    "random_brightness",
    "random_color_degeneration",
    "random_contrast",
    "random_sharpness",
    "random_posterization",
    "solarization",
    "auto_contrast",
    "equalization",
)


def augment(
    images: tf.Tensor, keys: tf.Tensor, augmentation: Augmentation, size: int = 0
) -> tf.Tensor:
    """Augment a batch of images, each by its key.

    For `tf.data.Dataset.map` on batches. It also runs eagerly.

    Args:
        images: (batch, height, width, channels) uint8.
        keys: (batch, 3) int64 or int32: the seed, the epoch and the index of each image.
        augmentation: the operations. The module docstring gives their order and distributions.
        size: side of the result of resized_crop in pixels; 0 for that of the images.

    Returns:
        (batch, height, width, channels) uint8; `images` itself without operations.

    Raises:
        UsageError: crop is as large as the image.
        ValueError: color or randaugment with other than 1 or 3 channels.
    """
    if augmentation.is_identity:
        return images
    columns = RANDAUGMENT + COLUMNS_PER_OPERATION * augmentation.randaugment
    draws = draw_bits(keys, TOP + 1 if augmentation.resized_crop else columns)
    if augmentation.moves:
        images = _move(images, draws, augmentation, size)
    if augmentation.color:
        images = _recolor(images, draws, augmentation.color)
    if augmentation.randaugment:
        images = _apply_randaugment(images, draws, augmentation)
    return images


def _move(
    images: tf.Tensor, draws: tf.Tensor, augmentation: Augmentation, result_size: int
) -> tf.Tensor:
    height, width = images.shape[1], images.shape[2]
    before = tf.shape(images)[1:3]
    if augmentation.resized_crop and result_size:
        height = width = result_size
    if any(side is not None and side <= augmentation.crop for side in (height, width)):
        raise UsageError(
            f"crop:{augmentation.crop} is too large for images of {height} x {width} pixels."
            f" Choose less than crop:{min(height, width)}"
        )
    size = before if height is None or width is None else tf.constant([height, width])
    transforms = _make_transforms(draws, augmentation, size)
    if augmentation.resized_crop:
        transforms = _look_through_window(
            transforms, draws, augmentation.resized_crop, before, size
        )
    # Moves by whole pixels copy pixels, which is exact and takes half the time.
    interpolates = augmentation.interpolates
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        # On uint8, bilinear interpolation truncates: half a grey level darker on average.
        images=tf.cast(images, tf.float32) if interpolates else images,
        transforms=tf.cast(transforms, tf.float32),
        output_shape=size,
        fill_value=0.0,
        interpolation="BILINEAR" if interpolates else "NEAREST",
        fill_mode="CONSTANT",
    )
    moved = tf.cast(moved + 0.5, tf.uint8) if interpolates else moved
    return tf.ensure_shape(moved, [images.shape[0], height, width, images.shape[3]])


def _look_through_window(
    transforms: tf.Tensor, draws: tf.Tensor, smallest: float, before: tf.Tensor, after: tf.Tensor
) -> tf.Tensor:
    """Return (batch, 8) float64 transforms that see a window in place of the whole image.

    Args:
        transforms: (batch, 8) float64, from output positions to positions in the window, which has
            the size of the output.
        draws: see `draw_bits`.
        smallest: smallest area of the window, as a fraction of the image.
        before: (2,) height and width of the image.
        after: (2,) height and width of the output.
    """
    area = 0.5 * (1.0 + smallest) + draw_uniform(draws, AREA, 0.5 * (1.0 - smallest))
    aspect = tf.exp(draw_uniform(draws, ASPECT, float(np.log(MAX_ASPECT))))
    sides = tf.minimum(tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)], axis=1), 1.0)
    places = tf.stack([draw_uniform(draws, column, 0.5) + 0.5 for column in (TOP, LEFT)], axis=1)
    length = tf.cast(before, tf.float64)
    first = places * (1.0 - sides) * length
    scale = sides * length / tf.cast(after, tf.float64)
    (top, left), (by_y, by_x) = tf.unstack(first, axis=1), tf.unstack(scale, axis=1)
    x_by_x, x_by_y, x_start, y_by_x, y_by_y, y_start, *flat = tf.unstack(transforms, axis=1)
    rows = [
        *(by_x * x_by_x, by_x * x_by_y, left + by_x * (x_start + 0.5) - 0.5),
        *(by_y * y_by_x, by_y * y_by_y, top + by_y * (y_start + 0.5) - 0.5),
    ]
    return tf.stack([*rows, *flat], axis=1)


def _make_transforms(draws: tf.Tensor, augmentation: Augmentation, size: tf.Tensor) -> tf.Tensor:
    """Return (batch, 8) float64, the projective transforms from output to input positions.

    Computed in float64 up to the last step. TensorFlow's float32 cosine depends on the position in
    the batch, because its vector and scalar code differ in the last bit.
    """
    height, width = tf.unstack(tf.cast(size, tf.float64))
    center_x, center_y = (width - 1.0) * 0.5, (height - 1.0) * 0.5
    mirror = tf.ones_like(draws[:, FLIP], tf.float64)
    if augmentation.flip:
        mirror = tf.where(draws[:, FLIP] < 0, -mirror, mirror)
    scale = 1.0 + draw_uniform(draws, ZOOM, augmentation.zoom)
    angle = draw_uniform(draws, ROTATE, augmentation.rotate * 2.0 * np.pi)
    right = draw_uniform(draws, SHIFT_X, augmentation.shift * width)
    down = draw_uniform(draws, SHIFT_Y, augmentation.shift * height)
    crop = augmentation.crop
    right += tf.cast(draw_integers(draws, CROP_X, 2 * crop + 1) - crop, tf.float64)
    down += tf.cast(draw_integers(draws, CROP_Y, 2 * crop + 1) - crop, tf.float64)

    # The inverse of the steps: from the shifted and rotated position to its origin.
    cosine, sine = scale * tf.cos(angle), scale * tf.sin(angle)
    x_by_x, x_by_y = mirror * cosine, -mirror * sine
    y_by_x, y_by_y = sine, cosine
    x_start = center_x - x_by_x * (center_x + right) - x_by_y * (center_y + down)
    y_start = center_y - y_by_x * (center_x + right) - y_by_y * (center_y + down)
    flat = tf.zeros_like(x_start)
    rows = [x_by_x, x_by_y, x_start, y_by_x, y_by_y, y_start, flat, flat]
    return tf.stack(rows, axis=1)


def _recolor(images: tf.Tensor, draws: tf.Tensor, limit: float) -> tf.Tensor:
    """Return c (g + s (x - g)) + (1 - c) m + b, cut to 0 .. 255.

    g is the pixel's grey value, m the mean of g over the image. Saturation does not change grey
    images, and equal channels stay equal.
    """
    pixels = tf.cast(images, tf.float32)
    grey = pixels
    if _check_channels(images, "color") == 3:
        # Multiples of 1/256, so that grey and its sum are exact in any order of addition.
        weights = tf.constant([77 / 256, 150 / 256, 29 / 256])
        grey = tf.reduce_sum(pixels * weights, axis=-1, keepdims=True)
    total = tf.reduce_sum(tf.cast(grey, tf.float64), axis=[1, 2, 3])
    mean = total * (1.0 / tf.cast(tf.reduce_prod(tf.shape(images)[1:3]), tf.float64))
    contrast = 1.0 + draw_uniform(draws, CONTRAST, limit)
    brightness = draw_uniform(draws, BRIGHTNESS, limit * 255.0)
    offset = _per_image((1.0 - contrast) * mean + brightness)
    saturation = _per_image(1.0 + draw_uniform(draws, SATURATION, limit))
    # No two sums in a row: a graph may reorder them, which changes the last bit.
    saturated = grey + saturation * (pixels - grey)
    return _to_uint8(_per_image(contrast) * saturated + offset)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.cast(values, tf.float32), [-1, 1, 1, 1])


def _to_uint8(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(pixels, 0.0, 255.0) + 0.5, tf.uint8)


def _check_channels(images: tf.Tensor, name: str) -> int:
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"{name} needs images of 1 or 3 channels, received shape {images.shape}")
    return channels


class _KeyedSeeds(keras.random.SeedGenerator):
    """A stateless seed generator for Keras layers, derived from one image's seed."""

    # The parent's __init__ would create a variable that counts the calls of the whole run.
    def __init__(self, seed: tf.Tensor):
        self._seed = seed
        self._calls = 0

    def next(self, ordered: bool = True) -> tf.Tensor:
        self._calls += 1
        return self._seed + tf.constant([0, self._calls], self._seed.dtype)


@functools.lru_cache
def _randaugment_layer(magnitude: float) -> keras.layers.RandAugment:
    # Its unused seed generators are variables, which must not be created inside a graph.
    with tf.init_scope():
        return keras.layers.RandAugment(
            factor=magnitude, seed=0, data_format="channels_last", dtype="float32"
        )


def _apply_randaugment(
    images: tf.Tensor, draws: tf.Tensor, augmentation: Augmentation
) -> tf.Tensor:
    """Apply RandAugment (Cubuk et al. 2020) with the operations and the ranges of Keras.

    Operations are drawn with replacement, and each draws its own strength. Images are processed one
    by one, because Keras equalizes over the whole batch.
    """
    layer = _randaugment_layer(augmentation.magnitude)
    layers = [getattr(layer, name) for name in RANDAUGMENT_LAYERS]
    _check_channels(images, "randaugment")

    def apply(index: int, picture: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        strength = layers[index].get_random_transformation(picture, seed=_KeyedSeeds(seed))
        return layers[index].transform_images(picture, strength)

    def change(inputs: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
        image, numbers = inputs
        picture = tf.cast(image, tf.float32)[None]
        for step in range(augmentation.randaugment):
            first = RANDAUGMENT + COLUMNS_PER_OPERATION * step
            chosen = tf.cast(draw_integers(numbers[None], first, len(layers))[0], tf.int32)
            seed = tf.cast(numbers[first + 1 : first + COLUMNS_PER_OPERATION], tf.int32)
            branches = [
                functools.partial(apply, index, picture, seed) for index in range(len(layers))
            ]
            picture = tf.switch_case(chosen, branches)
        return _to_uint8(picture[0])

    signature = tf.TensorSpec(images.shape[1:], tf.uint8)
    return tf.map_fn(change, (images, draws), fn_output_signature=signature)
