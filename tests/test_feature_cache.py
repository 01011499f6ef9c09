"""Features on disk: computed once, and again only where the disk lost them."""

import contextlib
import json

import numpy as np
import pytest
import tensorflow as tf

from tl_keras.errors import StoppedError, WriteError
from tl_keras.methods import feature_cache
from tl_keras.methods.feature_cache import CacheFolder, FeatureCache
from tl_keras.runtime import interruption
from tl_keras.storage import files


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

        cache = FeatureCache(CacheFolder(self.folder), self.key, shape, dtype)
        found = cache.rows(np.array(indices), counted)
        return found.table[found.positions]

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
    assert "Computed again from there" in caplog.text
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


@pytest.mark.parametrize("limit", ["EXAMPLES_PER_PIECE", "BYTES_PER_PIECE"])
def test_feature_cache_keeps_every_whole_piece_of_a_run_that_is_killed(
    tmp_path, monkeypatch, limit
):
    monkeypatch.setattr(
        feature_cache, limit, {"EXAMPLES_PER_PIECE": 2, "BYTES_PER_PIECE": 23}[limit]
    )

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
    cache = FeatureCache(CacheFolder(tmp_path), {}, (2, 3), dtype)
    found = cache.rows(np.array([5, 0]), maps)
    assert isinstance(found.table, np.memmap)
    assert not found.table.flags.writeable
    assert found.table.dtype == dtype
    np.testing.assert_array_equal(found.table[found.positions], maps(np.array([5, 0])))
    assert next(tmp_path.glob("*/rows.bin")).stat().st_size == 2 * 6 * 2


def test_feature_cache_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be written"):
        Cache(tmp_path / "file").rows([1])


def on_disk(folder):
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("pieces", [1, 2, 2048])
def test_feature_caches_never_take_more_than_their_room(tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(feature_cache, "EXAMPLES_PER_PIECE", pieces)
    seen = []
    write = files.write_bytes

    def watched(path, data):
        # A new manifest lies beside the one before it at this moment.
        seen.append(on_disk(tmp_path) + len(data))
        return write(path, data)

    monkeypatch.setattr(files, "write_bytes", watched)
    kept = {}
    for limit in (0, 1000, 2000, 4000, 8000):
        for name in "abcd":
            del seen[:]
            cache = FeatureCache(CacheFolder(tmp_path, limit), {"weights": name}, (2,), np.float32)
            found = cache.rows(np.arange(7, 0, -1), squares)
            np.testing.assert_array_equal(
                found.table[found.positions], squares(np.arange(7, 0, -1))
            )
            kept[limit] = len(list(tmp_path.glob("*/manifest.json")))
            assert max(seen, default=0) <= limit
            assert on_disk(tmp_path) <= limit
    # There is a limit that keeps some of the caches, and not all of them.
    assert kept[0] == 0 and {1, 2, 3} & set(kept.values()) and kept[8000] == 4


def test_feature_cache_without_room_uses_the_rows_that_it_has(tmp_path, caplog):
    Cache(tmp_path).rows([4, 1])
    before = on_disk(tmp_path)
    computed = []

    def counted(chosen):
        computed.extend(chosen.tolist())
        return squares(chosen)

    caplog.set_level("INFO", "tl_keras")
    room = CacheFolder(tmp_path, before)
    cache = FeatureCache(room, {}, (2,), np.float32)
    for indices in ([1, 9, 4, 3], [1, 9], [4, 1]):
        found = cache.rows(np.array(indices), counted)
        np.testing.assert_array_equal(found.table[found.positions], squares(np.array(indices)))
    assert computed == [9, 3, 9]
    other = FeatureCache(room, {"weights": "y"}, (2,), np.float32)
    other.rows(np.array([5]), counted)
    assert on_disk(tmp_path) == before
    assert caplog.text.count("leaves no room") == 1


def test_feature_cache_that_was_killed_half_way_has_the_same_room_again(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "EXAMPLES_PER_PIECE", 2)
    limit = FeatureCache(CacheFolder(tmp_path), {}, (2,), np.float32).size_with(6)

    def killed(indices):
        if 4 in indices:
            raise KeyboardInterrupt
        return squares(indices)

    for compute in (killed, squares):
        cache = FeatureCache(CacheFolder(tmp_path, limit), {}, (2,), np.float32)
        with contextlib.suppress(KeyboardInterrupt):
            found = cache.rows(np.arange(6), compute)
        # What a killed process wrote of a piece.
        for name in ("rows.bin", "indices.bin") if compute is killed else ():
            with next(tmp_path.glob(f"*/{name}")).open("ab") as file:
                file.write(b"half a piece")
    assert isinstance(found.table, np.memmap)
    np.testing.assert_array_equal(found.table, squares(np.arange(6)))


def test_feature_cache_without_room_keeps_maps_in_bfloat16_as_they_are(tmp_path):
    dtype = tf.bfloat16.as_numpy_dtype
    values = tf.cast(np.arange(12.0).reshape(2, 2, 3) / 7, tf.bfloat16).numpy()
    cache = FeatureCache(CacheFolder(tmp_path, 0), {}, (2, 3), dtype)
    found = cache.rows(np.array([1, 0]), lambda chosen: values[chosen])
    assert found.table.dtype == dtype
    np.testing.assert_array_equal(found.table, values[[1, 0]])


def test_feature_cache_without_room_ends_between_two_pieces_where_it_is_told_to(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(feature_cache, "EXAMPLES_PER_PIECE", 2)
    computed = []
    monkeypatch.setattr(interruption, "stop_requested", lambda: len(computed) == 4)
    cache = FeatureCache(CacheFolder(tmp_path, 0), {}, (2,), np.float32)
    with pytest.raises(StoppedError):
        cache.rows(np.arange(9), lambda chosen: computed.extend(chosen) or squares(chosen))
    assert computed == [0, 1, 2, 3]


def test_cache_is_compared_with_its_hashes_once_a_process_and_after_each_change(
    tmp_path, monkeypatch
):
    key, numbers = {"of": "pictures"}, np.arange(6)

    def opened() -> FeatureCache:
        return FeatureCache(CacheFolder(tmp_path), key, (2,), np.float32)

    first = opened()
    first.rows(numbers, lambda chosen: np.stack([chosen, chosen], axis=1).astype(np.float32))
    hashed = []
    digest = feature_cache._digest
    monkeypatch.setattr(
        feature_cache, "_digest", lambda parts: hashed.append(len(parts)) or digest(parts)
    )
    assert not len(opened().missing(numbers)) and not hashed
    rows = first.folder / feature_cache.ROWS
    damaged = bytearray(rows.read_bytes())
    damaged[0] ^= 1
    rows.write_bytes(damaged)
    assert len(opened().missing(numbers)) == 6 and hashed
