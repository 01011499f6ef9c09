"""The predictions of a run for the test images: predictions.npz in its folder.

The file holds `labels` and `predicted`, both (images,) int64 class indices in the order of the test
images. Its bytes depend on these two arrays alone.
"""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_keras.errors import DataError
from tl_keras.storage import files

PREDICTIONS = "predictions.npz"


class Predictions(NamedTuple):
    """The predictions of a run.

    Attributes:
        labels: (images,) int64, the true classes, in the order of the test images.
        predicted: (images,) int64, the predicted classes.
    """

    labels: np.ndarray
    predicted: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(images,) bool, whether the run has each test image right."""
        return self.labels == self.predicted


def write(folder: Path, labels: np.ndarray, predicted: np.ndarray) -> str:
    """Write predictions.npz.

    Args:
        folder: of the run.
        labels: (images,) int, the true classes.
        predicted: (images,) int, the predicted classes.

    Returns:
        The sha256 of the file.

    Raises:
        WriteError: it cannot be written.
    """
    content = io.BytesIO()
    arrays = {"labels": labels.astype(np.int64), "predicted": predicted.astype(np.int64)}
    np.savez(content, allow_pickle=False, **arrays)
    return files.write_bytes(folder / PREDICTIONS, content.getvalue())


def read(folder: Path) -> Predictions:
    """Return the predictions of the run in `folder`.

    Raises:
        DataError: the file is missing or damaged.
    """
    path = folder / PREDICTIONS
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            labels, predicted = kept["labels"], kept["predicted"]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    # numpy and zipfile raise many kinds of errors for damaged bytes.
    except Exception as error:
        reason = str(error).rstrip(".")
        raise DataError(f"{path} is damaged: {reason}. Remove it, or its folder") from error
    if labels.ndim != 1 or not labels.size or labels.shape != predicted.shape:
        raise DataError(
            f"{path} is damaged: labels are {labels.shape} and predicted {predicted.shape}, not"
            " both (images,). Remove it, or its folder"
        )
    return Predictions(labels, predicted)
