"""Tests of the rule that carves a test split."""

import numpy as np

from tl_keras.data import held_out


def test_choose_test_is_stratified_and_leaves_every_class_something() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 30, 1, 4])
    mask = held_out.choose_test(labels)
    assert np.bincount(labels[mask], minlength=4).tolist() == [10, 6, 0, 1]
    np.testing.assert_array_equal(mask, held_out.choose_test(labels))
    assert held_out.choose_test(labels, 40).sum() == 40
    assert np.bincount(labels[held_out.choose_test(labels, 85)]).tolist() == [49, 29, 0, 3]
