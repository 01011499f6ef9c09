"""mixup and cutmix: two training images and their labels become one.

Image x_i with label y_i (one-hot) and its partner x_j, y_j become, pixel by pixel,

    x = m x_i + (1 - m) x_j    and    y = s y_i + (1 - s) y_j,    s = the mean of m.

mixup:A (Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018): m is one weight for
all pixels, drawn of Beta(A, A).
cutmix:A (Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable
Features", ICCV 2019): m is 0 in a box and 1 around it. The box has sqrt(1 - w) of each side, with w
of Beta(A, A). Its centre is uniform over the image, and it is clipped at the edges. s is computed
after clipping. With both, each pair gets one of them, with probability 1/2 each.

keras.layers.MixUp and CutMix are not used. They permute the local batch, so an image would depend
on the number of replicas. Their CutMix has no A, and computes s before the box is rounded to whole
pixels.
"""

import functools

import numpy as np
import tensorflow as tf
from scipy.special import betaincinv

from tl_keras.config.augmentation import OPERATIONS, Augmentation
from tl_keras.data import augment
from tl_keras.data.draws import draw_bits, draw_integers

# Columns of an image's random numbers, behind all columns of the augmentation, so that neither
# changes the draws of the other.
FIRST_COLUMN = augment.RANDAUGMENT + augment.COLUMNS_PER_OPERATION * int(
    OPERATIONS["randaugment"].high
)
WEIGHT, CENTER_X, CENTER_Y, CHOICE = range(FIRST_COLUMN, FIRST_COLUMN + 4)

QUANTILES = 2**16


def mix(
    images: tf.Tensor, partners: tf.Tensor, keys: tf.Tensor, augmentation: Augmentation
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mix every image with its partner, as the image's key decides.

    Args:
        images: (batch, height, width, channels) uint8.
        partners: the same shape; row i is mixed into row i of `images`.
        keys: (batch, 3) int64 or int32: the seed, the epoch and the index of each of `images`.
        augmentation: says mixup, cutmix or both.

    Returns:
        images: the same shape, uint8, and shares: (batch,) float32, the share s of `images` in
            each; the rest is of `partners`.
    """
    draws = draw_bits(keys, CHOICE + 1)
    if augmentation.mixup:
        shares = draw_weights(draws, augmentation.mixup)
        mask = shares[:, None, None, None]
    if augmentation.cutmix:
        outside, area_shares = _draw_boxes(draws, augmentation.cutmix, tf.shape(images)[1:3])
        if augmentation.mixup:
            is_box = draws[:, CHOICE] < 0
            mask = tf.where(is_box[:, None, None, None], outside, mask)
            shares = tf.where(is_box, area_shares, shares)
        else:
            mask, shares = outside, area_shares
    # One sum of two products, which a graph cannot reorder.
    mixed = mask * tf.cast(images, tf.float32) + (1.0 - mask) * tf.cast(partners, tf.float32)
    return tf.ensure_shape(tf.cast(tf.round(mixed), tf.uint8), images.shape), shares


def mix_labels(
    labels: tf.Tensor, partner_labels: tf.Tensor, shares: tf.Tensor, num_classes: int
) -> tf.Tensor:
    """Return (batch, num_classes) float32, the target probabilities of mixed images.

    Args:
        labels: (batch,) int64.
        partner_labels: (batch,) int64.
        shares: (batch,) float32, the share of `labels` in each image.
        num_classes: number of classes.
    """
    wanted, others = (tf.one_hot(one, num_classes) for one in (labels, partner_labels))
    return shares[:, None] * wanted + (1.0 - shares[:, None]) * others


def draw_weights(draws: tf.Tensor, alpha: float) -> tf.Tensor:
    """Return (batch,) float32, distributed as Beta(alpha, alpha)."""
    quantiles = tf.constant(_beta_quantiles(alpha), tf.float32)
    return tf.gather(quantiles, draw_integers(draws, WEIGHT, QUANTILES))


@functools.lru_cache
def _beta_quantiles(alpha: float) -> np.ndarray:
    """Return (QUANTILES,) float64, equally likely quantiles of Beta(alpha, alpha).

    A table, because TensorFlow has no stateless Beta distribution.
    """
    return betaincinv(alpha, alpha, (np.arange(QUANTILES) + 0.5) / QUANTILES)


def _draw_boxes(draws: tf.Tensor, alpha: float, size: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mask m of cutmix, (batch, height, width, 1) float32, and its mean, (batch,)."""
    halves = tf.constant(0.5 * np.sqrt(1.0 - _beta_quantiles(alpha)), tf.float64)
    half = tf.gather(halves, draw_integers(draws, WEIGHT, QUANTILES))
    inside, sides = [], []
    for axis, column in enumerate((CENTER_Y, CENTER_X)):
        length = tf.cast(size[axis], tf.int64)
        reach = tf.cast(half * tf.cast(length, tf.float64), tf.int64)
        center = draw_integers(draws, column, length)
        first, end = tf.maximum(center - reach, 0), tf.minimum(center + reach, length)
        places = tf.range(length)
        inside.append((places >= first[:, None]) & (places < end[:, None]))
        sides.append(end - first)
    rows, columns = inside
    outside = ~(rows[:, :, None, None] & columns[:, None, :, None])
    # Integers up to one division, so that a share is exactly the share of the pixels.
    pixels = tf.cast(size[0] * size[1], tf.int64)
    shares = (pixels - sides[0] * sides[1]) / pixels
    return tf.cast(outside, tf.float32), tf.cast(shares, tf.float32)
