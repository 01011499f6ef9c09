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
    return metrics.classification(LABELS, (np.log(PROBABILITIES) + shift).astype(dtype), NAMES)


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
    found = metrics.classification(np.zeros(30000, int), logits, ("a", "b"))
    assert found.loss == pytest.approx(math.log(2), abs=1e-12)


def test_classification_record_survives_json():
    record = classified().as_record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert set(record) == {"accuracy", "loss", "per_class"}


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_classification_refuses_a_model_that_diverged(broken):
    logits = np.zeros((3, 3))
    logits[1, 2] = broken
    with pytest.raises(DivergedError, match="1 of 3 images.*--learning_rate.*another --workdir$"):
        metrics.classification(np.array([0, 1, 2]), logits, NAMES)


@pytest.mark.parametrize(
    ("labels", "shape"),
    [([], (0, 3)), ([0, 1], (3, 3)), ([0, 1], (2, 2)), ([0, 3], (2, 3)), ([-1, 0], (2, 3))],
)
def test_classification_refuses_what_does_not_fit(labels, shape):
    with pytest.raises(ValueError, match="expected labels"):
        metrics.classification(np.array(labels, int), np.zeros(shape), NAMES)


def test_spread_is_the_sample_standard_deviation():
    assert metrics.spread([0.9, 0.92, 0.97]) == pytest.approx((0.93, math.sqrt(0.0013), 3))


def test_spread_of_one_value_has_no_deviation():
    assert metrics.spread([0.5]) == (0.5, None, 1)


def test_spread_of_nothing_is_refused():
    with pytest.raises(ValueError, match="received none"):
        metrics.spread([])


def test_paired_gain_is_students_interval_of_the_differences():
    gain = metrics.paired_gain({0: 0.52, 1: 0.74, 2: 0.96}, {0: 0.5, 1: 0.7, 2: 0.9})
    # Differences 0.02, 0.04, 0.06: deviation 0.02; t(0.975, 2 degrees) is 4.302653 in the tables.
    reach = 4.302653 * 0.02 / math.sqrt(3)
    assert gain["mean"] == pytest.approx(0.04)
    assert gain["ci95"] == pytest.approx([0.04 - reach, 0.04 + reach], abs=1e-8)


def test_paired_gain_takes_only_seeds_of_both_arms():
    gain = metrics.paired_gain({7: 0.9, 3: 0.8, 1: 0.0}, {3: 0.7, 7: 0.5, 2: 1.0})
    assert gain["mean"] == pytest.approx(0.25)
    assert gain["ci95"] == pytest.approx([0.25 - 12.706205 * 0.15, 0.25 + 12.706205 * 0.15])


def test_paired_gain_of_one_pair_has_no_interval():
    assert metrics.paired_gain({4: 0.75}, {4: 0.5}) == {"mean": 0.25, "ci95": None}


def test_paired_gain_of_no_pair_is_none():
    assert metrics.paired_gain({0: 0.9}, {1: 0.8}) is None
    assert metrics.paired_gain({0: 0.9}, {}) is None


def test_paired_gain_of_equal_differences_has_an_interval_without_width():
    gain = metrics.paired_gain({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25})
    assert gain == {"mean": 0.25, "ci95": [0.25, 0.25]}


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
