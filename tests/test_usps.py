"""Tests of USPS: the parser on small files, the whole on the real ones."""

import bz2
from pathlib import Path

import numpy as np
import pytest

from tl_keras.data import reading, usps
from tl_keras.errors import DataError

MANUAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "tfds" / "downloads" / "manual"

real_files = pytest.mark.skipif(
    not (MANUAL / "usps.bz2").exists(), reason=f"no usps.bz2 in {MANUAL}"
)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a small file and declare its counts as those that were published."""

    def write_text(text: str, digits: str) -> Path:
        counts = tuple(digits.count(digit) for digit in "0123456789")
        monkeypatch.setitem(usps.CLASS_COUNTS, "train", counts)
        path = tmp_path / "usps.bz2"
        path.write_bytes(bz2.compress(text.encode()))
        return path

    return write_text


def test_usps_label_is_one_more_than_the_digit_and_missing_means_middle_grey(write) -> None:
    images, labels = usps.read_libsvm(write("8 1:-1 2:1 17:-0.5\n\n1 256:1\n", "70"), "train")
    assert labels.tolist() == [7, 0]
    assert images.shape == (2, 16, 16, 1)
    assert images.dtype == np.uint8
    assert images[0, 0, :3, 0].tolist() == [0, 255, 128]
    assert images[0, 1, 0, 0] == 64
    assert images[1, 15, 15, 0] == 255
    assert (images[1].reshape(-1)[:-1] == 128).all()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("11 1:0", "label 11"),
        ("0 1:0", "label 0"),
        ("1 0:0", "index 0"),
        ("1 257:0", "index 257"),
        ("1 1:1.5", "value 1.5"),
        ("1 1:nan", "value nan"),
        ("1 1", "line 1"),
        ("<html>", "line 1"),
    ],
)
def test_usps_names_the_line_that_is_not_libsvm(write, line: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as raised:
        usps.read_libsvm(write(line, "0"), "train")
    assert usps.FOLDER_URL + "usps.bz2" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_usps_refuses_other_counts_than_published(write) -> None:
    with pytest.raises(DataError, match="holds 1 images, not 2"):
        usps.read_libsvm(write("1 1:1\n", "01"), "train")
    with pytest.raises(DataError, match="digits 0 to 9"):
        usps.read_libsvm(write("1 1:1\n1 1:1\n", "01"), "train")


def test_usps_refuses_a_damaged_or_swollen_file(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write("1 1:1\n" * 1000, "0")
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match="cannot be unpacked"):
        usps.read_libsvm(path, "train")
    path.write_bytes(whole)
    monkeypatch.setattr(usps, "MAX_TEXT_BYTES", 5000)
    with pytest.raises(DataError, match="more than 5000 bytes"):
        usps.read_libsvm(path, "train")
    with pytest.raises(DataError, match="cannot be unpacked"):
        usps.read_libsvm(tmp_path / "missing.bz2", "train")


@real_files
def test_usps_is_prepared_from_another_folders_manual_files_and_read_framed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", str(MANUAL.parents[1]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    dataset = reading.open_dataset("usps", data_dir=str(tmp_path))
    assert (tmp_path / "usps" / "1.0.0" / "dataset_info.json").exists()
    assert (dataset.channels, dataset.size) == (1, 28)
    raw = reading.open_dataset("usps", data_dir=str(tmp_path), framing="none")
    assert raw.size == 16
    for split in ("train", "test"):
        framed, plain = dataset.read(split, 0), raw.read(split, 0)
        assert tuple(np.bincount(plain.labels)) == usps.CLASS_COUNTS[split]
        assert plain.images.shape[1:] == (16, 16, 1)
        assert framed.images.shape == (len(plain.images), 28, 28, 1)
        np.testing.assert_array_equal(framed.labels, plain.labels)
        # Bright ink on black: a 0 has a hole in the middle, a 1 has its stroke there.
        middle = plain.images[:, 6:10, 7:9].mean(axis=(1, 2, 3))
        assert middle[plain.labels == 0].mean() < 60
        assert middle[plain.labels == 1].mean() > 150
