"""Tests of the way from a name to pictures, and of every dataset of tensorflow-datasets."""

import socket
import subprocess
import sys
from pathlib import Path

import made_datasets  # noqa: F401 - registers the datasets
import numpy as np
import pytest

from tl_keras.data import catalog, reading, tfds_prepare
from tl_keras.errors import DataError, UsageError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "tfds"

needs_mnist = pytest.mark.skipif(not (SHARED / "mnist").exists(), reason=f"no mnist in {SHARED}")
needs_emnist = pytest.mark.skipif(not (SHARED / "emnist").exists(), reason=f"no emnist in {SHARED}")


@pytest.fixture(autouse=True)
def folders_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see or touch what the user has prepared."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)


def copy_of(name: str, root: Path) -> Path:
    """Copy a prepared dataset, writable, and return its version's folder."""
    target = next((SHARED / name).glob("*.*.*"))
    copied = root / target.relative_to(SHARED)
    copied.mkdir(parents=True)
    for file in target.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    return copied


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys, tl_keras.data.reading as r\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'keras', 'sklearn', 'mlxtend', 'PIL'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.parametrize(
    "name", [name for name, entry in catalog.DATASETS.items() if entry.reader != "embedded"]
)
def test_dataset_of_tfds_is_known_with_as_many_classes(offline: None, name: str) -> None:
    entry = catalog.find(name)
    assert entry.reader == "tfds"
    builder = tfds_prepare.find_builder(name, "")
    features = builder.info.features
    assert features["image"].shape == (entry.size, entry.size, entry.channels)
    declared = features["label"].num_classes
    # emnist/letters declares 37 classes, of which 1 to 26 exist.
    assert declared == (37 if name == "emnist/letters" else len(entry.class_names) or declared)
    # A builder of files that are on no server says where to put them.
    is_local = not tfds_prepare._list_needed_files(builder)
    expected = builder.MANUAL_DOWNLOAD_INSTRUCTIONS if is_local else "its server cannot be reached"
    assert expected
    with pytest.raises(DataError, match=expected):
        reading.open_dataset(name)


@needs_mnist
def test_mnist_is_read_whole_and_in_order() -> None:
    dataset = reading.open_dataset("mnist", data_dir=str(SHARED))
    test = dataset.read("test", 0)
    assert test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == MNIST_TEST_COUNTS
    again = reading.open_dataset("mnist:3.0.1", data_dir=str(SHARED), framing="mnist")
    assert (again.channels, again.size, again.class_names) == (1, 28, catalog.DIGITS)
    np.testing.assert_array_equal(again.read("test", 0).images, test.images)
    np.testing.assert_array_equal(again.read("test", 0).labels, test.labels)


MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@needs_emnist
def test_emnist_stands_upright() -> None:
    digits = reading.open_dataset("emnist/mnist", data_dir=str(SHARED)).read("test", 0)
    sevens = digits.images[digits.labels == 7].mean(axis=0)[..., 0]
    # The bar of a 7 is on top; transposed it would be a column on the left.
    assert sevens[4:12].sum() > 1.2 * sevens[16:24].sum()
    ones = digits.images[digits.labels == 1].mean(axis=0)[..., 0]
    assert ones[4:24, 12:16].sum() > 1.2 * ones[12:16, 4:24].sum()


@needs_emnist
def test_emnist_letters_are_named_and_counted_from_a() -> None:
    dataset = reading.open_dataset("emnist/letters", data_dir=str(SHARED))
    assert "".join(dataset.class_names) == "abcdefghijklmnopqrstuvwxyz"
    labels = dataset.read("train", 0).labels
    assert (labels.min(), labels.max()) == (0, 12)  # the sample holds a to m


@needs_emnist
def test_labels_outside_the_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    short = catalog._emnist(tuple("abc"), first_label=1)
    monkeypatch.setitem(catalog.DATASETS, "emnist/letters", short)
    with pytest.raises(DataError, match=r"label \d+, outside its 3 classes"):
        reading.open_dataset("emnist/letters", data_dir=str(SHARED)).read("test", 0)


@needs_emnist
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "empty", "count", "info", "split"])
def test_damaged_dataset_says_which_folder_to_delete(damage: str, tmp_path: Path) -> None:
    folder = copy_of("emnist/mnist", tmp_path)
    records = folder / "emnist-test.tfrecord-00000-of-00001"
    info = folder / "dataset_info.json"
    content = bytearray(records.read_bytes())
    if damage == "cut":
        records.write_bytes(content[:100_000])
    elif damage == "flipped":
        content[50_000] ^= 1
        records.write_bytes(content)
    elif damage == "gone":
        records.unlink()
    elif damage == "empty":
        records.write_bytes(b"")
    else:
        replaced = {"count": ('"2000"', '"1999"'), "info": ('"', ""), "split": ("train", "trane")}
        info.write_text(info.read_text().replace(*replaced[damage]))
    with pytest.raises(DataError) as raised:
        reading.open_dataset("emnist/mnist", data_dir=str(tmp_path)).read("test", 0)
    message = str(raised.value)
    assert str(tmp_path) in message
    assert "no split train" in message if damage == "split" else "Delete that folder" in message
    assert "\n" not in message
    assert "{{" not in message


def test_unlisted_dataset_is_resized_and_its_test_split_carved(tmp_path: Path) -> None:
    dataset = reading.open_dataset("made_ragged", data_dir=str(tmp_path))
    assert (dataset.channels, dataset.size) == (3, 0)
    assert dataset.class_names == ("cat", "dog")
    train, test = dataset.read("train", 8), dataset.read("test", 8)
    assert train.images.shape == (16, 8, 8, 3)
    assert np.bincount(test.labels).tolist() == [2, 2]
    values = [part.images[:, 0, 0, 0].tolist() for part in (train, test)]
    assert sorted(values[0] + values[1]) == [10 * index for index in range(20)]
    for part in (train, test):
        np.testing.assert_array_equal(part.images[:, 4, 4, 0] // 10 % 2, part.labels)
    assert values[1] == dataset.read("test", 5).images[:, 0, 0, 0].tolist()
    with pytest.raises(ValueError, match="image_size"):
        dataset.read("train", 0)
    with pytest.raises(ValueError, match="'train' or 'test'"):
        dataset.read("validation", 8)


def test_pictures_of_differing_sizes_are_averaged_when_they_shrink(tmp_path: Path) -> None:
    dataset = reading.open_dataset("made_striped", data_dir=str(tmp_path))
    shrunk = dataset.read("train", 8).images
    assert np.abs(shrunk.astype(int) - 127).max() < 20  # nearest pixels would be 0 or 255


def test_framing_mnist_frames_any_dataset_from_its_own_pixels(tmp_path: Path) -> None:
    dataset = reading.open_dataset("made_ragged", data_dir=str(tmp_path), framing="mnist")
    assert (dataset.channels, dataset.size) == (1, 28)
    assert dataset.augment == catalog.HANDWRITING
    assert dataset.read("train", 0).images.shape == (16, 28, 28, 1)


def test_unlisted_dataset_is_tested_on_validation_where_it_has_no_test(tmp_path: Path) -> None:
    dataset = reading.open_dataset("made_tall", data_dir=str(tmp_path))
    assert (dataset.channels, dataset.size) == (1, 0)
    assert dataset.read("train", 6).images.shape == (20, 6, 6, 1)
    assert dataset.read("test", 6).images.shape == (20, 6, 6, 1)


def test_transparent_dataset_lies_on_white(tmp_path: Path) -> None:
    dataset = reading.open_dataset("made_clear", data_dir=str(tmp_path))
    assert (dataset.channels, dataset.size) == (3, 4)
    pixels = [dataset.read(split, 0).images[:, 0, 0, 0] for split in ("train", "test")]
    values = [value / 255 for value in range(0, 200, 10)]
    expected = [round(255 * (value * value + 1 - value)) for value in values]
    assert sorted(np.concatenate(pixels).tolist()) == sorted(expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [("made_untrained", "no split train. It has test"), ("made_single", "has 1 classes")],
)
def test_dataset_that_teaches_nothing_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        reading.open_dataset(name, data_dir=str(tmp_path))


def test_unknown_framing_is_a_usage_error() -> None:
    with pytest.raises(
        UsageError, match="--framing=square is not known. Choose one of auto, mnist, none"
    ):
        reading.open_dataset("digits", framing="square")
