"""Weights as named tensors: what is copied, what is refused, what is hashed and saved."""

import os

import made
import numpy as np
import pytest

from tl_keras.errors import DataError, WriteError
from tl_keras.models import building, weights
from tl_keras.models.weights import Origin, Weights
from tl_keras.storage import files


def small_cnn(num_classes=4, seed=0, image_size=8, dense_units=6):
    return building.build(
        "small_cnn",
        num_classes,
        image_size=image_size,
        input_channels=1,
        body_channels=1,
        dense_units=dense_units,
        seed=seed,
    )


def source(class_names=("a", "b", "c", "d"), **arguments):
    model = small_cnn(len(class_names), seed=9, **arguments)
    return Weights(weights.get_tensors(model), Origin("letters", class_names, "small_cnn", 8, 1))


def test_copy_moves_the_body_and_the_rows_of_classes_of_the_same_name():
    known, model = source(), small_cnn(3)
    fresh = weights.get_tensors(model)
    account = weights.copy(known, model, ("c", "x", "a"), "match", "--source=letters")
    now = weights.get_tensors(model)
    for name in ("conv/kernel", "conv/bias", "dense/kernel", "dense/bias"):
        np.testing.assert_array_equal(now[name], known.tensors[name])
    np.testing.assert_array_equal(now["head/kernel"][:, 0], known.tensors["head/kernel"][:, 2])
    np.testing.assert_array_equal(now["head/kernel"][:, 1], fresh["head/kernel"][:, 1])
    np.testing.assert_array_equal(now["head/kernel"][:, 2], known.tensors["head/kernel"][:, 0])
    assert account.copied == ("conv/kernel", "conv/bias", "dense/kernel", "dense/bias")
    assert account.matched == ("c", "a")
    assert account.fresh == ("x",)
    assert account.skipped == ("b", "d")
    assert "matched" in str(account)


def test_copy_moves_the_bias_of_a_matched_class_too():
    known, model = source(), small_cnn(2)
    known.tensors["head/bias"][:] = [1, 2, 3, 4]
    weights.copy(known, model, ("d", "b"), "match", "--source=letters")
    np.testing.assert_array_equal(weights.get_tensors(model)["head/bias"], [4, 2])


def test_copy_leaves_the_head_fresh_where_a_new_one_is_asked_for():
    known, model = source(), small_cnn(4)
    fresh = weights.get_tensors(model)["head/kernel"]
    account = weights.copy(known, model, ("a", "b", "c", "d"), "new", "--source=letters")
    np.testing.assert_array_equal(weights.get_tensors(model)["head/kernel"], fresh)
    assert account.matched == () and account.fresh == ("a", "b", "c", "d")


def test_copy_names_the_layer_and_both_shapes_of_a_mismatch():
    before = weights.get_tensors(model := small_cnn(dense_units=7))
    with pytest.raises(DataError) as caught:
        weights.copy(source(), model, ("a",), "match", "--source_weights=x.weights.h5")
    for word in ("--source_weights=x.weights.h5", "'dense'", "(288, 6)", "(288, 7)"):
        assert word in str(caught.value)
    after = weights.get_tensors(model)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_copy_names_a_tensor_that_is_missing():
    known = source()
    del known.tensors["conv/bias"]
    with pytest.raises(DataError, match=r"no 'conv/bias' of shape \(32,\)"):
        weights.copy(known, small_cnn(), ("a",), "match", "--source=letters")


def test_digest_depends_on_names_shapes_and_every_byte_but_not_on_order():
    tensors = {"a": np.arange(6, dtype=np.float32), "b": np.ones(2, np.float32)}
    same = weights.hash_tensors(dict(reversed(tensors.items())))
    assert weights.hash_tensors(tensors) == same
    others = [
        {**tensors, "a": tensors["a"].reshape(2, 3)},
        {"c": tensors["a"], "b": tensors["b"]},
        {**tensors, "a": np.nextafter(tensors["a"], 9, dtype=np.float32)},
        {**tensors, "a": tensors["a"].astype(np.float64)},
    ]
    assert len({same, *map(weights.hash_tensors, others)}) == 5


def test_save_writes_tensors_by_name_and_where_they_come_from(tmp_path):
    known, path = source(), tmp_path / "s.weights.h5"
    assert weights.save(path, known.tensors, known.origin) == files.sha256(path)
    read = made.kept(path)
    assert read.origin == known.origin
    assert weights.hash_tensors(read.tensors) == weights.hash_tensors(known.tensors)
    assert [path.name for path in tmp_path.iterdir()] == ["s.weights.h5"]


def test_save_writes_the_same_bytes_each_time(tmp_path):
    known = source()
    hashes = {weights.save(tmp_path / name, known.tensors, known.origin) for name in "ab"}
    assert len(hashes) == 1


def test_save_keeps_the_old_file_where_the_new_one_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "s.weights.h5"
    before = weights.save(path, {"a": np.ones(3, np.float32)})

    def full(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"s\.weights\.h5"):
        weights.save(path, {"a": np.zeros(3, np.float32)})
    monkeypatch.undo()
    assert files.sha256(path) == before
    assert [one.name for one in tmp_path.iterdir()] == ["s.weights.h5"]


def test_assign_sets_every_weight():
    one, other = small_cnn(seed=1), small_cnn(seed=2)
    weights.assign(one, weights.get_tensors(other))
    digests = {weights.hash_tensors(weights.get_tensors(model)) for model in (one, other)}
    assert len(digests) == 1
