"""Decoded pictures in a folder of three files, which later commands read in place of the pictures.

    records.bin     a RECORD for each file, in the order of the files; each carries its own checksum
    images-C.bin    the rows of the good pictures, (rows, size, size, C) uint8
    done.json       what holds for all of them; it is missing until every file has a record

Rows are written before their records. A killed process loses the pictures after the last record.
Each record has the checksum of its row: damage is found, and only damaged rows are decoded again.
A complete set may be mapped by other processes. It is never truncated: if its records or the sizes
of its files are wrong, its files are removed, which does not harm a mapping, and made again.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures.decoded_set import (
    GOOD,
    RECORD,
    DecodedSet,
    checksums,
    digest_image,
    to_channels,
)
from tl_keras.storage import crash_points, files

RECORDS, DONE = "records.bin", "done.json"
_UNFINISHED = "images.unfinished"
# Rows of about this size are read at a time.
_CHUNK_BYTES = 2**22


class FileSet(DecodedSet):
    """Decoded pictures in a folder."""

    folder: Path

    def __init__(self, folder: Path, size: int, count: int):
        """Open the folder, and remove what a killed process left unfinished in it.

        Args:
            folder: it is created if there is none.
            size: as in `DecodedSet`.
            count: as in `DecodedSet`.

        Raises:
            WriteError: the folder cannot be written.
        """
        super().__init__(size, count)
        self.folder = folder
        with files.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        super().append(self._read_records(), [])
        self.channels = self._find_channels()
        self.done = self._read_done()
        if self.done is None:
            self._repair()

    def append(self, records: np.ndarray, images: Sequence[np.ndarray]) -> None:
        """Add records and images."""
        if self.keeps_rows:
            # One by one: joining them would copy each twice.
            rows = (np.ascontiguousarray(image).data.cast("B") for image in images)
            _append(self._images(self.channels), rows)
        crash_points.maybe_crash("picture rows written")
        _append(self.folder / RECORDS, [records.tobytes()])
        crash_points.maybe_crash("picture records written")
        super().append(records, images)

    def widen(self) -> None:
        """Convert all rows to 3 channels."""
        if self.keeps_rows:
            unfinished = self.folder / _UNFINISHED
            with files.writing(self.folder):
                with unfinished.open("wb") as file:
                    for rows in self._read_rows():
                        file.write(to_channels(rows, 3).data)
                unfinished.replace(self._images(3))
                crash_points.maybe_crash("picture rows widened")
                self._images(1).unlink(missing_ok=True)
        self.channels = 3

    def overwrite(self, index: int, row: int, record: np.ndarray, image: np.ndarray) -> None:
        """Replace a record and its row."""
        super().overwrite(index, row, record, image)
        if self.keeps_rows:
            _write_at(self._images(self.channels), row * self.row_bytes, image.tobytes())
        _write_at(self.folder / RECORDS, index * RECORD.itemsize, record.tobytes())

    def finish(self, done: dict[str, Any]) -> None:
        """State what holds for all pictures."""
        # Rows that a power cut takes are found by their checksums, so they need no fsync.
        files.write_state(self.folder / DONE, done)
        super().finish(done)

    def clear(self) -> None:
        """Remove all files."""
        with files.writing(self.folder):
            shutil.rmtree(self.folder)
            self.folder.mkdir()
        super().clear()

    def find_damaged(self) -> np.ndarray:
        """Return the indices of the good records whose rows have another checksum, (n,) int64."""
        if not self.keeps_rows:
            return super().find_damaged()
        good = np.flatnonzero(self.records["status"] == GOOD)
        digests = self.records["digest"][good].tobytes()
        is_grey = self.records["is_grey"][good].tolist()
        images = (image for rows in self._read_rows() for image in rows)
        damaged = [
            row
            for row, image in enumerate(images)
            if digest_image(image, is_grey[row]) != digests[16 * row : 16 * row + 16]
        ]
        return good[np.array(damaged, np.int64)]

    def rows(self) -> np.ndarray:
        """Return the rows, mapped from the file."""
        shape = (self.num_good, self._size, self._size, self.channels)
        if not self.num_good:
            return np.empty(shape, np.uint8)
        path = self._images(self.channels)
        with files.writing(path):
            return np.memmap(path, np.uint8, "r", shape=shape).view(np.ndarray)

    def _read_rows(self) -> Iterator[np.ndarray]:
        """Yield all rows in parts, (n, size, size, channels) uint8. The memory is used again."""
        if not self.num_good:
            return
        path, step = self._images(self.channels), max(1, _CHUNK_BYTES // self.row_bytes)
        buffer = np.empty((step, self._size, self._size, self.channels), np.uint8)
        with files.writing(path), path.open("rb") as file:
            for start in range(0, self.num_good, step):
                rows = buffer[: min(step, self.num_good - start)]
                file.readinto(rows.data)
                yield rows

    def _find_channels(self) -> int:
        if self.keeps_rows:
            return 3 if self._images(3).is_file() else 1
        return 1 if self.records["is_grey"][self.records["status"] == GOOD].all() else 3

    def _images(self, channels: int) -> Path:
        return self.folder / f"images-{channels}.bin"

    def _read_records(self) -> np.ndarray:
        """Return the records up to the first damaged one."""
        try:
            content = (self.folder / RECORDS).read_bytes()
        except OSError:
            content = b""
        count = min(len(content) // RECORD.itemsize, len(self._records))
        records = np.frombuffer(content, RECORD, count)
        wrong = np.flatnonzero(records["check"] != checksums(records))
        return records[: wrong[0] if wrong.size else count]

    def _read_done(self) -> dict[str, Any] | None:
        """Return what was stated by `finish`, if the files still have the size that they had."""
        try:
            done = files.read_state(self.folder / DONE)
        except (OSError, DataError):
            return None
        is_whole = self._num_records == len(self._records)
        return done if is_whole and self._sizes() == (self._num_records, self.num_good) else None

    def _sizes(self) -> tuple[float, float]:
        """Return the number of records and of rows, by the sizes of the files."""
        records, images = self.folder / RECORDS, self._images(self.channels)
        num_records = records.stat().st_size / RECORD.itemsize if records.is_file() else 0
        if not self.keeps_rows:
            return num_records, self.num_good
        return num_records, images.stat().st_size / self.row_bytes if images.is_file() else 0

    def _repair(self) -> None:
        """Keep the records whose rows are there, and remove everything after them."""
        images, records = self._images(self.channels), self.folder / RECORDS
        with files.writing(self.folder):
            found = list(self.folder.iterdir())
            if self.folder / DONE in found or not all(path.is_file() for path in found):
                self.clear()
                return
            for path in {*found} - {images, records}:
                path.unlink()
            if self.keeps_rows:
                rows_needed = np.cumsum(self.records["status"] == GOOD)
                kept = np.searchsorted(rows_needed, int(self._sizes()[1]), "right")
                self._num_records = int(kept)
                self.num_good = int((self.records["status"] == GOOD).sum())
            for path, size in (
                (images, self.num_good * self.row_bytes),
                (records, self.records.nbytes),
            ):
                if path in found:
                    os.truncate(path, size)


def _append(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    file = files.AppendFile(path)
    try:
        for part in parts:
            file.write(part)
    finally:
        file.close()


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with files.writing(path), path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
