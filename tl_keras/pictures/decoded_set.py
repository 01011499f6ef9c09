"""The decoded pictures of a dataset: a record for each file, and a row of pixels for each picture.

`MemorySet` lasts as long as the process. `FileSet` is a folder of three files, which later commands
read in place of the pictures:

    records.bin     a RECORD for each file, in the order of the files; each carries its own checksum
    images-C.bin    the rows of the good pictures, (rows, size, size, C) uint8
    done.json       what holds for all of them; it is missing until every file has a record

Rows are written before their records. A killed process loses the pictures after the last record.
Each record has the checksum of its row: damage is found, and only damaged rows are decoded again.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tl_keras.errors import DataError
from tl_keras.storage import crash_points, files, memory

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
        ("digest", "<u8", (2,)),  # xxh3_128 of the row
        ("check", "<u8"),  # checksum of the fields before
    ]
)
RECORDS, DONE = "records.bin", "done.json"
# Odd numbers, one for each 8 bytes of a record before its checksum.
_FACTORS = np.array([0x9E3779B97F4A7C15 * (2 * k + 1) % 2**64 for k in range(5)], np.uint64)
# Rows that are converted to 3 channels, or verified, at a time.
_ROWS_PER_CHUNK = 256


def digest_row(image: np.ndarray, channels: int) -> np.ndarray:
    """Return the checksum of an image, (2,) uint64, as a row of 1 or 3 channels."""
    row = np.ascontiguousarray(to_channels(image, channels))
    return np.frombuffer(xxhash.xxh3_128_digest(row.data), "<u8")


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """Convert (..., 1 or 3) uint8, grey if it shall have 1 channel, to 1 or 3 channels."""
    if image.shape[-1] == channels:
        return image
    return image[..., :1] if channels == 1 else np.repeat(image, 3, axis=-1)


def seal(records: np.ndarray) -> np.ndarray:
    """Set the checksums of (n,) RECORD, and return them."""
    records["check"] = _checksums(records)
    return records


def _checksums(records: np.ndarray) -> np.ndarray:
    words = np.ascontiguousarray(records).view("<u8").reshape(-1, RECORD.itemsize // 8)[:, :-1]
    # Zeros must not be a record with a right checksum.
    return ~((words ^ (words >> np.uint64(29))) * _FACTORS).sum(axis=1, dtype=np.uint64)


class DecodedSet:
    """The interface of both kinds of sets, and the records.

    Attributes:
        records: (files,) RECORD, of the files so far.
        channels: of the rows, 1 until a picture is in colour.
        done: what holds for all pictures; None until every file has a record.
        keeps_rows: whether rows are stored, or the records alone.
        folder: where the files are; None in memory.
    """

    folder: Path | None = None

    def __init__(self, size: int):
        """Begin without records.

        Args:
            size: side of the pictures in pixels; 0 to store the records alone.
        """
        self.records = np.empty(0, RECORD)
        self.channels = 1
        self.done: dict[str, Any] | None = None
        self.keeps_rows = size > 0
        self._size = size

    @property
    def num_good(self) -> int:
        """Number of good pictures so far."""
        return int((self.records["status"] == GOOD).sum())

    def append(self, records: np.ndarray, images: Sequence[np.ndarray]) -> None:
        """Add the records of further files, and the images of the good ones, all of one shape.

        Raises:
            WriteError: the disk is full.
        """
        self.records = np.concatenate([self.records, records])

    def widen(self) -> None:
        """Convert all rows to 3 channels.

        Raises:
            WriteError: the disk is full.
        """
        if self.keeps_rows:
            good = np.flatnonzero(self.records["status"] == GOOD)
            for index, image in zip(good, self.rows(), strict=True):
                self.records["digest"][index] = digest_row(image, 3)
            seal(self.records)

    def overwrite(self, index: int, row: int, record: np.ndarray, image: np.ndarray) -> None:
        """Replace the record of a file and its row."""
        self.records[index] = record

    def finish(self, done: dict[str, Any]) -> None:
        """State what holds for all pictures: every file has a record.

        Raises:
            WriteError: the disk is full.
        """
        self.done = done

    def find_damaged(self) -> np.ndarray:
        """Return the indices of the good records whose rows have another checksum, (n,) int64."""
        return np.empty(0, np.int64)

    def rows(self) -> np.ndarray:
        """Return (good pictures, size, size, channels) uint8."""
        raise NotImplementedError


class MemorySet(DecodedSet):
    """Decoded pictures in memory, or in a temporary file if memory is too small."""

    def __init__(self, size: int, count: int):
        """Make room for `count` pictures; `size` as in `DecodedSet`."""
        super().__init__(size)
        self._table = memory.allocate((count, size, size, 1))

    def append(self, records: np.ndarray, images: Sequence[np.ndarray]) -> None:
        """Add records and images."""
        if self.keeps_rows:
            for row, image in enumerate(images, self.num_good):
                self._table[row] = image
        super().append(records, images)

    def widen(self) -> None:
        """Convert all rows to 3 channels."""
        super().widen()
        wide = memory.allocate((*self._table.shape[:3], 3))
        for start in range(0, self.num_good, _ROWS_PER_CHUNK):
            part = slice(start, min(start + _ROWS_PER_CHUNK, self.num_good))
            wide[part] = self._table[part]
        self._table, self.channels = wide, 3

    def overwrite(self, index: int, row: int, record: np.ndarray, image: np.ndarray) -> None:
        """Replace a record and its row."""
        super().overwrite(index, row, record, image)
        self._table[row] = image

    def rows(self) -> np.ndarray:
        """Return the rows."""
        return self._table[: self.num_good]


class FileSet(DecodedSet):
    """Decoded pictures in a folder."""

    folder: Path

    def __init__(self, folder: Path, size: int):
        """Open the folder, and remove what a killed process left unfinished in it.

        Args:
            folder: it is created if there is none.
            size: as in `DecodedSet`.

        Raises:
            WriteError: the folder cannot be written.
        """
        super().__init__(size)
        self.folder = folder
        self.channels = 3 if self._images(3).is_file() else 1
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self.records = self._read_records()
        self.done = self._read_done()
        if self.done is None:
            self._truncate()

    def append(self, records: np.ndarray, images: Sequence[np.ndarray]) -> None:
        """Add records and images."""
        if self.keeps_rows:
            _append(self._images(self.channels), b"".join(image.tobytes() for image in images))
        crash_points.maybe_crash("picture rows written")
        _append(self.folder / RECORDS, records.tobytes())
        crash_points.maybe_crash("picture records written")
        super().append(records, images)

    def widen(self) -> None:
        """Convert all rows to 3 channels."""
        super().widen()
        unfinished = self.folder / "images.unfinished"
        with files.writing(unfinished), unfinished.open("wb") as file:
            grey = self.rows() if self.keeps_rows else np.empty((0, 0, 0, 1), np.uint8)
            for start in range(0, len(grey), _ROWS_PER_CHUNK):
                file.write(to_channels(grey[start : start + _ROWS_PER_CHUNK], 3).tobytes())
        # Rows that do not fit their records are decoded again, so a crash in between does no harm.
        with files.writing(self.folder):
            unfinished.replace(self._images(3))
            (self.folder / RECORDS).write_bytes(self.records.tobytes())
            self._images(1).unlink(missing_ok=True)
        self.channels = 3

    def overwrite(self, index: int, row: int, record: np.ndarray, image: np.ndarray) -> None:
        """Replace a record and its row."""
        super().overwrite(index, row, record, image)
        with files.writing(self.folder):
            self._map("r+")[row] = image
            np.memmap(self.folder / RECORDS, RECORD, "r+")[index] = record

    def finish(self, done: dict[str, Any]) -> None:
        """State what holds for all pictures."""
        for path in (self._images(self.channels), self.folder / RECORDS):
            with files.writing(path), contextlib.suppress(FileNotFoundError), path.open("rb") as f:
                os.fsync(f.fileno())
        files.write_state(self.folder / DONE, done)
        super().finish(done)

    def find_damaged(self) -> np.ndarray:
        """Return the indices of the good records whose rows have another checksum, (n,) int64."""
        if not self.keeps_rows:
            return super().find_damaged()
        good = np.flatnonzero(self.records["status"] == GOOD)
        digests = self.records["digest"][good]
        return np.array(
            [
                index
                for index, row, digest in zip(good, self.rows(), digests, strict=True)
                if xxhash.xxh3_128_digest(row.data) != digest.tobytes()
            ],
            np.int64,
        )

    def rows(self) -> np.ndarray:
        """Return the rows, mapped from the file."""
        return self._map("r")

    def _map(self, mode: Any) -> np.ndarray:
        shape = (self.num_good, self._size, self._size, self.channels)
        if not self.num_good:
            return np.empty(shape, np.uint8)
        return np.memmap(self._images(self.channels), np.uint8, mode, shape=shape).view(np.ndarray)

    def _images(self, channels: int) -> Path:
        return self.folder / f"images-{channels}.bin"

    def _read_records(self) -> np.ndarray:
        """Return the records up to the first damaged one."""
        try:
            content = (self.folder / RECORDS).read_bytes()
        except OSError:
            content = b""
        records = np.frombuffer(content, RECORD, len(content) // RECORD.itemsize)
        wrong = np.flatnonzero(records["check"] != _checksums(records))
        return records[: wrong[0] if wrong.size else len(records)].copy()

    def _read_done(self) -> dict[str, Any] | None:
        """Return what was stated by `finish`, if the files still have the size that they had."""
        try:
            done = files.read_state(self.folder / DONE)
        except (OSError, DataError):
            return None
        return done if self._sizes() == (len(self.records), self.num_good) else None

    def _sizes(self) -> tuple[float, float]:
        """Return the number of records and of rows, by the sizes of the files."""
        records, images = self.folder / RECORDS, self._images(self.channels)
        row_bytes = self._size * self._size * self.channels
        stored = images.stat().st_size / row_bytes if row_bytes and images.is_file() else 0
        return (
            records.stat().st_size / RECORD.itemsize if records.is_file() else 0,
            stored if self.keeps_rows else self.num_good,
        )

    def _truncate(self) -> None:
        """Cut both files to the records whose rows are there."""
        rows_needed = np.cumsum(self.records["status"] == GOOD)
        self.records = self.records[: np.searchsorted(rows_needed, int(self._sizes()[1]), "right")]
        images_bytes = self.num_good * self._size * self._size * self.channels
        with files.writing(self.folder):
            (self.folder / DONE).unlink(missing_ok=True)
            for path, size in (
                (self._images(self.channels), images_bytes),
                (self.folder / RECORDS, self.records.nbytes),
            ):
                if path.is_file():
                    os.truncate(path, size)


def _append(path: Path, data: bytes) -> None:
    file = files.AppendFile(path)
    try:
        file.write(data)
    finally:
        file.close()
