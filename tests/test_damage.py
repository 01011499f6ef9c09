"""Files of a workdir that were damaged: each is made again or refused, and none is believed.

Every case is the whole way: a copy of a workdir, one or two of its files damaged, and the same
experiment run again in it. Pictures are of 8 pixels a side, and none are drawn for TensorBoard, so
that a case takes about a second.
"""

import gc
import itertools
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import tl_keras
from tl_keras.config import from_flat
from tl_keras.errors import DataError, UsageError
from tl_keras.experiment import train_and_test
from tl_keras.training.checkpoints import Checkpoints

FLAGS = {"source": "mnist_5k", "target": "digits", "shots": 5, "dense_units": 16, "image_size": 8,
         "source_steps": 30, "steps": 12, "seeds": (0,), "baseline": False,
         "checkpoint_every": "5"}  # fmt: skip

METHODS = ("finetune", "features")
STATES = ("stopped in the source", "stopped in the transfer", "finished")
# These say what the experiment is. Nothing else could tell, so that they may be refused.
REFUSED = ("config.json", "data.json")


class Case(NamedTuple):
    """What is damaged, and how.

    Attributes:
        method: of the experiment.
        state: of its workdir.
        kind: of damage.
        names: paths in the workdir of what is damaged.
        seed: of the places and the bytes.
    """

    method: str
    state: str
    kind: str
    names: tuple[str, ...]
    seed: int


class State(NamedTuple):
    """A workdir, and what there is at its end, however it gets there."""

    workdir: Path
    found: dict[str, Any]


def _truncated(data: bytes, generator: random.Random) -> bytes:
    return data[: generator.randrange(len(data))]


def _flipped(data: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(len(data) * 8)
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def _longer(data: bytes, generator: random.Random) -> bytes:
    return data + generator.randbytes(generator.randint(1, 2000))


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncated,
    "flipped": _flipped,
    "emptied": lambda *_: b"",
    "longer": _longer,
}
# Gone, and each with what was the other's.
REMOVED, SWAPPED = "removed", "swapped"
KINDS = (*CHANGES, REMOVED)


def damage(path: Path, kind: str, generator: random.Random) -> None:
    """Damage a file; a blank more in JSON is no damage."""
    if kind == REMOVED:
        path.unlink()
        return
    data = changed = path.read_bytes()
    while _says(path, changed) == _says(path, data):
        changed = CHANGES[kind](data, generator)
    path.write_bytes(changed)


def _says(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data) if path.suffix == ".json" else data
    except ValueError:
        return data


def swap(one: Path, other: Path) -> None:
    """Give each of two files what is in the other."""
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def run(workdir: Path, method: str) -> dict[str, Any]:
    """Run the experiment, and return what it left, but for what it took."""
    report = tl_keras.run(from_flat({**FLAGS, "method": method, "workdir": str(workdir)})).record
    assert json.loads((workdir / "report.json").read_text()) == json.loads(json.dumps(report))
    found = {name: report[name] for name in ("config", "summary")}
    del found["config"]["workdir"]
    for part in (report["source"], *report["runs"]):
        found[part.get("arm", "source")] = {
            name: value
            for name, value in part.items()
            if name not in ("seconds", "images_per_second")
        }
    for name in ("metrics.jsonl", "model.keras", "predictions.npz", "source.weights.h5"):
        for path in sorted(workdir.glob(f"*/{name}")):
            found[str(path.relative_to(workdir))] = path.read_bytes()
    return found


def stopped_after(monkeypatch: pytest.MonkeyPatch, arm: str, workdir: Path, method: str) -> None:
    """Run the experiment until that arm has two checkpoints."""
    save = Checkpoints.save
    saved: list[int] = []

    def dying(self: Checkpoints, step: int, *rest: Any) -> None:
        save(self, step, *rest)
        if self._folder.parent.name == arm:
            saved.append(step)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", dying)
        with pytest.raises(KeyboardInterrupt):
            run(workdir, method)
    assert len(list((workdir / arm / "checkpoints").iterdir())) == 4


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    """Leave out what takes time and changes nothing here.

    No pictures are drawn, no file is waited for until it is on the disk, and collecting garbage
    passes over all that is there already.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_and_test, "_show", lambda *_: None)
        patched.setattr(os, "fsync", lambda _: None)
        gc.collect()
        gc.freeze()
        yield
        gc.unfreeze()


@pytest.fixture(scope="module")
def states(quick: None, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], State]:
    """The workdirs to damage, by method and state."""
    kept = {}
    for method in METHODS:
        root = tmp_path_factory.mktemp(method)
        workdir = root / "run"
        with pytest.MonkeyPatch.context() as patched:
            for state, arm in zip(STATES, ("source", "transfer-0"), strict=False):
                stopped_after(patched, arm, workdir, method)
                shutil.copytree(workdir, root / state)
        found = run(workdir, method)
        shutil.copytree(workdir, root / STATES[-1])
        kept |= {(method, state): State(root / state, found) for state in STATES}
    return kept


def files_of(state: State) -> list[str]:
    paths = sorted(p for p in state.workdir.rglob("*") if p.is_file() and p.stat().st_size)
    return [str(path.relative_to(state.workdir)) for path in paths]


def every_case(states: dict[tuple[str, str], State]) -> Iterator[Case]:
    """Yield cases without end: each file damaged in each way, always in the same disorder.

    A third of them have another damaged file too. When all are through they come again, with other
    places and other second files.
    """
    generator = random.Random(0)
    for seed in itertools.count():
        cases = []
        for (method, state), kept in states.items():
            names = files_of(kept)
            for name, kind in itertools.product(names, (*KINDS, SWAPPED)):
                others = [other for other in names if other != name]
                if kind == SWAPPED and generator.random() < 1 / 2:
                    # What is read as what it is not does the most harm.
                    others = [n for n in others if Path(n).suffix == Path(name).suffix] or others
                two = kind == SWAPPED or generator.random() < 1 / 3
                damaged = (name, generator.choice(others)) if two else (name,)
                cases.append(Case(method, state, kind, damaged, seed))
        generator.shuffle(cases)
        yield from cases


def outcome(state: State, case: Case, workdir: Path) -> str:
    """Damage a copy of a state, run again twice, and return what is wrong with that, or ""."""
    shutil.copytree(state.workdir, workdir)
    paths, generator = [workdir / name for name in case.names], random.Random(repr(case))
    if case.kind == SWAPPED:
        swap(*paths)
    else:
        for path in paths:
            damage(path, case.kind, generator)
    try:
        found = run(workdir, case.method)
        again = run(workdir, case.method)
    except (DataError, UsageError) as error:
        return _wrong_refusal(case, workdir, error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    changed = [n for n, v in state.found.items() if not found.get(n) == v == again.get(n)]
    if changed:
        return f"other results: {changed}"
    return "trained anew" if _has_no_checkpoint(case) else ""


def _has_no_checkpoint(case: Case) -> bool:
    """Tell whether the run that was stopped has lost both of its states."""
    arm = {"stopped in the source": "source", "stopped in the transfer": "transfer-0"}
    folder = f"{arm.get(case.state)}/checkpoints"
    return len({Path(n).stem for n in case.names if str(Path(n).parent) == folder}) == 2


def _wrong_refusal(case: Case, workdir: Path, error: DataError | UsageError) -> str:
    told = str(error)
    refused = [name for name in case.names if name in REFUSED]
    if "\n" in told:
        return f"several lines: {told}"
    if isinstance(error, UsageError):
        return "" if "config.json" in refused else f"not the user's: {told}"
    if refused:
        return "" if any(str(workdir / name) in told for name in refused) else f"no name: {told}"
    if _has_no_checkpoint(case):
        folder = workdir / Path(case.names[0]).parent
        return "" if f"{folder} has no intact checkpoint" in told else f"no name: {told}"
    return f"not healed: {told}"


def test_damaged_files_of_a_workdir_are_made_again_or_refused(states, tmp_path, rounds, tally):
    cases = list(itertools.islice(every_case(states), rounds(8, 80, 2000)))
    wrong = []
    for case in cases:
        workdir = tmp_path / "run"
        if problem := outcome(states[case.method, case.state], case, workdir):
            wrong.append(f"{case}: {problem}")
        shutil.rmtree(workdir)
    good = len(cases) - len(wrong)
    tally("state files damaged: refused or healed, never loaded", good, len(cases))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("state", STATES[:2])
def test_run_that_lost_both_its_checkpoints_is_refused_and_not_begun_anew(
    states, tmp_path, rounds, tally, state
):
    kept = states["finetune", state]
    endings = [name for name in files_of(kept) if "/checkpoints/" in name][-4:]
    assert [Path(name).suffix for name in endings] == [".json", ".npz"] * 2
    cases = list(itertools.product(endings[:2], KINDS, endings[2:], KINDS))
    # The one where nothing is left that is damaged, and then the others.
    random.Random(0).shuffle(cases)
    cases.sort(key=lambda case: case != (endings[0], REMOVED, endings[2], REMOVED))
    cases = cases[: rounds(2, 5, 100)]
    begun = []
    for case in cases:
        one, its_kind, other, other_kind = case
        workdir = tmp_path / "run"
        shutil.copytree(kept.workdir, workdir)
        for name, kind in ((one, its_kind), (other, other_kind)):
            damage(workdir / name, kind, random.Random(repr((name, kind))))
        begun += [case for _ in range(2) if not _is_refused(workdir)][:1]
        shutil.rmtree(workdir)
    refused = len(cases) - len(begun)
    tally(f"both checkpoints damaged, {state}: refused", refused, len(cases))
    assert not begun


def _is_refused(workdir: Path) -> bool:
    try:
        run(workdir, "finetune")
    except DataError as error:
        return "has no intact checkpoint. Remove the folder" in str(error)
    return False
