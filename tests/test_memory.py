"""Tests of the room for decoded pictures."""

import os
from pathlib import Path

import numpy as np
import pytest

from tl_keras.errors import WriteError
from tl_keras.storage import memory


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


@pytest.mark.parametrize(
    ("limit", "usage", "expected"),
    [
        ("max", "5", 3000 * 1024),
        ("4000000", "1000000", 3_000_000),
        ("9000000", "1000000", 3000 * 1024),
        ("1000", "2000", 0),
        (None, None, 3000 * 1024),
    ],
    ids=["no limit", "limited", "machine has less", "over the limit", "no container"],
)
def test_available_memory_is_that_of_the_machine_or_of_the_container(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit: str | None,
    usage: str | None,
    expected: int,
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable:    3000 kB\n")
    for name, text in (("CGROUP_LIMIT", limit), ("CGROUP_USAGE", usage)):
        path = tmp_path / name
        monkeypatch.setattr(memory, name, path)
        if text is not None:
            path.write_text(f"{text}\n")
    monkeypatch.setattr(memory, "MEMINFO", meminfo)
    assert memory.available_memory() == expected


def test_available_memory_without_linux_is_that_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MEMINFO", "CGROUP_LIMIT"):
        monkeypatch.setattr(memory, name, tmp_path / "missing")
    assert memory.available_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(("limit", "share"), [("max", 1.0), ("1000", 0.0), (None, 1.0)])
def test_total_memory_is_that_of_the_machine_or_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, share: float
) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(memory, "CGROUP_LIMIT", tmp_path / "limit")
    if limit:
        (tmp_path / "limit").write_text(limit)
    assert memory.total_memory() == (machine if share else 1000)
