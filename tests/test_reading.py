"""Tests of the way from a name to pictures, and of every dataset of tensorflow-datasets."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tl_keras.data import catalog, reading, tfds_prepare
from tl_keras.errors import DataError, UsageError, WriteError

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


class Made(tfds.core.GeneratorBasedBuilder):
    """A base for small datasets: what they hold stands in class attributes."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE: tuple[int | None, int | None, int | None] = (None, None, 3)
    SPLITS: tuple[str, ...] = ("train",)
    LABELS: tuple[str, ...] = ("cat", "dog")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=self.SHAPE),
                    "kind": tfds.features.ClassLabel(names=self.LABELS),
                    "note": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {split: self._generate_examples() for split in self.SPLITS}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for index in range(20):
            shape = tuple(side or 6 + index for side in self.SHAPE[:2])
            picture = np.full((*shape, self.SHAPE[2] or 3), 10 * index, np.uint8)
            yield index, {"picture": picture, "kind": index % 2, "note": "x"}


class MadeRagged(Made):
    """Pictures of many sizes, in colour, with a training split only."""


class MadeTall(Made):
    """Grey pictures of one size that is no square, with a validation split."""

    SHAPE = (8, 4, 1)
    SPLITS = ("train", "validation")


class MadeClear(Made):
    """Pictures with an alpha channel, which is 10 times the index."""

    SHAPE = (4, 4, 4)


class MadeUntrained(Made):
    """A test split only."""

    SPLITS = ("test",)


class MadeSingle(Made):
    """One class only."""

    LABELS = ("cat",)

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        yield 0, {"picture": np.zeros((4, 4, 3), np.uint8), "kind": 0, "note": ""}


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


def test_every_tfds_row_of_the_catalog_is_known_with_as_many_classes(offline: None) -> None:
    rows = [name for name, entry in catalog.DATASETS.items() if entry.reader == "tfds"]
    for name in rows:
        entry = catalog.find(name)
        builder = tfds_prepare.find_builder(name, "")
        features = builder.info.features
        assert features["image"].shape == (entry.size, entry.size, entry.channels)
        declared = features["label"].num_classes
        # emnist/letters declares 37 classes, of which 1 to 26 exist.
        assert declared == (37 if name == "emnist/letters" else len(entry.class_names) or declared)
        with pytest.raises(DataError, match="its server cannot be reached"):
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
    assert "no split train" in message if damage == "split" else "delete that folder" in message
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
    [("made_untrained", "no split train: it has test"), ("made_single", "has 1 classes")],
)
def test_dataset_that_teaches_nothing_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        reading.open_dataset(name, data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "did you mean .*mnist.*cifar10, .*folder:PATH"),
        ("", "is not known"),
        ("../mnist", "is not known"),
        ("huggingface:mnist", "is not known"),
        ("emnist/lettres", "no such configuration; choose one of balanced, .*letters"),
        ("mnist/letters", "no such configuration; leave it out"),
        ("mnist:9.9.9", "cannot be loaded at version 9.9.9"),
        ("imdb_reviews", r"not one of classified images.*text \(Text\)"),
    ],
)
def test_unknown_dataset_is_a_usage_error_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        reading.open_dataset(name)
    assert "\n" not in str(raised.value)


def test_unknown_framing_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--framing=square: choose one of auto, mnist, none"):
        reading.open_dataset("digits", framing="square")


def test_missing_file_without_network_names_url_and_folder(offline: None, tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "usps.bz2").write_bytes(b"")
    with pytest.raises(DataError) as raised:
        reading.open_dataset("usps", data_dir=str(tmp_path))
    message = str(raised.value)
    url = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/usps.t.bz2"
    assert f"put usps.t.bz2 from {url} into {manual}" in message
    assert "usps.bz2 from" not in message
    assert not (tmp_path / "usps").exists()


def test_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(tfds_prepare, "_SECONDS", 0.2)
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    with listener:
        assert tfds_prepare._unreachable({("http", host)}) == set()
    assert tfds_prepare._unreachable({("http", host)}) == {("http", host)}
    monkeypatch.setattr(socket, "create_connection", lambda *_: __import__("time").sleep(60))
    assert tfds_prepare._unreachable({("http", host)}) == {("http", host)}


def test_damaged_manual_file_is_a_data_error_and_leaves_nothing(tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for name in ("usps.bz2", "usps.t.bz2"):
        (manual / name).write_bytes(b"not bzip2")
    with pytest.raises(DataError, match=r"usps\.bz2 cannot be unpacked"):
        reading.open_dataset("usps", data_dir=str(tmp_path))
    assert not list(tmp_path.glob("usps/*"))


def test_manual_file_with_another_checksum_is_a_data_error(tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "cifar-10-binary.tar.gz").write_bytes(b"not a tar file")
    with pytest.raises(DataError, match="wrong checksum") as raised:
        reading.open_dataset("cifar10", data_dir=str(tmp_path))
    assert "\n" not in str(raised.value)


def test_first_folder_that_holds_a_dataset_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [tmp_path / name for name in ("given", "environment", "home/tensorflow_datasets")]
    monkeypatch.setenv("TFDS_DATA_DIR", str(names[1]))
    assert tfds_prepare.roots(str(names[0])) == names
    assert tfds_prepare.roots("") == names[1:]
    reading.open_dataset("made_tall", data_dir=str(names[2]))
    builder = tfds_prepare.find_builder("made_tall", str(names[0]))
    assert Path(builder.data_dir) == names[2] / "made_tall" / "1.0.0"
    assert not names[0].exists()


def test_older_prepared_version_is_used(tmp_path: Path) -> None:
    reading.open_dataset("made_tall", data_dir=str(tmp_path))
    current = tmp_path / "made_tall" / "1.0.0"
    info = json.loads((current / "dataset_info.json").read_text())
    (current / "dataset_info.json").write_text(json.dumps(info | {"version": "0.9.0"}))
    current.rename(current.with_name("0.9.0"))
    dataset = reading.open_dataset("made_tall", data_dir=str(tmp_path))
    assert len(dataset.read("test", 4).images) == 20
    assert not current.exists()


def test_preparing_passes_over_folders_that_nobody_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    sealed.chmod(0o555)
    assert not tfds_prepare.can_write(sealed)
    assert not tfds_prepare.can_write(sealed / "below" / "it")
    assert tfds_prepare.can_write(tmp_path / "new" / "folder")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "open"))
    reading.open_dataset("made_tall", data_dir=str(sealed))
    assert (tmp_path / "open" / "made_tall").exists()
    monkeypatch.setenv("TFDS_DATA_DIR", str(sealed / "too"))
    monkeypatch.setenv("HOME", str(sealed))
    with pytest.raises(WriteError, match="--data_dir"):
        reading.open_dataset("made_ragged", data_dir=str(sealed))


def test_full_disk_while_preparing_is_a_write_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(MadeRagged, "_download_and_prepare", full)
    with pytest.raises(WriteError, match="No space left on device"):
        reading.open_dataset("made_ragged", data_dir=str(tmp_path))
    assert not list(tmp_path.glob("made_ragged/*"))
