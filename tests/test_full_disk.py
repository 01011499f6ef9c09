"""A disk that is full, or that takes nothing: told in one line, with 73, and nothing is lost by it.

The disk is real where it says so: a tmpfs of some kilobytes, under the command that users start.
Else it is of this process: whatever is written in the workdir is counted, and fails from some
write on.
"""

import errno
import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from made import ROOT
from remains import different, facts, leftovers

from tl_keras import comparison, comparison_options, experiment, options, runs
from tl_keras.errors import WriteError

FLAGS = ("--source=mnist_5k", "--target=digits", "--shots=5", "--dense_units=16", "--image_size=8",
         "--source_steps=8", "--steps=6", "--seeds=0", "--checkpoint_every=3")  # fmt: skip
COMMANDS = {
    "finetune": (*FLAGS, "--baseline=false"),
    "features": (*FLAGS, "--baseline=false", "--method=features"),
    "compare": (*FLAGS, "--methods=finetune,features"),
}
# All that is written: the test fails where one of them has got another name, or is not reached.
SITES = {"lock", "log.txt", "config.json", "data.json", "events", "metrics.jsonl", "checkpoint.npz",
         "checkpoint.json", "source.weights.h5", "model.keras", "result.json"}  # fmt: skip
OF_COMMANDS = {
    "finetune": {*SITES, "zero_shot.json", "report.json", "report.txt"},
    "features": {*SITES, "zero_shot.json", "report.json", "report.txt", "shard.npz",
                 "manifest.json"},
    "compare": {*SITES, "zero_shot.json", "shard.npz", "manifest.json", "comparison.json",
                "comparison.md", "comparison.png"},
}  # fmt: skip

PAGE = 4096
NEVER = ("Traceback", "Logging error", "Exception ignored", "Fatal", "Aborted", "terminate called")


def work(workdir: Path, name: str) -> None:
    """Carry out a command in this process."""
    argv = ["tl_keras", *COMMANDS[name], f"--workdir={workdir}"]
    if name == "compare":
        comparison.run(comparison_options.parse(argv))
    else:
        experiment.run(options.parse(argv))


def site(path: str) -> str:
    """Return which of SITES a path is."""
    name = Path(path).name.removesuffix(".unfinished").removeprefix("unfinished.")
    name = "events" if name.startswith("events.out.tfevents.") else name
    name = re.sub(r"^\d{10}(?=\.)", "checkpoint", name)
    return re.sub(r"^shard-\d+", "shard", name)


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
        self._disk.take(self._path)
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
            path = os.readlink(f"/proc/self/fd/{path}")
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


class Whole(NamedTuple):
    """What a command leaves where there is room.

    Attributes:
        facts: of its workdir.
        sites: all that it wrote, in order.
        pages: of the disk that its files take.
    """

    facts: dict[str, str]
    sites: list[str]
    pages: int


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Whole]]:
    """What each command leaves; no pictures are drawn in this process."""
    found = {}
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(runs, "_show", lambda *_: None)
        for name in COMMANDS:
            workdir = tmp_path_factory.mktemp(name) / "work"
            with pytest.MonkeyPatch.context() as patched:
                disk = Disk(patched, workdir)
                work(workdir, name)
            pages = sum(-(-len(data) // PAGE) for data in saved(workdir).values())
            found[name] = Whole(facts(workdir), disk.sites, pages)
        yield found


def _fails(disk: Disk, workdir: Path, name: str, writes: int) -> str:
    """Work until the disk is full, and return what is wrong with how that ends, or ""."""
    disk.give(writes)
    try:
        work(workdir, name)
    except WriteError as error:
        told = str(error)
        if "\n" in told or "No space left on device" not in told or str(workdir) not in told:
            return f"told as {told!r}"
    else:
        return "ended well"
    if saved(workdir) != disk.before and disk.before is not None:
        return f"changed {different(disk.before, saved(workdir))}"  # type: ignore[arg-type]
    return "left half a file" if any(workdir.rglob("*unfinished*")) else ""


def _continues(workdir: Path, name: str, whole: Whole) -> str:
    work(workdir, name)
    other, left = different(whole.facts, facts(workdir)), leftovers(workdir)
    return f"then other {other}, left {left}" if other or left else ""


@pytest.mark.parametrize("name", COMMANDS)
def test_disk_is_full_at_a_write_of_this_process(
    wholes, tmp_path, monkeypatch, name, rounds, tally
):
    whole = wholes[name]
    assert {site(path) for path in whole.sites} >= OF_COMMANDS[name]
    writes = np.unique(np.linspace(0, len(whole.sites) - 1, rounds(3, 300)).astype(int)).tolist()
    wrong = []
    for number in writes:
        workdir = tmp_path / "work"
        with monkeypatch.context() as patched:
            problem = _fails(Disk(patched, workdir), workdir, name, number)
        problem = problem or _continues(workdir, name, whole)
        if problem:
            wrong.append(f"write {number}, {whole.sites[number]}: {problem}")
        shutil.rmtree(workdir, ignore_errors=True)
    good = len(writes) - len(wrong)
    tally(f"disk full at a write site: exit 73, the state before intact, {name}", good, len(writes))
    assert not wrong, "\n".join(wrong)


def test_disk_that_is_full_again_and_again(wholes, tmp_path, monkeypatch, rounds, tally):
    whole, workdir = wholes["features"], tmp_path / "work"
    every = len(whole.sites) // rounds(5, 60)
    tries, wrong = 0, []
    with monkeypatch.context() as patched:
        disk = Disk(patched, workdir)
        # What was saved need not be written again, so that it gets further each time.
        while (problem := _fails(disk, workdir, "features", (tries + 1) * every)) != "ended well":
            tries += 1
            wrong += [problem] if problem else []
    tally("disk full again and again in one run", tries - len(wrong), tries)
    assert not wrong and tries > 1
    assert not _continues(workdir, "features", whole)


class Ended(NamedTuple):
    """How a command ended: its exit code, and what it wrote on the two channels."""

    code: int
    output: str
    told: str


@pytest.fixture
def alone() -> tuple[str, ...]:
    """Words that start a command which may mount file systems, and nobody else sees them."""
    words = ("unshare", "-rm", "bash", "-c")
    try:
        done = subprocess.run(
            [*words, "mount -t tmpfs none /mnt"], capture_output=True, check=False
        )
    except OSError as error:
        pytest.skip(f"unshare cannot be started: {error}")
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.decode().strip()}")
    return words


def started(alone: tuple[str, ...], script: str, workdir: Path, name: str) -> Ended:
    """Run a script of bash, in which "$@" is the command in `workdir`."""
    module = "tl_keras.compare" if name == "compare" else "tl_keras.main"
    command = [sys.executable, "-m", module, *COMMANDS[name], f"--workdir={workdir}"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*alone, script, "bash", *command], capture_output=True, text=True, check=False, cwd="/tmp",
        timeout=600, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


def _wrong_end(ended: Ended, word: str) -> str:
    """Return what is wrong with the end of a command that could not write, or ""."""
    errors = [line for line in ended.told.splitlines() if line.startswith("tl_keras: ")]
    if ended.code != WriteError.exit_code or ended.output:
        return f"ended with {ended.code}: {ended.told}"
    if len(errors) != 1 or word not in errors[0] or not ended.told.endswith(f"{errors[0]}\n"):
        return f"told as {ended.told}"
    return next((f"{line} in {ended.told}" for line in NEVER if line in ended.told), "")


@pytest.mark.parametrize("name", COMMANDS)
def test_disk_is_full_under_the_command(wholes, alone, tmp_path, name, rounds, tally):
    whole, seen = wholes[name], set()
    pages = np.unique(np.linspace(0, whole.pages - 1, rounds(1, 80) + 2).astype(int))[:-1].tolist()
    pages = pages[rounds(1, 0) :]
    wrong = []
    for number in pages:
        disk, kept = tmp_path / "disk", tmp_path / f"kept-{number}"
        disk.mkdir(exist_ok=True)
        # A page is taken already: a tmpfs of none has room without end.
        script = f"""mount -t tmpfs -o size={(number + 1) * PAGE} none {disk} || exit 99
            head -c {PAGE} /dev/zero > {disk}/taken
            "$@"; code=$?; cp -r {disk}/work {kept}; exit $code"""
        ended = started(alone, script, disk / "work", name)
        problem = _wrong_end(ended, "No space left on device")
        if not problem and any(kept.rglob("*unfinished*")):
            problem = "left half a file"
        problem = problem or _continues(kept, name, whole)
        wrong += [f"{number} pages: {problem}"] if problem else []
        seen |= {site(word.rstrip(":")) for word in ended.told.split() if str(disk) in word}
        shutil.rmtree(kept, ignore_errors=True)
    good = len(pages) - len(wrong)
    tally(f"tmpfs full, {name}: exit 73, and continued to the bit", good, len(pages))
    tally(
        f"write sites that were hit, {name}", len(seen & OF_COMMANDS[name]), len(OF_COMMANDS[name])
    )
    assert not wrong, "\n".join(wrong)
