"""Tests that the order of an epoch is like a random one, in what training would notice.

That two orders differ says little: a shuffle that moves each image by a few places passes that.
"""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chi2

from tl_keras.data.pipeline import IMAGE_ORDER, PARTNER_ORDER, Stream

SEEDS, EPOCHS = range(4), 12
# Images, and a size of batches that divides them.
SIZES = {10: 5, 50: 10, 1000: 100, 54000: 100}


def orders_of(count: int, which: str = IMAGE_ORDER) -> np.ndarray:
    """Return which image stands where, (seeds, epochs, count)."""
    images = np.zeros((count, 1, 1, 1), np.uint8)
    zero = tf.constant(0, tf.int64)
    return np.array(
        [
            [
                stream.order(tf.constant(epoch, tf.int64), zero, 1, which)[0].numpy()
                for epoch in range(EPOCHS)
            ]
            for stream in (Stream(images, np.zeros(count, int), count, s) for s in SEEDS)
        ]
    )


@pytest.fixture(scope="module", params=SIZES)
def orders(request) -> np.ndarray:
    return orders_of(request.param)


def assert_like_normal(scores: np.ndarray) -> None:
    """See that independent scores of mean 0 and deviation 1 are what they should be."""
    count = len(scores)
    assert abs(scores.mean()) < 4 / count**0.5
    # The sum of their squares is distributed as chi-squared.
    assert 1e-5 < chi2.cdf(np.sum(scores**2), count) < 1 - 1e-5
    assert np.abs(scores).max() < 4.5


def correlation_scores(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return rank correlations of pairs of orders, in their standard deviations."""
    count = first.shape[-1]
    pairs = zip(first.reshape(-1, count), second.reshape(-1, count), strict=True)
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs]) * (count - 1) ** 0.5


def test_order_does_not_go_with_the_stored_order(orders):
    stored = np.broadcast_to(np.arange(orders.shape[-1]), orders.shape)
    assert_like_normal(correlation_scores(orders, stored))


def test_order_does_not_go_with_that_of_the_epoch_before(orders):
    assert_like_normal(correlation_scores(orders[:, 1:], orders[:, :-1]))


def test_order_does_not_go_with_that_of_another_seed(orders):
    assert_like_normal(correlation_scores(orders[1:], orders[:-1]))


def test_every_image_comes_in_every_place_equally_often(orders):
    count = orders.shape[-1]
    places = np.broadcast_to(np.arange(count), orders.shape)
    table = np.histogram2d(
        places.ravel() * 10 // count, orders.ravel() * 10 // count, bins=(np.arange(11),) * 2
    )[0]
    expected = orders.size / 100
    # Each row and each column of each order is full, which leaves 9 times 9 free.
    shrink = (count - 1) / count
    statistic = ((table - expected) ** 2 / expected).sum() * shrink
    assert 1e-5 < chi2.cdf(statistic, 81) < 1 - 1e-5


def test_images_of_one_batch_meet_again_by_chance_alone(orders):
    count = orders.shape[-1]
    size = SIZES[count]
    batches = np.argsort(orders, axis=-1) // size
    rates = []
    for before, after in zip(batches[:, :-1].reshape(-1, count), batches[:, 1:].reshape(-1, count),
                             strict=True):  # fmt: skip
        together = np.bincount(before * (count // size) + after)
        rates.append((together * (together - 1)).sum() / (count * (size - 1)))
    chance = (size - 1) / (count - 1)
    error = np.std(rates, ddof=1) / len(rates) ** 0.5
    assert np.mean(rates) == pytest.approx(chance, abs=max(5 * error, 0.01 * chance))
    assert np.mean(rates) == pytest.approx(chance, rel=0.15)


def test_batches_of_data_stored_by_class_hold_the_classes_as_chance_has_it(orders):
    """Ten classes, one after the other: the share of the first in a batch is hypergeometric."""
    count = orders.shape[-1]
    size = SIZES[count]
    is_first = (orders < count // 10).reshape(-1, size).sum(axis=1)
    expected = size / 10 * 0.9 * (count - size) / (count - 1)
    assert is_first.var() == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("count", [10, 1000])
def test_partners_are_shuffled_as_well_and_apart_from_the_pictures(count):
    pictures, partners = (orders_of(count, which) for which in (IMAGE_ORDER, PARTNER_ORDER))
    assert_like_normal(correlation_scores(pictures, partners))
