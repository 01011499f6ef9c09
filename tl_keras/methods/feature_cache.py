"""What a frozen part makes of pictures, on disk: computed once, found again by later commands.

A cache is a folder of three files: the rows of its examples one after the other, as they are in
memory, so that they can be mapped; which examples they are; and a manifest with the sha256 of each
piece of both. A piece is written before the manifest names it, so that a run that is killed loses
one piece of work at most.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_keras import faults, files, interruption
from tl_keras.errors import DataError

LOG = logging.getLogger(__name__)

EXAMPLES_A_PIECE = 2048
BYTES_A_PIECE = 2**26
MANIFEST, ROWS, INDICES = "manifest.json", "rows.bin", "indices.bin"


class Rows(NamedTuple):
    """Rows of a cache.

    Attributes:
        table: (rows, ...) of everything there is, mapped from the file.
        places: (examples,) int64, where in it those are that were asked for.
    """

    table: np.ndarray
    places: np.ndarray


class FeatureCache:
    """What one frozen part makes of one set of images."""

    def __init__(self, folder: Path, key: dict[str, Any], shape: tuple[int, ...], dtype: Any):
        """Open the cache, or prepare to make it.

        Args:
            folder: where the workdir's caches lie.
            key: all that the rows depend on: weights, preprocessing, precision and pictures.
            shape: of a row.
            dtype: of the rows, as numpy knows it.
        """
        text = json.dumps(key, sort_keys=True)
        self._folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._key = key
        self._shape = shape
        self._dtype = np.dtype(dtype)
        self._row_bytes = math.prod(shape) * self._dtype.itemsize
        self._pieces: list[dict[str, Any]] = []
        self._indices: list[int] = []
        self._read()
        self._places = {index: place for place, index in enumerate(self._indices)}

    def rows(self, indices: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> Rows:
        """Return the rows of the examples at `indices`, computing those not there yet.

        Args:
            indices: (examples,) int64; at least one.
            compute: gives the (n, ...) rows of the examples at n indices.

        Raises:
            WriteError: the cache cannot be written.
            StoppedError: the process was told to stop; what was computed is kept.
        """
        missing = np.array([i for i in indices.tolist() if i not in self._places], np.int64)
        if len(missing):
            LOG.info("features: %d of %d to compute", len(missing), len(indices))
        step = max(1, min(EXAMPLES_A_PIECE, BYTES_A_PIECE // self._row_bytes))
        for start in range(0, len(missing), step):
            chosen = missing[start : start + step]
            self._add(chosen, compute(chosen))
            if interruption.told():
                raise interruption.stop()
        shape = (len(self._indices), *self._shape)
        table = np.memmap(self._folder / ROWS, self._dtype, "r", shape=shape)
        return Rows(table, np.array([self._places[i] for i in indices.tolist()], np.int64))

    def _add(self, indices: np.ndarray, rows: np.ndarray) -> None:
        with files.writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        parts = {
            ROWS: np.ascontiguousarray(rows, self._dtype).tobytes(),
            INDICES: indices.astype("<i8").tobytes(),
        }
        for name, data in parts.items():
            file = files.GrowingFile(self._folder / name)
            try:
                # What a killed run wrote, and no manifest names.
                file.truncate(len(self._indices) * self._example_bytes(name))
                file.write(data)
            finally:
                file.close()
        faults.reached("cache rows written")
        self._pieces.append({"examples": len(indices), "sha256": _digest(parts)})
        files.write_state(self._folder / MANIFEST, {"key": self._key, "pieces": self._pieces})
        faults.reached("cache manifest written")
        start = len(self._indices)
        self._indices += indices.tolist()
        self._places |= {index: start + place for place, index in enumerate(indices.tolist())}

    def _example_bytes(self, name: str) -> int:
        return self._row_bytes if name == ROWS else 8

    def _read(self) -> None:
        """Take over every piece that is whole; the first that is not ends the list."""
        manifest = self._folder / MANIFEST
        if not manifest.is_file():
            return
        try:
            kept = files.read_state(manifest)
            if kept["key"] != self._key:
                raise ValueError(f"{MANIFEST} is that of other features")
            with (self._folder / ROWS).open("rb") as rows, (self._folder / INDICES).open("rb") as i:
                opened = {ROWS: rows, INDICES: i}
                for number, piece in enumerate(kept["pieces"]):
                    count = piece["examples"]
                    parts = {n: f.read(count * self._example_bytes(n)) for n, f in opened.items()}
                    if _digest(parts) != piece["sha256"]:
                        raise ValueError(f"piece {number} is damaged")
                    self._indices += np.frombuffer(parts[INDICES], "<i8").tolist()
                    self._pieces.append(piece)
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            LOG.warning("features in %s: %s; computed again from there", self._folder, error)


def _digest(parts: dict[str, bytes]) -> str:
    total = hashlib.sha256()
    for data in parts.values():
        total.update(data)
    return total.hexdigest()
