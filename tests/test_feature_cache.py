"""Features on disk: computed once, and again only where the disk lost them."""

import json

import numpy as np
import pytest
import tensorflow as tf

from tl_keras.errors import WriteError
from tl_keras.methods import feature_cache
from tl_keras.methods.feature_cache import FeatureCache


def squares(indices):
    """Return features that are easy to check."""
    return np.stack([indices, indices**2], axis=1).astype(np.float32)


class Cache:
    """A cache of pairs, opened anew each time as a new process would, that counts what it does."""

    def __init__(self, folder, key=None):
        self.folder, self.key = folder, key or {}
        self.computed: list[int] = []

    def rows(self, indices, compute=squares, shape=(2,), dtype=np.float32):
        """Return the rows of the examples at `indices`, in their order."""

        def counted(chosen):
            self.computed += chosen.tolist()
            return compute(chosen)

        cache = FeatureCache(self.folder, self.key, shape, dtype)
        found = cache.rows(np.array(indices), counted)
        return found.table[found.places]

    def file(self, name):
        """Return the path of one of its files."""
        return next(self.folder.glob(f"*/{name}"))


def _flipped(data: bytes) -> bytes:
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("name", ["rows.bin", "indices.bin", "manifest.json"])
@pytest.mark.parametrize("damage", [_flipped, lambda data: data[: len(data) // 2]])
def test_feature_cache_computes_again_what_is_damaged(tmp_path, damage, name, caplog):
    cache = Cache(tmp_path)
    first = cache.rows([4, 1, 7])
    np.testing.assert_array_equal(first[:, 1], [16, 1, 49])
    cache.rows([7, 9])
    assert cache.computed == [4, 1, 7, 9]
    cache.file(name).write_bytes(damage(cache.file(name).read_bytes()))
    np.testing.assert_array_equal(cache.rows([4, 1, 7]), first)
    np.testing.assert_array_equal(cache.rows([9]), squares(np.array([9])))
    # The piece before the damaged one stays; of a manifest nothing does.
    lost = {4, 1, 7, 9} if name == "manifest.json" or damage is not _flipped else {9}
    assert set(cache.computed[4:]) == lost
    assert "computed again from there" in caplog.text
    assert cache.rows([1, 4, 7, 9]).shape == (4, 2)
    assert len(cache.computed) == 4 + len(lost)


def test_feature_cache_takes_no_damaged_row_for_a_good_one(tmp_path):
    cache = Cache(tmp_path)
    cache.rows([4, 1])
    manifest = cache.file("manifest.json")
    kept = json.loads(manifest.read_text())
    kept["pieces"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(kept))
    cache.rows([4])
    assert cache.computed == [4, 1, 4]


def test_feature_cache_keeps_apart_what_depends_on_other_weights(tmp_path):
    Cache(tmp_path, {"weights": "x"}).rows([1])
    other = Cache(tmp_path, {"weights": "y"}).rows([1], lambda i: -squares(i))
    np.testing.assert_array_equal(other, [[-1, -1]])


@pytest.mark.parametrize("limit", ["EXAMPLES_A_PIECE", "BYTES_A_PIECE"])
def test_feature_cache_keeps_every_whole_piece_of_a_run_that_is_killed(
    tmp_path, monkeypatch, limit
):
    monkeypatch.setattr(feature_cache, limit, {"EXAMPLES_A_PIECE": 2, "BYTES_A_PIECE": 23}[limit])

    def killed(indices):
        if 4 in indices:
            raise KeyboardInterrupt
        return squares(indices)

    cache = Cache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        cache.rows(np.arange(6), killed)
    # Half a piece, of which the manifest knows nothing.
    for name in ("rows.bin", "indices.bin"):
        with cache.file(name).open("ab") as file:
            file.write(b"half")
    cache.computed.clear()
    np.testing.assert_array_equal(cache.rows(np.arange(6)), squares(np.arange(6)))
    assert cache.computed == [4, 5]


def test_feature_cache_keeps_maps_in_bfloat16_as_they_are_and_maps_them_from_disk(tmp_path):
    def maps(indices):
        values = indices[:, None, None] + np.arange(6.0).reshape(2, 3) / 7
        return tf.cast(values, tf.bfloat16).numpy()

    dtype = tf.bfloat16.as_numpy_dtype
    cache = FeatureCache(tmp_path, {}, (2, 3), dtype)
    found = cache.rows(np.array([5, 0]), maps)
    assert isinstance(found.table, np.memmap)
    assert not found.table.flags.writeable
    assert found.table.dtype == dtype
    np.testing.assert_array_equal(found.table[found.places], maps(np.array([5, 0])))
    assert next(tmp_path.glob("*/rows.bin")).stat().st_size == 2 * 6 * 2


def test_feature_cache_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be written"):
        Cache(tmp_path / "file").rows([1])
