"""The cache of frozen features on disk: computed once, and read by later commands.

A cache is a folder of three files: the rows of its examples in memory layout, so that they can be
memory-mapped; the indices of these examples; and a manifest with the sha256 of each piece of both.
A piece is written before the manifest names it, so a killed run loses at most one piece of work.

All caches of a workdir share a folder of limited size. Rows that do not fit are computed and used
without being cached.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_keras.distributed import cluster
from tl_keras.errors import DataError
from tl_keras.runtime import interruption
from tl_keras.storage import crash_points, files, memory

LOG = logging.getLogger(__name__)

EXAMPLES_PER_PIECE = 2048
BYTES_PER_PIECE = 2**26
MANIFEST, ROWS, INDICES = "manifest.json", "rows.bin", "indices.bin"
INDEX_BYTES = 8
# Upper limits of the manifest's size: per piece, and for everything but pieces and key.
PIECE_ENTRY_BYTES, MANIFEST_BYTES = 128, 256


class Rows(NamedTuple):
    """Rows of a cache.

    Attributes:
        table: (rows, ...) all rows, memory-mapped from the file.
        places: (examples,) int64, the rows of the requested examples.
    """

    table: np.ndarray
    positions: np.ndarray


# Sizes and times of the cache files that this process has written or verified. Each stage and seed
# opens a cache again, and unchanged files are not hashed again.
_VERIFIED: dict[Path, tuple[int, ...]] = {}


class CacheFolder:
    """The folder of all caches of a workdir, with a size limit."""

    def __init__(self, folder: Path, max_bytes: float = math.inf):
        """Limit what is added to `folder`; existing files are kept."""
        self.folder = folder
        self._max_bytes = max_bytes
        self._has_logged = False

    def fits(self, counts: Mapping["FeatureCache", int]) -> bool:
        """Return whether each of these caches has room for the given number of further examples.

        All processes of a cluster must call this together; they get the same answer.
        """
        if not any(counts.values()):
            return True
        growing = {cache.folder for cache in counts}
        others = [p for p in self.folder.rglob("*") if p.is_file() and p.parent not in growing]
        # Incomplete pieces of a killed run do not count, so the same command gets the same answer.
        needed = sum(cache.size_with(count) for cache, count in counts.items())
        used = sum(path.stat().st_size for path in others)
        return cluster.current().broadcast_from_chief(used + needed <= self._max_bytes)

    def log_full(self, count: int) -> None:
        """Log once that rows are computed and not cached."""
        if not self._has_logged:
            LOG.info(
                "features: --cache_gb=%g leaves no room for %d more in %s. Features that do not fit"
                " are computed and not cached",
                *(self._max_bytes / 1e9, count, self.folder),
            )
        self._has_logged = True


class FeatureCache:
    """The cached outputs of one frozen part for one set of images."""

    def __init__(self, room: CacheFolder, key: dict[str, Any], shape: tuple[int, ...], dtype: Any):
        """Open the cache if it exists.

        Args:
            room: the folder of the workdir's caches.
            key: everything that determines the rows: weights, preprocessing, precision, images.
            shape: shape of a row.
            dtype: NumPy dtype of the rows.
        """
        text = json.dumps(key, sort_keys=True)
        self._room = room
        self.folder = room.folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._key = key
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._row_bytes = math.prod(shape) * self._dtype.itemsize
        self._pieces: list[dict[str, Any]] = []
        self._indices: list[int] = []
        self._read()
        self._positions = {index: place for place, index in enumerate(self._indices)}

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Return the (examples,) int64 indices whose rows are not cached."""
        return np.array([i for i in indices.tolist() if i not in self._positions], np.int64)

    def size_with(self, count: int) -> int:
        """Return the largest size on disk, in bytes, while `count` more examples are added."""
        pieces = len(self._pieces) + -(-count // self._examples_per_piece)
        key = len(json.dumps(self._key, indent=2))
        manifest = key + pieces * PIECE_ENTRY_BYTES + MANIFEST_BYTES
        # The old and the new manifest exist side by side until the new one is complete.
        return (len(self._indices) + count) * (self._row_bytes + INDEX_BYTES) + 2 * manifest

    def rows(self, indices: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> Rows:
        """Return the rows of the examples at `indices`, computing missing ones.

        Args:
            indices: (examples,) int64; at least one.
            compute: returns the (n, ...) rows of the examples at n indices.

        Raises:
            WriteError: the cache, or the temporary file of uncached rows, cannot be written.
            StoppedError: a stop signal arrived. Computed rows that fit are cached.
        """
        missing = self.missing(indices)
        if len(missing):
            LOG.info("features: computing %d of %d", len(missing), len(indices))
        if not self._room.fits({self: len(missing)}):
            self._room.log_full(len(missing))
            return self._compute_without_cache(indices, compute)
        for chosen in self._in_pieces(missing):
            self._add(chosen, compute(chosen))
            if interruption.stop_requested():
                raise interruption.stopped_error()
        return Rows(
            self._table(), np.array([self._positions[i] for i in indices.tolist()], np.int64)
        )

    def _compute_without_cache(
        self, indices: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]
    ) -> Rows:
        """Return the rows of `indices` in a temporary table of this process."""
        size = len(indices) * self._row_bytes
        buffer = memory.allocate((size,), "features that are not cached", "raise --cache_gb")
        table = buffer.view(self._dtype).reshape(len(indices), *self._shape)
        is_cached = np.array([i in self._positions for i in indices.tolist()])
        for chosen in self._in_pieces(np.flatnonzero(is_cached)):
            table[chosen] = self._table()[[self._positions[i] for i in indices[chosen].tolist()]]
        for chosen in self._in_pieces(np.flatnonzero(~is_cached)):
            table[chosen] = compute(indices[chosen])
            if interruption.stop_requested():
                raise interruption.stopped_error()
        return Rows(table, np.arange(len(indices)))

    @property
    def _examples_per_piece(self) -> int:
        return max(1, min(EXAMPLES_PER_PIECE, BYTES_PER_PIECE // self._row_bytes))

    def _in_pieces(self, values: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(values), self._examples_per_piece):
            yield values[start : start + self._examples_per_piece]

    def _table(self) -> np.ndarray:
        shape = (len(self._indices), *self._shape)
        return np.memmap(self.folder / ROWS, self._dtype, "r", shape=shape)

    def _add(self, indices: np.ndarray, rows: np.ndarray) -> None:
        with files.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        parts = {
            ROWS: np.ascontiguousarray(rows, self._dtype).tobytes(),
            INDICES: indices.astype("<i8").tobytes(),
        }
        for name, data in parts.items():
            file = files.AppendFile(self.folder / name)
            try:
                # Remove what a killed run wrote without naming it in the manifest.
                file.truncate(len(self._indices) * self._example_bytes(name))
                file.write(data)
            finally:
                file.close()
        crash_points.maybe_crash("cache rows written")
        self._pieces.append({"examples": len(indices), "sha256": _digest(parts)})
        files.write_state(self.folder / MANIFEST, {"key": self._key, "pieces": self._pieces})
        crash_points.maybe_crash("cache manifest written")
        start = len(self._indices)
        self._indices += indices.tolist()
        _VERIFIED[self.folder] = self._signature()
        self._positions |= {index: start + place for place, index in enumerate(indices.tolist())}

    def _example_bytes(self, name: str) -> int:
        return self._row_bytes if name == ROWS else INDEX_BYTES

    def _read(self) -> None:
        """Read the manifest's pieces up to the first damaged one."""
        manifest = self.folder / MANIFEST
        if not manifest.is_file():
            return
        try:
            stored = files.read_state(manifest)
            if stored["key"] != self._key:
                raise ValueError(f"{MANIFEST} belongs to other features")
            with (self.folder / ROWS).open("rb") as rows, (self.folder / INDICES).open("rb") as i:
                is_verified = _VERIFIED.get(self.folder) == self._signature()
                for number, piece in enumerate(stored["pieces"]):
                    count = piece["examples"]
                    parts = {INDICES: i.read(count * INDEX_BYTES)}
                    if not is_verified:
                        parts = {ROWS: rows.read(count * self._row_bytes), **parts}
                        if _digest(parts) != piece["sha256"]:
                            raise ValueError(f"piece {number} is damaged")
                    self._indices += np.frombuffer(parts[INDICES], "<i8").tolist()
                    self._pieces.append(piece)
            _VERIFIED[self.folder] = self._signature()
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            LOG.warning("features in %s: %s. Computed again from there", self.folder, error)

    def _signature(self) -> tuple[int, ...]:
        """Return the sizes and times of the files, which change with them."""
        stats = [(self.folder / name).stat() for name in (ROWS, INDICES, MANIFEST)]
        return tuple(number for stat in stats for number in (stat.st_size, stat.st_mtime_ns))


def _digest(parts: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for data in parts.values():
        total.update(data)
    return total.hexdigest()
