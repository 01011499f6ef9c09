"""mixup and cutmix: their formulas, whose weights are Beta, and batches that the key decides."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Records, setting, sharing, sweep
from scipy import stats

from tl_keras.config.augmentation import parse
from tl_keras.data import augment, mixing
from tl_keras.data.draws import draw_bits
from tl_keras.data.pipeline import IMAGE_ORDER, PARTNER_ORDER, Stream
from tl_keras.methods import catalog
from tl_keras.training.loop import Loop

TEXTS = ["mixup:0.2", "cutmix:1", "shift:0.2,flip,mixup:1,cutmix:0.5"]
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 9, 7, 3), np.uint8)
LABELS = np.arange(24) % 5


def make_keys(count, seed=0):
    return tf.stack([np.full(count, seed), np.full(count, 2), np.arange(count)], axis=1)


def make_pairs(count, height=9, width=7, channels=3):
    generator = np.random.default_rng(1)
    return generator.integers(0, 256, (2, count, height, width, channels), np.uint8)


def mixed(text, pairs, seed=0):
    images, partners = (tf.constant(one) for one in pairs)
    images, shares = mixing.mix(images, partners, make_keys(len(images), seed), parse(text))
    return images.numpy(), shares.numpy()


def stream(text, batch_size=8, seed=3, **others):
    augmentation = parse(text)
    return Stream(
        IMAGES, LABELS, batch_size, seed, augmentation=augmentation, num_classes=5, **others
    )


def taken(of, steps, first_step=0, replicas=1):
    """Return the images and the labels of some steps, each as one array."""
    elements = of.batches(first_step, sharing(replicas)).take(steps * replicas).as_numpy_iterator()
    return [np.concatenate(parts) for parts in zip(*elements, strict=True)]


# Arithmetic


def test_mixup_is_the_weighted_mean_of_each_pair():
    pairs = make_pairs(200)
    found, shares = mixed("mixup:1", pairs)
    assert found.dtype == np.uint8 and shares.dtype == np.float32
    share = shares.astype(np.float64)[:, None, None, None]
    expected = share * pairs[0] + (1 - share) * pairs[1]
    assert np.abs(found - expected).max() <= 0.5 + 1e-4
    assert len(np.unique(shares)) > 190


def test_mixup_is_that_of_keras_given_its_weights_and_partners():
    pairs = make_pairs(20)
    found, shares = mixed("mixup:1", pairs)
    both = {"mix_weight": np.tile(shares, 2), "permutation_order": np.roll(np.arange(40), 20)}
    layer = keras.layers.MixUp(seed=0)
    expected = layer.transform_images(np.concatenate(pairs), both)[:20]
    np.testing.assert_array_equal(found, np.round(np.asarray(expected)))
    labels = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    rows = mixing.mix_labels(np.arange(20) % 4, np.arange(20) % 4, shares, 4)
    np.testing.assert_allclose(rows, layer.transform_labels(labels, both)[:20], atol=1e-6)


def test_cutmix_puts_one_box_of_the_partner_into_each_picture():
    count, height, width = 400, 12, 20
    black_and_white = np.zeros((2, count, height, width, 1), np.uint8)
    black_and_white[1] = 255
    found, shares = mixed("cutmix:1", black_and_white)
    assert set(np.unique(found)) == {0, 255}
    for picture, share in zip(found[..., 0] == 255, shares, strict=True):
        rows, columns = picture.any(axis=1), picture.any(axis=0)
        # All pixels of the rows and of the columns that it touches, which lie side by side.
        assert np.array_equal(picture, rows[:, None] & columns)
        assert all(np.abs(np.diff([0, *line, 0])).sum() in (0, 2) for line in (rows, columns))
        assert share == np.float32(1 - picture.mean())
    assert (shares == 1).any() and shares.min() < 0.4


def test_cutmix_leaves_the_pixels_of_both_as_they_are():
    pairs = make_pairs(50)
    found, shares = mixed("cutmix:1", pairs)
    own, other = ((found == one).all(axis=-1) for one in pairs)
    assert (own | other).all()
    np.testing.assert_allclose(own.mean(axis=(1, 2)), shares, atol=1e-6)


def test_cutmix_takes_boxes_of_the_drawn_size_from_everywhere(monkeypatch):
    """A box in the middle has int(sqrt(1 - w) / 2 side) on each side of its centre."""
    side, count = 20, 16
    pairs = np.stack([np.zeros((count, side, side, 1)), np.ones((count, side, side, 1))])
    row = np.zeros((count, mixing.CHOICE + 1), np.int64)
    row[:, mixing.WEIGHT] = np.linspace(-(2**31), 2**31 - 1, count).astype(np.int64)
    monkeypatch.setattr(mixing, "draw_bits", lambda keys, _: tf.constant(row))
    found, _ = mixed("cutmix:1", pairs.astype(np.uint8))
    # Beta(1, 1) is uniform: the quantile is the draw itself.
    drawn = ((row[:, mixing.WEIGHT] + 2**31) // 2**16 + 0.5) / 2**16
    half = np.floor(np.sqrt(1 - drawn) / 2 * side)
    np.testing.assert_array_equal(found.sum(axis=(1, 2, 3)), (2 * half) ** 2)
    row[:, mixing.CENTER_Y] = -(2**31)
    row[:, mixing.CENTER_X] = 2**31 - 1
    found, _ = mixed("cutmix:1", pairs.astype(np.uint8))
    # Around the upper right corner: what goes beyond the edge is not there.
    np.testing.assert_array_equal(found.sum(axis=(1, 2, 3)), half * np.minimum(half + 1, side))
    assert (found[half > 1, 0, side - 1] == 1).all()


def test_mixup_and_cutmix_together_give_each_pair_one_of_them():
    pairs = make_pairs(1000)
    both, shares = mixed("mixup:0.5,cutmix:2", pairs)
    by_mixup, mixup_shares = mixed("mixup:0.5", pairs)
    by_cutmix, cutmix_shares = mixed("cutmix:2", pairs)
    is_mixup, is_cutmix = shares == mixup_shares, shares == cutmix_shares
    assert (is_mixup | is_cutmix).all()
    assert 440 < is_mixup.sum() < 560
    np.testing.assert_array_equal(both[is_mixup], by_mixup[is_mixup])
    np.testing.assert_array_equal(both[is_cutmix], by_cutmix[is_cutmix])


def test_label_rows_hold_the_share_of_each_class():
    labels, others = np.array([0, 1, 2]), np.array([1, 1, 0])
    rows = mixing.mix_labels(labels, others, np.float32([0.75, 0.25, 1.0]), 3)
    assert rows.dtype == tf.float32
    assert rows.numpy().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 1]]


# Weights


def drawn_weights(alpha):
    draws = draw_bits(make_keys(5000, seed=11), mixing.CHOICE + 1)
    return mixing.draw_weights(draws, alpha).numpy().astype(np.float64)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 3.0, 10.0])
def test_weights_are_distributed_as_beta(alpha):
    found = drawn_weights(alpha)
    # Below a half, where float32 holds them exactly enough however near to 0 they are.
    small, beta = found[found < 0.5], stats.beta(alpha, alpha)
    assert stats.kstest(small, lambda x: 2 * beta.cdf(x)).pvalue > 0.01
    assert 2400 < len(small) < 2600
    assert stats.kstest(1 - found[found >= 0.5], lambda x: 2 * beta.cdf(x)).statistic < 0.05


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 10.0])
def test_weights_have_the_mean_and_the_variance_of_beta(alpha):
    found = drawn_weights(alpha)
    assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    assert found.mean() == pytest.approx(0.5, abs=0.02)
    assert found.var() == pytest.approx(1 / (8 * alpha + 4), rel=0.05)


def test_weights_do_not_follow_from_what_augmentation_draws():
    draws = draw_bits(make_keys(2**14), mixing.CHOICE + 1).numpy()
    columns = [augment.FLIP, augment.SHIFT_X, mixing.FIRST_COLUMN - 1]
    columns += [mixing.WEIGHT, mixing.CENTER_X, mixing.CENTER_Y, mixing.CHOICE]
    together = np.corrcoef(draws[:, columns].T)
    assert len(set(columns)) == 7 and mixing.FIRST_COLUMN > augment.RANDAUGMENT + 3 * 9
    assert np.abs(together - np.eye(7)).max() < 4.5 / 2**7


# Batches


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.slow
def test_mixed_batch_is_the_same_on_two_replicas_and_from_any_step_on(text):
    images, rows = taken(stream(text), 12)
    for first, replicas in ((0, 2), (5, 1), (7, 2), (3, 4), (1, 3)):
        some_images, some_rows = taken(stream(text), 12 - first, first, replicas)
        np.testing.assert_array_equal(some_images, images[8 * first :])
        np.testing.assert_array_equal(some_rows, rows[8 * first :])


@pytest.mark.parametrize("text", TEXTS)
def test_mixed_picture_does_not_depend_on_the_batch_size(text):
    small, large = (taken(stream(text, batch_size=size), 48 // size) for size in (8, 24))
    for one, other in zip(small, large, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("text", TEXTS)
def test_mixed_batch_differs_with_the_seed_and_the_epoch(text):
    orders = [stream("none", 24, seed) for seed in (3, 4)]
    seen = set()
    for order, seed in zip(orders, (3, 4), strict=True):
        images, _ = taken(stream(text, 24, seed), 2)
        _, places = taken(Stream(IMAGES, np.arange(24), 24, seed), 2)
        assert order.count == 24
        for epoch in (0, 1):
            part = slice(24 * epoch, 24 * epoch + 24)
            seen.add(images[part][np.argsort(places[part])].tobytes())
    assert len(seen) == 4


@pytest.mark.parametrize("text", ["mixup:0.2", "cutmix:1", "mixup:1,cutmix:1"])
def test_mixed_batch_is_made_of_the_pictures_of_two_orders(text):
    of = stream(text, 24)
    images, rows = taken(of, 1)
    zero = tf.constant(0, tf.int64)
    (own, epochs), (others, _) = of.order(zero, zero, 1), of.order(zero, zero, 1, PARTNER_ORDER)
    assert sorted(others.numpy()) == list(range(24)) and (own != others).numpy().any()
    keys = of.keys(own, epochs)
    pair = [tf.constant(IMAGES[indices.numpy()]) for indices in (own, others)]
    expected, shares = mixing.mix(*pair, keys, parse(text))
    np.testing.assert_array_equal(images, expected)
    for row, first, second, share in zip(rows, own.numpy(), others.numpy(), shares, strict=True):
        wanted = float(share) * np.eye(5)[LABELS[first]]
        wanted += (1 - float(share)) * np.eye(5)[LABELS[second]]
        np.testing.assert_allclose(row, wanted, atol=1e-6)
    assert rows.dtype == np.float32 and rows.shape == (24, 5)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)


def test_partners_are_drawn_from_all_pictures_evenly():
    epochs = 1000
    of = stream("mixup:0.2", 24 * epochs)
    zero = tf.constant(0, tf.int64)
    own, partners = (
        of.order(zero, zero, 1, number)[0].numpy() for number in (IMAGE_ORDER, PARTNER_ORDER)
    )
    met = np.zeros((24, 24))
    np.add.at(met, (own, partners), 1)
    # Each two should meet 1000 / 24 times, with a variance of about that.
    assert ((met - epochs / 24) ** 2).mean() == pytest.approx(epochs / 24, rel=0.25)
    # Nor do partners come again as the epochs are counted up.
    assert len(np.unique(partners.reshape(epochs, 24), axis=0)) == epochs


@pytest.mark.parametrize("text", TEXTS)
def test_mixed_pictures_are_augmented_as_they_are_without_mixing(text):
    """With a share of 1 or 0, what comes out is one of the two pictures as it was augmented."""
    words = [word for word in text.split(",") if "mix" not in word]
    plain, labels = taken(
        Stream(IMAGES, np.arange(24), 24, 3, augmentation=parse(",".join(words) or "none")), 1
    )
    images, _ = taken(stream(",".join([*words, "mixup:0.01"]), 24), 1)
    known = {picture.tobytes(): label for picture, label in zip(plain, labels, strict=True)}
    found = [known.get(picture.tobytes()) for picture in images]
    # Beta(0.01, 0.01) is within a rounding of 0 or 1 nearly always.
    assert sum(label is not None for label in found) >= 20
    assert sum(label == own for label, own in zip(found, labels, strict=True)) < 20


def test_stream_keeps_labels_where_nothing_is_mixed():
    _, labels = taken(stream("flip"), 3)
    assert labels.dtype == np.int64 and labels.shape == (24,)


def test_stream_refuses_to_mix_without_the_number_of_classes():
    with pytest.raises(ValueError, match="num_classes, received 0"):
        Stream(IMAGES, LABELS, 8, 0, augmentation=parse("cutmix:1")).batches()


def test_mixed_batch_has_a_known_shape_and_is_brought_to_the_size_of_the_model():
    spec = stream("mixup:0.2,cutmix:1", image_size=13).batches().element_spec
    assert spec[0] == tf.TensorSpec((8, 13, 13, 3), tf.uint8)
    assert spec[1] == tf.TensorSpec((8, 5), tf.float32)


# Training


def run(given, method, folder):
    prepared = catalog.METHODS[method].prepare(given)
    records = Records()
    Loop(prepared.task, given.training, given.strategy, folder, records, "test").run()
    return prepared, records


@pytest.mark.parametrize("method", ["finetune", "joint"])
@pytest.mark.parametrize(
    "text",
    sweep(["mixup:0.2", "shift:0.1,cutmix:1", "mixup:1,cutmix:1"], fast=["shift:0.1,cutmix:1"]),
)
def test_training_on_mixed_pictures_learns_and_validates_on_whole_ones(tmp_path, method, text):
    given = setting(tmp_path, steps=80, label_smoothing=0.05, class_weights="balanced")
    given = given.__class__(
        **{**vars(given), "augmentation": parse(text), "source_augmentation": parse(text)}
    )
    prepared, records = run(given, method, tmp_path / "run")
    images = given.images.take(given.split.validation)
    logits = prepared.predict(images)
    assert np.mean(logits.argmax(1) == images.labels) > 0.8
    last = records[-1][1]
    assert last["validation/accuracy"] == np.mean(logits.argmax(1) == images.labels)


def test_streams_of_a_setting_know_the_classes_of_target_and_source(tmp_path):
    given = setting(tmp_path)
    target = given.stream(given.images, given.split.train)
    assert (target.num_classes, given.source_stream().num_classes) == (3, 3)
