import json
import math

import numpy as np
import pytest

from tl_keras.errors import DivergedError
from tl_keras.report import metrics

NAMES = ("cat", "dog", "fox")
LABELS = np.array([0, 0, 0, 1])
PROBABILITIES = np.array(
    [[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]], np.float64
)


def classified(dtype=np.float64, shift=0.0):
    return metrics.classify(LABELS, (np.log(PROBABILITIES) + shift).astype(dtype), NAMES)


def test_classification_equals_hand_computed_numbers():
    found = classified()
    assert found.accuracy == 0.75
    expected = -(math.log(0.5) + math.log(0.5) + math.log(0.2) + math.log(0.8)) / 4
    assert found.loss == pytest.approx(expected, abs=1e-12)
    assert found.confusion.tolist() == [[2, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_classification_counts_each_class_and_has_none_for_an_empty_one():
    assert classified().per_class == {
        "cat": {"accuracy": pytest.approx(2 / 3), "count": 3},
        "dog": {"accuracy": 1.0, "count": 1},
        "fox": {"accuracy": None, "count": 0},
    }


def test_classification_keeps_its_loss_where_logits_are_huge():
    assert classified(shift=1e5).loss == pytest.approx(classified().loss, abs=1e-9)


def test_classification_adds_up_half_precision_in_double():
    logits = np.zeros((30000, 2), np.float16)
    found = metrics.classify(np.zeros(30000, int), logits, ("a", "b"))
    assert found.loss == pytest.approx(math.log(2), abs=1e-12)


def test_classification_record_survives_json():
    record = classified().as_record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) == {"accuracy", "loss", "per_class"}


@pytest.mark.parametrize(
    ("labels", "predicted", "expected"),
    [
        # Recalls 3/4 and 1/2; the accuracy is 4/6.
        ([0, 0, 0, 0, 1, 1], [0, 0, 0, 2, 1, 0], 0.625),
        # A class without images does not count, whether it is predicted or not.
        ([0, 0, 0, 3], [0, 1, 2, 3], (1 / 3 + 1) / 2),
        ([2, 2], [2, 2], 1.0),
        ([5], [0], 0.0),
        ([0] * 99 + [1], [0] * 100, 0.5),
    ],
)
def test_balanced_accuracy_is_the_mean_recall_of_the_classes_that_have_images(
    labels, predicted, expected
):
    found = metrics.balanced_accuracy(np.array(labels), np.array(predicted))
    assert found == pytest.approx(expected, abs=1e-12)


def test_balanced_accuracy_equals_the_accuracy_where_classes_have_equally_many_images():
    labels, predicted = np.repeat(np.arange(4), 25), np.random.default_rng(3).integers(0, 4, 100)
    expected = pytest.approx(np.mean(labels == predicted), abs=1e-12)
    assert metrics.balanced_accuracy(labels, predicted) == expected


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_classification_refuses_a_model_that_diverged(broken):
    logits = np.zeros((3, 3))
    logits[1, 2] = broken
    with pytest.raises(DivergedError, match="1 of 3 images.*--learning_rate.*another --workdir$"):
        metrics.classify(np.array([0, 1, 2]), logits, NAMES)


@pytest.mark.parametrize(
    ("labels", "shape"),
    [([], (0, 3)), ([0, 1], (3, 3)), ([0, 1], (2, 2)), ([0, 3], (2, 3)), ([-1, 0], (2, 3))],
)
def test_classification_refuses_what_does_not_fit(labels, shape):
    with pytest.raises(ValueError, match="expected labels"):
        metrics.classify(np.array(labels, int), np.zeros(shape), NAMES)


def test_spread_is_the_sample_standard_deviation():
    assert metrics.spread([0.9, 0.92, 0.97]) == pytest.approx((0.93, math.sqrt(0.0013), 3))


def test_spread_of_one_value_has_no_deviation():
    assert metrics.spread([0.5]) == (0.5, None, 1)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="received none"):
        metrics.spread([])


def right(*rows):
    """Return seed -> (images,) bool of rows such as "1101", one a seed."""
    return {seed: np.array([letter == "1" for letter in row]) for seed, row in enumerate(rows)}


def test_paired_gain_adds_the_squares_of_the_margins_of_seeds_and_images():
    # Differences (1, 1, 0, 0), (1, 0, 0, 0), (1, 1, 1, 0): means of seeds 1/2, 1/4, 3/4.
    gain = metrics.paired_gain(right("1100", "1000", "1110"), right("0000", "0000", "0000"))
    # t(0.975) of 2 and of 3 degrees of freedom in the tables: 4.302653 and 3.182446.
    of_seeds = 4.302653 * 0.25 / math.sqrt(3)
    # Means of images 1, 2/3, 1/3, 0, and the two more, 1 and -1: sum 2, squares 32/9.
    of_images = 3.182446 * math.sqrt((32 / 9 - 2**2 / 6) / 5 / 6)
    reach = math.hypot(of_seeds, of_images)
    assert gain["mean"] == 0.5
    assert gain["ci95"] == pytest.approx([0.5 - reach, 0.5 + reach], abs=1e-6)
    assert gain["margin_seeds"] == pytest.approx(of_seeds, abs=1e-6)
    assert gain["margin_images"] == pytest.approx(of_images, abs=1e-6)
    assert (gain["seeds"], gain["images"], gain["std_seeds"]) == (3, 4, pytest.approx(0.25))
    assert json.loads(json.dumps(gain, allow_nan=False)) == gain


def test_paired_gain_takes_only_seeds_of_both_arms():
    transfer = {7: np.array([True, True]), 3: np.array([True, False]), 1: np.zeros(2, bool)}
    scratch = {3: np.array([False, False]), 7: np.array([True, False]), 2: np.ones(2, bool)}
    gain = metrics.paired_gain(transfer, scratch)
    assert (gain["mean"], gain["seeds"], gain["std_seeds"]) == (0.5, 2, 0.0)


def test_paired_gain_pairs_the_arms_image_by_image():
    same = metrics.paired_gain(right("110011", "110011"), right("110010", "110010"))
    other = metrics.paired_gain(right("110011", "110011"), right("011001", "011001"))
    assert same["mean"] == other["mean"] == pytest.approx(1 / 6)
    assert same["margin_images"] < other["margin_images"]


def test_paired_gain_of_one_pair_has_the_margin_of_the_images_and_no_interval():
    gain = metrics.paired_gain({4: np.ones(4, bool)}, {4: np.array([True, True, True, False])})
    assert gain["mean"] == 0.25 and gain["ci95"] is None and gain["margin_seeds"] is None
    assert gain["std_seeds"] is None and gain["margin_images"] > 0.3


def test_paired_gain_of_one_image_has_no_interval():
    gain = metrics.paired_gain(right("1", "1"), right("0", "0"))
    assert gain["mean"] == 1 and gain["ci95"] is None and gain["margin_images"] is None


def test_paired_gain_of_no_pair_is_none():
    assert metrics.paired_gain({0: np.ones(3, bool)}, {1: np.ones(3, bool)}) is None
    assert metrics.paired_gain({0: np.ones(3, bool)}, {}) is None


@pytest.mark.parametrize("other", [np.ones(4, bool), np.ones((3, 1), bool)])
def test_paired_gain_refuses_runs_of_other_test_images(other):
    with pytest.raises(ValueError, match="expected one shape"):
        metrics.paired_gain({0: np.ones(3, bool)}, {0: other})


def test_paired_gain_refuses_no_test_images():
    with pytest.raises(ValueError, match="expected one shape"):
        metrics.paired_gain({0: np.ones(0, bool)}, {0: np.ones(0, bool)})


@pytest.mark.parametrize("images", [2, 10, 180, 5000])
@pytest.mark.parametrize("seeds", [2, 10])
def test_paired_gain_of_equal_differences_has_an_interval_with_a_width(seeds, images):
    level = {seed: np.ones(images, bool) for seed in range(seeds)}
    gain = metrics.paired_gain(level, level)
    low, high = gain["ci95"]
    assert gain["mean"] == 0 and low == -high and high > 1 / images
    one_worse = {seed: np.arange(images) > 0 for seed in range(seeds)}
    assert metrics.verdict(metrics.paired_gain(level, one_worse)) == "inconclusive"


def test_gain_margins_are_those_of_each_experiment():
    generator = np.random.default_rng(0)
    differences = generator.integers(-1, 2, (5, 3, 7))
    many = metrics.gain_margins(differences.mean(axis=2), differences.mean(axis=1))
    for number, one in enumerate(differences):
        alone = metrics.gain_margins(one.mean(axis=1), one.mean(axis=0))
        assert [part[number] for part in many] == pytest.approx([float(part) for part in alone])


def test_standard_error_is_of_the_mean_of_the_seeds_with_two_more_images():
    # 170 of 180 images right in all seeds, and one more right, one more wrong.
    correct = {seed: np.arange(180) >= 10 for seed in range(3)}
    part = 171 / 182
    expected = math.sqrt(part * (1 - part) / 181)
    assert metrics.standard_error(correct) == pytest.approx(expected, abs=1e-12)
    assert metrics.standard_error({0: np.ones(180, bool)}) > 0.005


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ([0.01, 0.03], "positive"),
        ([-0.03, -0.01], "negative"),
        ([-0.01, 0.03], "inconclusive"),
        ([0.0, 0.03], "inconclusive"),
        ([-0.03, 0.0], "inconclusive"),
        ([0.0, 0.0], "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_verdict_needs_the_whole_interval_on_one_side(interval, expected):
    assert metrics.verdict({"mean": 0.01, "ci95": interval}) == expected
