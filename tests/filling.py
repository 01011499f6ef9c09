"""What the tests of full disks share: commands, what they leave, and a disk that takes so much."""

import errno
import io
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tl_keras.cli import comparison_flags, flags
from tl_keras.experiment import comparison, experiment

FLAGS = ("--source=mnist_5k", "--target=digits", "--shots=5", "--dense_units=16", "--image_size=8",
         "--source_steps=8", "--steps=6", "--seeds=0", "--checkpoint_every=3")  # fmt: skip
COMMANDS = {
    "features": (*FLAGS, "--baseline=false", "--method=features"),
    "compare": (*FLAGS, "--methods=finetune"),
}
# All that a command writes, by names as `site` gives them.
OF_ALL = {
    *("lock", "log.txt", "config.json", "data.json", "events", "metrics.jsonl", "checkpoint.npz"),
    *("checkpoint.json", "source.weights.h5", "model.keras", "predictions.npz", "result.json"),
    "zero_shot.json",
}
SITES = {
    "features": {*OF_ALL, "rows.bin", "indices.bin", "manifest.json", "report.json", "report.txt"},
    "compare": {*OF_ALL, "comparison.json", "comparison.md", "comparison.png"},
}


def words(workdir: Path, name: str) -> list[str]:
    """Return a command, as Python starts it."""
    module = "tl_keras.compare" if name == "compare" else "tl_keras.main"
    return ["-m", module, *COMMANDS[name], f"--workdir={workdir}"]


def work(workdir: Path, name: str) -> None:
    """Carry out a command in this process."""
    argv = ["tl_keras", *COMMANDS[name], f"--workdir={workdir}"]
    if name == "compare":
        comparison.run(comparison_flags.parse(argv))
    else:
        experiment.run(flags.parse(argv))


def site(path: str) -> str:
    """Return which of SITES a path is."""
    name = Path(path).name.removesuffix(".unfinished").removeprefix("unfinished.")
    name = "events" if name.startswith("events.out.tfevents.") else name
    return re.sub(r"^\d{10}(?=\.)", "checkpoint", name)


def saved(workdir: Path) -> dict[str, bytes]:
    """Return what is in a workdir, but for what was not finished, and whose it is."""
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for path in workdir.rglob("*")
        if path.is_file() and "unfinished" not in path.name and path.name != "lock"
    }


class Watched:
    """A file each of whose writes is counted."""

    def __init__(self, file: Any, disk: "Disk", path: str):
        self._file, self._disk, self._path = file, disk, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        try:
            self._disk.take(self._path)
        except OSError:
            # A disk takes what there is room for. (What a buffer of text takes is not on it yet.)
            if not isinstance(data, str):
                self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)


class Disk:
    """A disk that takes a number of writes in a workdir, and then none.

    Attributes:
        left: how many it still takes.
        sites: the paths of those that it took.
        before: what lay in the workdir when it was full first.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, workdir: Path):
        self.left, self.sites, self._workdir = 10**9, [], workdir
        self.before: dict[str, bytes] | None = None
        for module in (io, sys.modules["builtins"]):
            monkeypatch.setattr(module, "open", self._opened(open))
        for name in ("mkdir", "replace", "fsync", "open"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name), name))

    def give(self, writes: int) -> None:
        """Have room for some writes more."""
        self.left, self.before, self.sites = writes, None, []

    def take(self, path: Any) -> None:
        """Count a write of what lies at `path`, or fail as a full disk does."""
        if isinstance(path, int):
            path = Path(f"/proc/self/fd/{path}").readlink()
            if path.is_dir():
                # There are disks that cannot be told to keep a folder, so that this is no error.
                return
        if not str(path).startswith(str(self._workdir)):
            return
        if not self.left:
            self.before = self.before or saved(self._workdir)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        self.left -= 1
        self.sites.append(str(path))

    def _opened(self, really: Any) -> Any:
        def opened(path: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            if not set(mode) & set("wax+"):
                return really(path, mode, *rest, **named)
            self.take(path)
            return Watched(really(path, mode, *rest, **named), self, path)

        return opened

    def _counted(self, really: Any, name: str) -> Any:
        def counted(path: Any, *rest: Any, **named: Any) -> Any:
            if name != "open" or rest[0] & os.O_CREAT:
                self.take(path)
            return really(path, *rest, **named)

        return counted
