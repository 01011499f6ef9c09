"""Predictions of a run: what is written is read back, and what is damaged is refused."""

import hashlib
import zipfile

import numpy as np
import pytest

from tl_keras.errors import DataError, WriteError
from tl_keras.storage import predictions

LABELS = np.array([0, 1, 2, 1], np.uint8)
PREDICTED = np.array([0, 2, 2, 1], np.int32)


def test_predictions_are_read_back_as_right_and_wrong(tmp_path):
    predictions.write(tmp_path, LABELS, PREDICTED)
    assert predictions.read(tmp_path).correct.tolist() == [True, False, True, True]
    found = predictions.read(tmp_path)
    assert (found.labels.tolist(), found.predicted.tolist()) == ([0, 1, 2, 1], [0, 2, 2, 1])
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as kept:
        assert set(kept) == {"labels", "predicted"}
        assert kept["labels"].dtype == kept["predicted"].dtype == np.int64
        assert kept["labels"].tolist() == [0, 1, 2, 1]
        assert kept["predicted"].tolist() == [0, 2, 2, 1]


def test_predictions_have_the_same_bytes_each_time(tmp_path):
    path = tmp_path / "predictions.npz"
    first = predictions.write(tmp_path, LABELS, PREDICTED)
    assert first == hashlib.sha256(path.read_bytes()).hexdigest()
    assert predictions.write(tmp_path, LABELS.astype(np.int64), PREDICTED) == first
    assert predictions.write(tmp_path, LABELS, LABELS) != first
    with zipfile.ZipFile(path) as archive:
        dates = {info.date_time for info in archive.infolist()}
    assert dates == {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x03\x04 half of one"])
def test_predictions_that_are_damaged_are_refused(tmp_path, data):
    (tmp_path / "predictions.npz").write_bytes(data)
    with pytest.raises(DataError, match="predictions.npz is damaged.*Remove it"):
        predictions.read(tmp_path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"labels": np.zeros(3, int)},
        {"labels": np.zeros(3, int), "predicted": np.zeros(4, int)},
        {"labels": np.zeros(0, int), "predicted": np.zeros(0, int)},
        {"labels": np.array([{}]), "predicted": np.array([{}])},
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "predictions.npz", **arrays)
    with pytest.raises(DataError, match="predictions.npz is damaged"):
        predictions.read(tmp_path)


def test_predictions_that_are_missing_are_told(tmp_path):
    with pytest.raises(DataError, match="predictions.npz cannot be read: No such file"):
        predictions.read(tmp_path)


def test_predictions_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        predictions.write(tmp_path / "file", LABELS, PREDICTED)
