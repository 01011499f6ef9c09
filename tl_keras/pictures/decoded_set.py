"""The decoded pictures of a dataset: a record for each file, and a row of pixels for each picture.

`MemorySet` lasts as long as the process. A `file_set.FileSet` is read by later commands.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tl_keras.storage import memory

GOOD, NO_PICTURE, UNUSABLE = range(3)

RECORD = np.dtype(
    [
        ("status", "u1"),  # GOOD, NO_PICTURE or UNUSABLE
        ("is_grey", "?"),
        ("is_deep", "?"),  # this, opaque, low and high are pixels.Levels
        ("_", "u1"),
        ("opaque", "<i4"),
        ("low", "<i8"),
        ("high", "<i8"),
        ("digest", "<u8", (2,)),  # xxh3_128 of the picture, with 1 channel if it is grey
        ("check", "<u8"),  # checksum of the fields before
    ]
)
# Odd numbers, one for each 8 bytes of a record before its checksum.
_FACTORS = np.array([0x9E3779B97F4A7C15 * (2 * k + 1) % 2**64 for k in range(5)], np.uint64)
# Rows that are converted to 3 channels at a time.
_ROWS_PER_CHUNK = 256


def digest_image(image: np.ndarray, is_grey: bool) -> bytes:
    """Return the checksum of an image, 16 bytes, which does not depend on its channels if grey."""
    if is_grey and image.shape[-1] == 3:
        if not (image == image[..., :1]).all():
            return b""
        image = image[..., :1]
    return xxhash.xxh3_128_digest(np.ascontiguousarray(image).data)


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert (..., 1 or 3) uint8, grey if it shall have 1 channel, to 1 or 3 channels."""
    if image.shape[-1] == channels:
        return image
    return image[..., :1] if channels == 1 else np.repeat(image, 3, axis=-1)


def seal(records: np.ndarray) -> np.ndarray:
    """Set the checksums of (n,) RECORD, and return them."""
    records["check"] = checksums(records)
    return records


def checksums(records: np.ndarray) -> np.ndarray:
    """Return the checksums of (n,) RECORD, (n,) uint64."""
    words = np.ascontiguousarray(records).view("<u8").reshape(-1, RECORD.itemsize // 8)[:, :-1]
    # Zeros must not be a record with a right checksum.
    return ~((words ^ (words >> np.uint64(29))) * _FACTORS).sum(axis=1, dtype=np.uint64)


class DecodedSet:
    """The interface of both kinds of sets, and the records.

    Attributes:
        num_good: number of good pictures so far.
        channels: of the rows, 1 until a picture is in colour.
        done: what holds for all pictures; None until every file has a record.
        keeps_rows: whether rows are stored, or the records alone.
        folder: where the files are; None in memory.
    """

    folder: Path | None = None

    def __init__(self, size: int, count: int):
        """Begin without records.

        Args:
            size: side of the pictures in pixels; 0 to store the records alone.
            count: number of files.
        """
        self.num_good = 0
        self.channels = 1
        self.done: dict[str, Any] | None = None
        self.keeps_rows = size > 0
        self._size = size
        self._records = np.zeros(count, RECORD)
        self._num_records = 0

    @property
    def records(self) -> np.ndarray:
        """(files,) RECORD, of the files so far."""
        return self._records[: self._num_records]

    @property
    def row_bytes(self) -> int:
        """Size of a row in bytes."""
        return self._size * self._size * self.channels

    def append(self, records: np.ndarray, images: Sequence[np.ndarray]) -> None:
        """Add the records of further files, and the images of the good ones, as rows.

        Raises:
            WriteError: the disk is full.
        """
        self._records[self._num_records : self._num_records + len(records)] = records
        self._num_records += len(records)
        self.num_good += int((records["status"] == GOOD).sum())

    def widen(self) -> None:
        """Convert all rows to 3 channels.

        Raises:
            WriteError: the disk is full.
        """
        raise NotImplementedError

    def overwrite(self, index: int, row: int, record: np.ndarray, image: np.ndarray) -> None:
        """Replace the record of a file, and its row if rows are kept.

        Raises:
            WriteError: the disk is full.
        """
        self._records[index] = record

    def finish(self, done: dict[str, Any]) -> None:
        """State what holds for all pictures: every file has a record.

        Raises:
            WriteError: the disk is full.
        """
        self.done = done

    def clear(self) -> None:
        """Remove all records.

        Raises:
            WriteError: the folder cannot be written.
        """
        self.num_good, self.channels, self.done, self._num_records = 0, 1, None, 0

    def find_damaged(self) -> np.ndarray:
        """Return the indices of the good records whose rows have another checksum, (n,) int64."""
        return np.empty(0, np.int64)

    def rows(self) -> np.ndarray:
        """Return (good pictures, size, size, channels) uint8."""
        raise NotImplementedError


class MemorySet(DecodedSet):
    """Decoded pictures in memory, or in a temporary file if memory is too small."""

    def __init__(self, size: int, count: int):
        """Make room for `count` pictures; see `DecodedSet`."""
        super().__init__(size, count)
        self._table = memory.allocate((count, size, size, 1))

    def append(self, records: np.ndarray, images: Sequence[np.ndarray]) -> None:
        """Add records and images."""
        if self.keeps_rows:
            for row, image in enumerate(images, self.num_good):
                self._table[row] = image
        super().append(records, images)

    def widen(self) -> None:
        """Convert all rows to 3 channels."""
        wide = memory.allocate((*self._table.shape[:3], 3))
        for start in range(0, self.num_good, _ROWS_PER_CHUNK):
            part = slice(start, min(start + _ROWS_PER_CHUNK, self.num_good))
            wide[part] = self._table[part]
        self._table, self.channels = wide, 3

    def overwrite(self, index: int, row: int, record: np.ndarray, image: np.ndarray) -> None:
        """Replace a record and its row."""
        super().overwrite(index, row, record, image)
        if self.keeps_rows:
            self._table[row] = image

    def rows(self) -> np.ndarray:
        """Return the rows."""
        return self._table[: self.num_good]
