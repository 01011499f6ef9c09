"""USPS handwritten digits as a tensorflow-datasets builder, which tfds does not have."""

import bz2
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tl_keras.errors import DataError

SIDE = 16
FOLDER_URL = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"
FILES = {"train": "usps.bz2", "test": "usps.t.bz2"}
# Examples of each digit, 0 to 9: 7,291 training and 2,007 test images.
CLASS_COUNTS = {
    "train": (1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644),
    "test": (359, 264, 198, 166, 200, 160, 170, 147, 166, 177),
}
# A complete file unpacks to about 18 MB.
MAX_TEXT_BYTES = 64 * 1024 * 1024

DESCRIPTION = """\
USPS holds 9,298 handwritten digits that were cut from the ZIP codes on envelopes of the United
States Postal Service, size-normalised to 16x16 grey pixels: 7,291 training and 2,007 test images.
This is the copy that LIBSVM publishes, its values of -1 to 1 brought to 0 (paper) to 255 (ink).
"""

CITATION = """\
@article{hull1994database,
  title={A database for handwritten text recognition research},
  author={Hull, Jonathan J.},
  journal={IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume={16},
  number={5},
  pages={550--554},
  year={1994},
  doi={10.1109/34.291440}
}
"""


class Usps(tfds.core.GeneratorBasedBuilder):
    """Build USPS: image (16, 16, 1) uint8, 255 is ink; label 0 to 9.

    The two files are read from the manual folder, or downloaded.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Optional: {FILES['train']} and {FILES['test']} from {FOLDER_URL}"
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            citation=CITATION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage=FOLDER_URL,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        # Both files are read and checked before the first example is written.
        parsed = {}
        for split, name in FILES.items():
            path = _find_manual_file(dl_manager, name) or dl_manager.download(FOLDER_URL + name)
            parsed[split] = read_libsvm(Path(path), split)
        return {split: self._generate_examples(*arrays) for split, arrays in parsed.items()}

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield index, {"image": image, "label": int(label)}


def _find_manual_file(dl_manager: tfds.download.DownloadManager, name: str) -> Path | None:
    try:
        path = Path(dl_manager.manual_dir) / name
    except AssertionError:  # tfds raises it if the folder is missing or empty
        return None
    return path if path.is_file() else None


def read_libsvm(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one of the two files that LIBSVM publishes.

    A line is `label index:value ...` with label 1 to 10 for digit 0 to 9, index 1 to 256 and value
    -1 (paper) to 1 (ink); a missing index means 0, the middle grey.

    Args:
        path: a bz2 file.
        split: "train" or "test".

    Returns:
        images: (examples, 16, 16, 1) uint8, 255 is ink.
        labels: (examples,) int64, 0 to 9.

    Raises:
        DataError: the file cannot be unpacked or read, or does not hold the published digits.
    """
    advice = f"Download it again from {FOLDER_URL}{FILES[split]}"
    try:
        with bz2.open(path) as stream:
            text = stream.read(MAX_TEXT_BYTES + 1)
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be unpacked ({error}). {advice}") from error
    if len(text) > MAX_TEXT_BYTES:
        raise DataError(f"{path} unpacks to more than {MAX_TEXT_BYTES} bytes. {advice}")
    lines = [line for line in text.splitlines() if line.strip()]
    expected = sum(CLASS_COUNTS[split])
    if len(lines) != expected:
        raise DataError(
            f"{path} is not the {split} file of USPS: it holds {len(lines)} images, not"
            f" {expected}. {advice}"
        )
    values = np.zeros((len(lines), SIDE * SIDE))
    labels = np.zeros(len(lines), np.int64)
    for number, line in enumerate(lines):
        try:
            labels[number] = _parse_line(line, values[number])
        except ValueError as error:
            raise DataError(f"{path}, line {number + 1}: {error}. {advice}") from error
    counts = tuple(np.bincount(labels, minlength=10).tolist())
    if counts != CLASS_COUNTS[split]:
        raise DataError(
            f"{path} is not the {split} file of USPS: it holds {counts} of the digits 0 to 9, not"
            f" {CLASS_COUNTS[split]}. {advice}"
        )
    images = np.rint((values + 1) * 127.5).astype(np.uint8)
    return images.reshape(-1, SIDE, SIDE, 1), labels


def _parse_line(line: bytes, values: np.ndarray) -> int:
    label, *pairs = line.split()
    digit = int(float(label)) - 1
    if not 0 <= digit <= 9:
        raise ValueError(f"label {digit + 1} is not 1 to 10")
    for pair in pairs:
        index, _, value = pair.partition(b":")
        if not 1 <= int(index) <= len(values):
            raise ValueError(f"index {int(index)} is not 1 to {len(values)}")
        if not -1 <= float(value) <= 1:
            raise ValueError(f"value {float(value)} is not -1 to 1")
        values[int(index) - 1] = float(value)
    return digit
