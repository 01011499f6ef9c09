"""Features on disk: computed once, found again by every seed, split and later command.

A cache is a folder of shards, each with the rows of some examples, and a manifest with the sha256
of each shard. A shard is written whole before the manifest names it, so that a run that is killed
loses one shard of work at most.
"""

import hashlib
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tl_keras import faults, files
from tl_keras.errors import DataError

LOG = logging.getLogger(__name__)

EXAMPLES_A_SHARD = 2048
MANIFEST = "manifest.json"


class FeatureCache:
    """The features of one split of images under one frozen model."""

    def __init__(self, folder: Path, key: dict[str, Any]):
        """Open or make the cache.

        Args:
            folder: where the workdir's caches lie.
            key: all that the features depend on: weights, preprocessing and pictures.
        """
        text = json.dumps(key, sort_keys=True)
        self._folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self._key = key
        self._shards: list[dict[str, str]] = []
        self._rows: dict[int, np.ndarray] = {}
        self._read()

    def rows(self, indices: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return the features of the examples at `indices`, computing those not there yet.

        Args:
            indices: (examples,) int64, of the split; at least one.
            compute: gives the (n, d) float32 features of the examples at n indices.

        Returns:
            (examples, d) float32, in the order of `indices`.

        Raises:
            WriteError: the cache cannot be written.
        """
        missing = np.array([i for i in indices.tolist() if i not in self._rows], np.int64)
        if len(missing):
            LOG.info("features: %d of %d to compute", len(missing), len(indices))
        for start in range(0, len(missing), EXAMPLES_A_SHARD):
            chosen = missing[start : start + EXAMPLES_A_SHARD]
            self._add(chosen, compute(chosen))
        return np.stack([self._rows[i] for i in indices.tolist()])

    def _add(self, indices: np.ndarray, features: np.ndarray) -> None:
        name = f"shard-{len(self._shards):05d}.npz"
        content = io.BytesIO()
        np.savez(content, indices=indices, features=features)
        data = content.getvalue()
        files.write_bytes(self._folder / name, data)
        faults.reached("cache shard written")
        self._shards.append({"file": name, "sha256": hashlib.sha256(data).hexdigest()})
        manifest = {"key": self._key, "shards": self._shards}
        files.write_state(self._folder / MANIFEST, manifest)
        faults.reached("cache manifest written")
        self._rows.update(zip(indices.tolist(), features, strict=True))

    def _read(self) -> None:
        """Take over every shard that is whole; the first that is not ends the list."""
        manifest = self._folder / MANIFEST
        if not manifest.is_file():
            return
        try:
            kept = files.read_state(manifest)
            if kept["key"] != self._key:
                raise ValueError(f"{MANIFEST} is that of other features")
            for shard in kept["shards"]:
                data = (self._folder / shard["file"]).read_bytes()
                if hashlib.sha256(data).hexdigest() != shard["sha256"]:
                    raise ValueError(f"{shard['file']} is damaged")
                with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                    pairs = zip(arrays["indices"].tolist(), arrays["features"], strict=True)
                    self._rows.update(pairs)
                self._shards.append(shard)
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            LOG.warning("features in %s: %s; computed again from there", self._folder, error)
