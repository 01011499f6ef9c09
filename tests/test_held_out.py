"""Tests of the rule that carves a test split."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tl_keras.data import held_out


def test_choose_test_is_stratified_and_leaves_every_class_something() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 30, 1, 4])
    mask = held_out.choose_test(labels)
    assert np.bincount(labels[mask], minlength=4).tolist() == [10, 6, 0, 1]
    np.testing.assert_array_equal(mask, held_out.choose_test(labels))
    assert held_out.choose_test(labels, 40).sum() == 40
    assert np.bincount(labels[held_out.choose_test(labels, 85)]).tolist() == [49, 29, 0, 3]


def test_choose_test_without_groups_is_the_choice_of_earlier_versions() -> None:
    """Test splits are the same for ever: the indices were computed when there were no groups."""
    labels = np.repeat([0, 1, 2], [6, 4, 5])
    counts = [1, 2, 5, 30, 100, 262]
    many = np.random.default_rng(7).permutation(np.repeat(np.arange(6), counts))
    for groups, many_groups in ((None, None), (np.arange(15) * 3, 1000 - np.arange(400))):
        chosen = np.flatnonzero(held_out.choose_test(labels, 0, groups))
        assert chosen.tolist() == [1, 9, 13]
        chosen = np.flatnonzero(held_out.choose_test(labels, 6, groups))
        assert chosen.tolist() == [1, 5, 7, 9, 10, 13]
        assert digest(held_out.choose_test(many, 0, many_groups)) == "e6631ba1ef1f16bb"
        assert digest(held_out.choose_test(many, 40, many_groups)) == "c2377bd8ccf1acef"


def digest(mask: np.ndarray) -> str:
    indices = np.flatnonzero(mask).astype(np.int64)
    return hashlib.sha256(indices.tobytes()).hexdigest()[:16]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 15)), max_size=80))
def test_choose_test_never_parts_a_group_and_leaves_every_class_something(rows) -> None:
    labels, groups = np.array(rows, np.int64).reshape(-1, 2).T
    mask = held_out.choose_test(labels, 0, groups)
    np.testing.assert_array_equal(mask, held_out.choose_test(labels, 0, groups))
    assert not set(groups[mask]) & set(groups[~mask])
    assert set(labels[~mask]) == set(labels)


@given(st.integers(20, 60), st.integers(1, 4), st.integers(1, 4))
def test_choose_test_is_stratified_as_far_as_groups_allow(groups_per_class, first, second) -> None:
    # Groups of one class each, with `first` pictures in class 0 and `second` in class 1.
    labels = np.repeat([0, 1], [first * groups_per_class, second * groups_per_class])
    groups = np.concatenate(
        [np.repeat(np.arange(groups_per_class), first),
         np.repeat(np.arange(groups_per_class) + 1000, second)]
    )  # fmt: skip
    mask = held_out.choose_test(labels, 0, groups)
    for label, size in ((0, first), (1, second)):
        wanted = (labels == label).sum() / 5
        assert abs(mask[labels == label].sum() - wanted) <= size / 2 + 1


def test_choose_test_takes_the_smallest_group_where_all_are_too_large() -> None:
    labels = np.zeros(100, int)
    groups = np.repeat([5, 9], [45, 55])
    assert np.flatnonzero(held_out.choose_test(labels, 0, groups)).tolist() == list(range(45))
    assert not held_out.choose_test(labels, 0, groups * 0).any()
