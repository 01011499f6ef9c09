"""Tests of the choice of labelled images: what trains, what validates, and who decides it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_keras.data.splits import Split, class_weights, split
from tl_keras.errors import UsageError

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=8)
SEEDS = st.integers(0, 2**31 - 1)
FRACTIONS = st.sampled_from([0.0, 0.01, 0.1, 0.25, 1 / 3, 0.5])


def labels_of(counts: list[int], order: int = 0) -> np.ndarray:
    labels = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(order).permutation(labels)


def choose(
    labels, classes=None, *, seed=0, shots=None, validation=0.1, needs=False, groups=None
) -> Split:
    classes = classes or int(labels.max(initial=0)) + 1
    names = tuple(f"class{label}" for label in range(classes))
    return split(
        labels, names, seed=seed, shots=shots, validation=validation, needs_validation=needs,
        groups=groups,
    )  # fmt: skip


def per_class(labels: np.ndarray, indices: np.ndarray, classes: int) -> list[int]:
    return np.bincount(labels[indices], minlength=classes).tolist()


@given(COUNTS, SEEDS, FRACTIONS)
def test_split_divides_all_images_into_two_sorted_parts(counts, seed, fraction) -> None:
    labels = labels_of(counts)
    train, validation = choose(labels, len(counts), seed=seed, validation=fraction)
    assert sorted([*train, *validation]) == list(range(len(labels)))
    for part in (train, validation):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


@given(COUNTS, SEEDS, FRACTIONS)
def test_split_validates_with_the_same_part_of_each_class(counts, seed, fraction) -> None:
    labels = labels_of(counts)
    chosen = choose(labels, len(counts), seed=seed, validation=fraction)
    for count, held_out in zip(
        counts, per_class(labels, chosen.validation, len(counts)), strict=True
    ):
        if count < 2 or fraction == 0:
            assert held_out == 0
        else:
            assert 1 <= held_out < count
            assert abs(held_out - fraction * count) <= max(0.5, 1 - fraction * count)


@given(st.lists(st.integers(5, 40), min_size=1, max_size=6), st.integers(1, 5), FRACTIONS)
def test_split_takes_validation_from_the_shots_and_only_when_needed(counts, shots, part) -> None:
    labels = labels_of(counts)
    for needs in (False, True):
        chosen = choose(labels, shots=shots, validation=part, needs=needs)
        both = np.concatenate(chosen)
        assert len(np.unique(both)) == len(both)
        assert per_class(labels, both, len(counts)) == [shots] * len(counts)
        watches = needs and part > 0 and shots > 1
        assert (per_class(labels, chosen.validation, len(counts)) != [0] * len(counts)) == watches
        assert min(per_class(labels, chosen.train, len(counts))) >= 1


@given(SEEDS, st.integers(1, 10))
def test_split_is_decided_by_the_seed(seed, shots) -> None:
    labels = labels_of([100] * 4)
    first = choose(labels, seed=seed, shots=shots)
    again = choose(labels, seed=seed, shots=shots)
    other = choose(labels, seed=seed + 1, shots=shots)
    assert first.train.tolist() == again.train.tolist()
    assert first.train.tolist() != other.train.tolist()


def test_split_chooses_other_places_in_each_class() -> None:
    labels = np.repeat(np.arange(5), 100)
    chosen = choose(labels, shots=10).train.reshape(5, 10) % 100
    assert len({tuple(places) for places in chosen.tolist()}) == 5


@given(st.integers(0, 60), st.integers(0, 60), SEEDS)
def test_split_of_one_class_does_not_depend_on_the_size_of_another(few, many, seed) -> None:
    # The first class keeps its places; images of the second follow, few or many.
    chosen = [
        choose(np.repeat([0, 1], [30, count]), 2, seed=seed, validation=0.2)
        for count in (few, many)
    ]
    for part in range(2):
        first, second = (indices[part][indices[part] < 30].tolist() for indices in chosen)
        assert first == second


def test_split_takes_more_shots_in_addition_to_fewer() -> None:
    labels = labels_of([50] * 3)
    assert set(choose(labels, shots=3).train) < set(choose(labels, shots=7).train)


def test_split_names_the_class_with_too_few_images_and_its_count() -> None:
    labels = labels_of([20, 3, 5, 0])
    with pytest.raises(UsageError, match=r"--shots=4 .*'class1' .* 3 training images"):
        choose(labels, 4, shots=4)
    assert len(choose(labels, 4, shots=3).train) == 9


def test_split_leaves_out_classes_that_have_no_image() -> None:
    labels = labels_of([4, 0, 4])
    chosen = choose(labels, 5, shots=2)
    assert per_class(labels, chosen.train, 5) == [2, 0, 2, 0, 0]


@pytest.mark.parametrize("fraction", [0.6, 0.99, 1.0])
def test_split_leaves_every_class_an_image_to_train_on(fraction) -> None:
    labels = labels_of([2, 3, 50])
    chosen = choose(labels, validation=fraction)
    assert min(per_class(labels, chosen.train, 3)) == 1


def test_split_of_no_images_is_empty() -> None:
    chosen = choose(np.empty(0, np.int64), 3)
    assert [len(part) for part in chosen] == [0, 0]


@pytest.mark.parametrize("groups", [None, 100 - 2 * np.arange(15)])
def test_split_without_groups_is_the_choice_of_earlier_versions(groups) -> None:
    """A run of today trains on what it trained on: computed when there were no groups."""
    labels = np.repeat([0, 1, 2], [6, 4, 5])
    chosen = choose(labels, seed=3, validation=0.25, groups=groups)
    assert chosen.train.tolist() == [0, 1, 3, 4, 7, 8, 9, 10, 11, 12, 13]
    assert chosen.validation.tolist() == [2, 5, 6, 14]
    chosen = choose(labels, seed=3, shots=3, validation=0.5, needs=True, groups=groups)
    assert chosen.train.tolist() == [4, 8, 11]
    assert chosen.validation.tolist() == [2, 5, 6, 7, 10, 14]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 15)), max_size=80),
    st.sampled_from([None, 1, 2, 5]), SEEDS, FRACTIONS,
)  # fmt: skip
def test_split_never_parts_a_group(rows, shots, seed, fraction) -> None:
    labels, groups = np.array(rows, np.int64).reshape(-1, 2).T
    counts = np.bincount(labels, minlength=5)
    if shots is not None:
        shots = min([shots, *counts[counts > 0]])
    chosen = choose(
        labels, 5, seed=seed, shots=shots, validation=fraction, needs=True, groups=groups
    )
    assert not set(groups[chosen.train]) & set(groups[chosen.validation])
    assert set(labels[chosen.train]) == set(labels)
    both = np.sort(np.concatenate(chosen))
    assert len(np.unique(both)) == len(both)
    wanted = counts if shots is None else np.minimum(counts, shots)
    assert per_class(labels, both, 5) == wanted.tolist()


@given(SEEDS)
def test_split_validates_with_the_wanted_part_where_groups_are_small(seed) -> None:
    labels = np.repeat(np.arange(3), 60)
    chosen = choose(labels, seed=seed, validation=0.2, groups=np.arange(180) // 3)
    assert per_class(labels, chosen.validation, 3) == [12] * 3


@given(SEEDS, st.integers(1, 5))
def test_split_prefers_shots_of_different_groups(seed, shots) -> None:
    labels, groups = np.repeat([0, 1], 20), np.arange(40) // 4
    chosen = choose(labels, seed=seed, shots=shots, groups=groups)
    assert len(set(groups[chosen.train])) == 2 * shots


PRESENT = st.lists(st.integers(1, 200), min_size=1, max_size=8)


@given(PRESENT, st.integers(0, 3))
def test_balanced_class_weights_let_each_class_weigh_the_same(counts, absent) -> None:
    labels = labels_of(counts)
    weights = class_weights("balanced", labels, len(counts) + absent)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights[: len(counts)] * counts, len(labels) / len(counts), 1e-5)
    assert weights[len(counts) :].tolist() == [1.0] * absent


@given(PRESENT)
def test_sqrt_class_weights_are_the_root_of_balanced_ones_at_the_same_mean(counts) -> None:
    labels = labels_of(counts)
    balanced, root = (class_weights(kind, labels, len(counts)) for kind in ("balanced", "sqrt"))
    assert root[labels].mean(dtype=np.float64) == pytest.approx(1, rel=1e-5)
    assert balanced[labels].mean(dtype=np.float64) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(root / root[0], np.sqrt(balanced / balanced[0]), 1e-5)


@pytest.mark.parametrize("kind", ["balanced", "sqrt"])
def test_class_weights_of_even_classes_are_one(kind) -> None:
    np.testing.assert_allclose(class_weights(kind, labels_of([7, 7, 7]), 3), 1, 1e-6)


def test_class_weights_pass_over_a_class_without_image_in_the_middle() -> None:
    weights = class_weights("balanced", labels_of([1, 0, 3]), 3)
    np.testing.assert_allclose(weights, [2, 1, 2 / 3], 1e-6)
    root = class_weights("sqrt", labels_of([1, 0, 3]), 3)
    assert np.isfinite(root).all() and root[0] / root[2] == pytest.approx(np.sqrt(3), rel=1e-5)


def test_images_of_a_validation_folder_validate_and_never_train() -> None:
    labels = np.array([0, 1] * 10)
    is_validation = np.arange(20) >= 14
    more = {"seed": 3, "needs_validation": True, "is_validation": is_validation}
    every = split(labels, ("a", "b"), shots=None, validation=0.1, **more)
    assert every.train.tolist() == list(range(14))
    assert every.validation.tolist() == list(range(14, 20))
    none = split(labels, ("a", "b"), shots=None, validation=0.0, **more)
    assert none.train.tolist() == list(range(14)) and not len(none.validation)
    few = split(labels, ("a", "b"), shots=4, validation=0.25, **more)
    # Shots are all labels that a run may use, so validation is a part of them.
    assert len(few.train) == 6 and len(few.validation) == 2
    assert max(*few.train, *few.validation) < 14
    with pytest.raises(UsageError, match="it has 7 training images"):
        split(labels, ("a", "b"), shots=8, validation=0.25, **more)
