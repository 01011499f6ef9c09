"""Features on disk: computed once, and again only where the disk lost them."""

import io

import numpy as np
import pytest

from tl_keras.errors import WriteError
from tl_keras.methods import feature_cache
from tl_keras.methods.feature_cache import FeatureCache


def _flipped(data: bytes) -> bytes:
    return data[:-200] + bytes([data[-200] ^ 1]) + data[-199:]


@pytest.mark.parametrize("damage", [_flipped, lambda data: data[: len(data) // 2]])
def test_feature_cache_computes_again_what_is_damaged(tmp_path, damage):
    def compute(indices):
        computed.extend(indices.tolist())
        return np.stack([indices, indices**2], axis=1).astype(np.float32)

    computed: list[int] = []
    indices = np.array([4, 1, 7])
    first = FeatureCache(tmp_path, {"weights": "x"}).rows(indices, compute)
    np.testing.assert_array_equal(first[:, 1], [16, 1, 49])
    FeatureCache(tmp_path, {"weights": "x"}).rows(np.array([7, 9]), compute)
    assert computed == [4, 1, 7, 9]
    shard = next(tmp_path.glob("*/shard-00000.npz"))
    shard.write_bytes(damage(shard.read_bytes()))
    again = FeatureCache(tmp_path, {"weights": "x"}).rows(indices, compute)
    np.testing.assert_array_equal(again, first)
    assert computed == [4, 1, 7, 9, 4, 1, 7]
    assert np.load(io.BytesIO(shard.read_bytes()))["features"].shape == (3, 2)


def squares(indices):
    """Return features that are easy to check."""
    return np.stack([indices, indices**2], axis=1).astype(np.float32)


def test_feature_cache_keeps_apart_what_depends_on_other_weights(tmp_path):
    FeatureCache(tmp_path, {"weights": "x"}).rows(np.array([1]), squares)
    other = FeatureCache(tmp_path, {"weights": "y"}).rows(np.array([1]), lambda i: -squares(i))
    np.testing.assert_array_equal(other, [[-1, -1]])


def test_feature_cache_keeps_every_whole_shard_of_a_run_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "EXAMPLES_A_SHARD", 2)
    computed: list[int] = []

    def killed(indices):
        if 4 in indices:
            raise KeyboardInterrupt
        return squares(indices)

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, {}).rows(np.arange(6), killed)

    def counted(indices):
        computed.extend(indices.tolist())
        return squares(indices)

    rows = FeatureCache(tmp_path, {}).rows(np.arange(6), counted)
    np.testing.assert_array_equal(rows, squares(np.arange(6)))
    assert computed == [4, 5]


def test_feature_cache_says_where_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be written"):
        FeatureCache(tmp_path / "file", {}).rows(np.array([1]), squares)
