"""Tests of the room for decoded pictures."""

from pathlib import Path

import numpy as np
import pytest

from tl_keras.data import memory
from tl_keras.errors import WriteError


def test_allocate_maps_from_disk_what_memory_would_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    monkeypatch.setattr(memory.tempfile, "tempdir", str(tmp_path))
    in_memory, mapped = memory.allocate((5, 10, 10, 1)), memory.allocate((6, 10, 10, 1))
    assert not isinstance(in_memory, np.memmap)
    assert isinstance(mapped, np.memmap)
    assert mapped.shape == (6, 10, 10, 1)
    assert not mapped.any()
    mapped[:] = 3
    assert (mapped == 3).all()
    assert not list(tmp_path.iterdir())


def test_allocate_says_so_when_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    monkeypatch.setattr(memory.os, "posix_fallocate", full)
    with pytest.raises(WriteError, match="No space left on device.*TMPDIR"):
        memory.allocate((10, 10))


def test_available_memory_is_a_plausible_number() -> None:
    assert 2**24 < memory.available_memory() < 2**50
