"""A disk that is full, or that takes nothing: told in one line, with 73, and nothing is lost by it.

It is `filling.Disk` in this process, where each write in turn fails; and under the command that
users start it is a real one, a tmpfs of some kilobytes.
"""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from filling import COMMANDS, SITES, Disk, saved, site, words, work
from made import ROOT
from remains import different, facts, leftovers

from tl_keras.errors import WriteError
from tl_keras.experiment import train_and_test

PAGE = 4096
FULL = "No space left on device"
NEVER = ("Traceback", "Logging error", "Exception ignored", "Fatal", "Aborted", "terminate called")


class Whole(NamedTuple):
    """What a command leaves where there is room.

    Attributes:
        workdir: where it worked.
        facts: of that.
        sites: the paths of all that it wrote, in order.
        again: of what it writes where all is done already.
        pages: of the disk that its files take.
    """

    workdir: Path
    facts: dict[str, str]
    sites: list[str]
    again: list[str]
    pages: int


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Whole]]:
    """What each command leaves; in this process, what takes time and changes nothing is left out.

    No pictures are drawn, no file is waited for until it is on the disk, and collecting garbage
    passes over all that is there already.
    """
    found = {}
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(train_and_test, "_show", lambda *_: None)
        quick.setattr(os, "fsync", lambda _: None)
        gc.collect()
        gc.freeze()
        for name in COMMANDS:
            workdir = tmp_path_factory.mktemp(name) / "work"
            with pytest.MonkeyPatch.context() as patched:
                disk = Disk(patched, workdir)
                work(workdir, name)
                sites = disk.sites
                disk.give(len(sites))
                work(workdir, name)
            pages = sum(-(-len(data) // PAGE) for data in saved(workdir).values())
            found[name] = Whole(workdir, facts(workdir), sites, disk.sites, pages)
        yield found
        gc.unfreeze()


def spread(count: int, most: int) -> list[int]:
    """Return at most `most` numbers from 0 to below `count`, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, most).astype(int)).tolist()


def filled(disk: Disk, workdir: Path, name: str, writes: int) -> str:
    """Work until the disk is full, and return what is wrong with how that ends, or ""."""
    disk.give(writes)
    try:
        work(workdir, name)
    except WriteError as error:
        told = str(error)
        if "\n" in told or FULL not in told or str(workdir) not in told:
            return f"told as {told!r}"
    else:
        return "ended well"
    assert disk.before is not None
    if other := [n for n, data in saved(workdir).items() if disk.before.pop(n, None) != data]:
        return f"changed {other}"
    if disk.before:
        return f"lost {sorted(disk.before)}"
    return "left half a file" if any(workdir.rglob("*unfinished*")) else ""


def continued(workdir: Path, whole: Whole) -> str:
    """Return what is wrong with a workdir in which the command was given again, or ""."""
    other, left = different(whole.facts, facts(workdir)), leftovers(workdir)
    return f"then other {other}, left {left}" if other or left else ""


@pytest.mark.parametrize("name", COMMANDS)
def test_disk_is_full_at_a_write_of_this_process(
    wholes, tmp_path, monkeypatch, name, rounds, tally
):
    whole, wrong = wholes[name], []
    assert {site(path) for path in whole.sites} >= SITES[name]
    # The comparison does what an experiment does, and its own files are the last ones.
    done = name == "compare"
    sites = whole.again if done else whole.sites
    numbers = spread(len(sites), rounds(1, 4, 60) if done else rounds(1, 2, 300))
    # The second line, and the second event: of these half may not stay.
    for growing in {"log.txt", "events"} & set(map(site, sites)):
        numbers.append([n for n, path in enumerate(sites) if site(path) == growing][2])
    numbers = sorted(set(numbers))
    for number in numbers:
        workdir = tmp_path / "work"
        if done:
            shutil.copytree(whole.workdir, workdir)
        with monkeypatch.context() as patched:
            problem = filled(Disk(patched, workdir), workdir, name, number)
        if not problem:
            work(workdir, name)
            problem = continued(workdir, whole)
        if problem:
            wrong.append(f"write {number}, {sites[number]}: {problem}")
        shutil.rmtree(workdir, ignore_errors=True)
    good = len(numbers) - len(wrong)
    case = f"disk full at a write site: exit 73, the state before intact, {name}"
    tally(case, good, len(numbers))
    assert not wrong, "\n".join(wrong)


def test_disk_that_is_full_again_and_again(wholes, tmp_path, monkeypatch, rounds, tally):
    whole, workdir = wholes["features"], tmp_path / "work"
    every = len(whole.sites) // rounds(3, 5, 60)
    tries, wrong = 0, []
    with monkeypatch.context() as patched:
        disk = Disk(patched, workdir)
        # What was saved is not written again, so that it gets further each time.
        while (problem := filled(disk, workdir, "features", (tries + 1) * every)) != "ended well":
            tries += 1
            wrong += [problem] if problem else []
    tally("disk full again and again in one run: exit 73", tries - len(wrong), tries)
    assert not wrong and tries > 1
    assert not continued(workdir, whole)


class Ended(NamedTuple):
    """How a script ended: its exit code, and what it wrote on the two channels."""

    code: int
    output: str
    told: str


def started(script: str, command: list[str]) -> Ended:
    """Run a script of bash, in which "$@" is the command, and which mounts for itself alone."""
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script, "bash", sys.executable, *command],
        capture_output=True, text=True, check=False, cwd="/tmp", timeout=600,
        # Nothing is imported from /tmp, whatever lies there.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"},
    )  # fmt: skip
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def mounts() -> None:
    """Skip where nothing may be mounted."""
    try:
        ended = started("mount -t tmpfs none /mnt", [])
    except OSError as error:
        pytest.skip(f"unshare cannot be started: {error}")
    if ended.code:
        pytest.skip(f"no file system may be mounted here: {ended.told.strip()}")


def wrong_end(ended: Ended, told: str) -> str:
    """Return what is wrong with the end of a command that could not write, or ""."""
    errors = [line for line in ended.told.splitlines() if line.startswith("tl_keras: ")]
    if ended.code != WriteError.exit_code or ended.output:
        return f"ended with {ended}"
    if len(errors) != 1 or told not in errors[0] or not ended.told.endswith(f"{errors[0]}\n"):
        return f"told as {ended.told}"
    return next((f"{line} in {ended.told}" for line in NEVER if line in ended.told), "")


def _last_letter(path: Path) -> str:
    return path.read_text()[-1:] if path.is_file() else ""


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.slow
def test_disk_is_full_under_the_command(wholes, mounts, tmp_path, name, rounds, tally):
    whole, wrong, seen = wholes[name], [], set()
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    # A page is taken already: a tmpfs of none has room without end.
    sizes = [(pages + 1) * PAGE for pages in spread(whole.pages, 90 if name == "features" else 30)]
    limits = [f"size={sizes.pop(len(sizes) // 2)}", *(f"size={size}" for size in sizes)]
    # The disk itself is one of the files that there is room for, and what is taken another.
    limits += [f"nr_inodes={number}" for number in range(3, 15)]
    # In the short form the one alone, and there the same command goes on.
    limits = limits[: rounds(int(name == "features"), int(name == "features"), len(limits))]
    if not limits:
        pytest.skip("in the long form alone")
    for limit in limits:
        script = f"""mount -t tmpfs -o {limit} none {disk} || exit 99
            head -c {PAGE} /dev/zero > {disk}/taken; "$@"; code=$?
            {f'mount -o remount,size=99m {disk}; "$@" >/dev/null 2>&1;' * (limit == limits[0])}
            cp -r {disk}/work {kept}; exit $code"""
        ended = started(script, words(disk / "work", name))
        problem = wrong_end(ended, FULL)
        if not problem and any(kept.rglob("*unfinished*")):
            problem = "left half a file"
        if not problem and _last_letter(kept / "log.txt") not in "\n":
            problem = "left half a line"
        if not problem:
            if limit != limits[0]:
                work(kept, name)
            problem = continued(kept, whole)
        wrong += [f"{limit}: {problem}"] if problem else []
        seen |= {site(word.rstrip(":")) for word in ended.told.split() if str(disk) in word}
        shutil.rmtree(kept, ignore_errors=True)
    good = len(limits) - len(wrong)
    tally(f"tmpfs full, {name}: exit 73, then continued to the bit", good, len(limits))
    if len(limits) > 1:
        tally(f"tmpfs full, {name}: files that it hit", len(seen & SITES[name]), len(SITES[name]))
    assert not wrong, "\n".join(wrong)


def test_workdir_that_is_read_only_is_told_before_any_training(mounts, tmp_path):
    workdir = tmp_path / "work"
    workdir.mkdir()
    script = f"""mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}; "$@" """
    ended = started(script, words(workdir, "features"))
    assert not wrong_end(ended, f"{workdir / 'lock'} cannot be written: Read-only file system")
    assert len(ended.told.splitlines()) == 1
    assert not list(workdir.iterdir())


# Python tries these, and then the folder it is started in: here /tmp.
NO_PLACE = """for folder in /tmp /var/tmp /usr/tmp; do
    [ -d $folder ] && mount --bind $folder $folder && mount -o remount,bind,ro $folder; done
    """


@pytest.mark.parametrize(
    "spoil", ["cat /dev/zero >small/full 2>/dev/null", "mount -o remount,ro small"]
)
def test_no_place_for_temporary_files_is_told_before_any_training(mounts, tmp_path, spoil):
    script = f"""mount -t tmpfs none {tmp_path}; cd {tmp_path}
        mkdir small; mount -t tmpfs -o size=4k none small; {spoil}
        export TMPDIR={tmp_path}/small; cd /tmp; "$@"; code=$?; ls {tmp_path}; exit $code"""
    ended = started(NO_PLACE + script, words(tmp_path / "work", "features"))
    assert ended.output == "small\n"
    assert not wrong_end(ended._replace(output=""), "Set TMPDIR")
    assert len(ended.told.splitlines()) == 1


@pytest.mark.slow
def test_temporary_files_have_hardly_any_room_and_need_none(wholes, mounts, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "kept").mkdir()
    script = f"""mount -t tmpfs -o size=4k none {tmp_path}/small; export TMPDIR={tmp_path}/small
        "$@" && ls -A $TMPDIR"""
    bound = f"mount --bind {tmp_path} /mnt;{NO_PLACE}mount --bind /mnt/kept {tmp_path}/kept;"
    ended = started(bound + script, words(tmp_path / "kept" / "work", "features"))
    assert ended.code == 0, ended.told
    assert not any(word in ended.told for word in NEVER)
    assert not continued(tmp_path / "kept" / "work", wholes["features"])


@pytest.mark.parametrize("module", ["tl_keras.main", "tl_keras.compare"])
def test_output_that_goes_to_a_full_disk_is_told_in_one_line(module):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert done.returncode == WriteError.exit_code
    assert done.stderr == f"tl_keras: the output cannot be written: {FULL}\n"
