"""A run that is killed, at any moment, goes on to the very same bits when it is given again."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest
from killing import LONG_KINDS, ROOT, Case, Program, Reference, two_at_a_time

from tl_keras.config import Config
from tl_keras.errors import StoppedError
from tl_keras.runtime import interruption
from tl_keras.storage import crash_points
from tl_keras.storage.workdir import Workdir

STOPPED = f"tl_keras: {interruption.MESSAGE}"

# Those of picture files are in test_picture_set.py.
RUN_POINTS = [point for point in crash_points.POINTS if not point.startswith("picture ")]

# Has the lock until it is killed; the program would first import TensorFlow.
HOLDER = """
import sys, time
from tl_keras.config import Config
from tl_keras.storage.workdir import Workdir
with Workdir(Config(workdir=sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""


class References(dict[str, Reference]):
    """Untouched runs by the names of their kinds, each made when it is asked for."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def __missing__(self, kind: str) -> Reference:
        self.make([kind])
        return self[kind]

    def make(self, kinds: Iterable[str]) -> None:
        """Make those that are not there yet, two at a time."""
        missing = [kind for kind in kinds if kind not in self]
        made = two_at_a_time(lambda kind: Reference(kind, LONG_KINDS[kind], self.folder), missing)
        self.update({reference.name: reference for reference in made})


@pytest.fixture(scope="module")
def references(tmp_path_factory) -> References:
    """Untouched runs of each kind."""
    return References(tmp_path_factory.mktemp("references"))


def told(cases: list[Case], tally, named: str) -> list[str]:
    """Count the kills of all cases, and return what is wrong with them."""
    good, all_of_them = Counter(), Counter()
    for case in cases:
        all_of_them += case.kills
        good += Counter() if case.problems else case.kills
    for stage, count in sorted(all_of_them.items()):
        tally(f"{named} in {stage}, continued to the bit", good[stage], count)
    tally(f"{named}, continued to the bit", good.total(), all_of_them.total())
    return [f"{c.reference.name} in {c.workdir}: {p}" for c in cases for p in c.problems]


@pytest.mark.slow
def test_runs_killed_at_random_moments_continue_to_the_bit(references, tmp_path, rounds, tally):
    # Five kills in a workdir, or fewer, so that the processes between them come further.
    five = [5] * rounds(0, 2, 40)
    plan = five + rounds([1], [], [1, 3, 2, 4] * 5)
    # The kind with features is killed by the test of the named points, unless there is much time.
    kinds = rounds(["features"], ["finetune", "joint"], list(LONG_KINDS))
    references.make(kinds)

    def killed(number: int) -> Case:
        for attempt in range(10):
            case = Case(references[kinds[number % len(kinds)]], tmp_path / f"{number}-{attempt}")
            case.kill_at_random(Random(1000 * attempt + number), plan[number])
            if case.kills.total() == plan[number]:
                break
        return case.finish()

    cases = two_at_a_time(killed, range(len(plan)))
    wrong = told(cases, tally, "killed at a random moment")
    good = [case for case in cases[: len(five)] if case.kills.total() == 5 and not case.problems]
    tally("runs that were killed five times, the same to the bit", len(good), len(five))
    kills = sum(case.kills.total() for case in cases)
    assert (wrong, len(good), kills >= rounds(1, 8, 200)) == ([], len(five), True)


def test_every_named_point_is_placed() -> None:
    placed = re.compile(r'crash_points\.maybe_crash\("([^"]+)"\)')
    texts = [path.read_text() for path in sorted((ROOT / "tl_keras").rglob("*.py"))]
    assert sorted(placed.findall("".join(texts))) == sorted(crash_points.POINTS)


def test_runs_killed_at_every_named_point_continue_to_the_bit(references, tmp_path, rounds, tally):
    # In the order in which one run comes to them, so that a workdir serves for several. A state
    # that another saving leaves half written, after another number of steps, makes two of them;
    # the ninth is the source's last, and nothing is saved there after it.
    one = [[("checkpoint half written", 1)]]
    short = [
        [("temporary written", 3), ("checkpoint half written", 1)]
        + [("checkpoint half written", 1, "--checkpoint_every=9"), ("steps trained", 2)]
        + [("cache rows written", 1)],
        [("checkpoint written", 9), ("log line written", 2), ("checkpoint pruned", 1)]
        + [("cache manifest written", 1), ("file renamed", 4)],
    ]
    long = [[(point, count) for count in (1, 2, 3, 7)] for point in RUN_POINTS] + short
    kinds = rounds(["features"], ["features"], ["features", "finetune"])
    references.make(kinds)
    chains = [(kind, chain) for kind in kinds for chain in rounds(one, short, long)]

    def killed(number: int) -> Case:
        kind, chain = chains[number]
        case = Case(references[kind], tmp_path / str(number))
        for point in chain:
            if not case.kill_at_point(*point):
                break
        return case.finish()

    cases = two_at_a_time(killed, range(len(chains)))
    wrong = told(cases, tally, "killed at a named point:")
    reached = Counter(point for case in cases for point in case.kills)
    wanted = rounds([one[0][0][0]], RUN_POINTS, RUN_POINTS)
    assert (wrong, set(wanted) - set(reached)) == ([], set())


def has(*parts: str):
    """Return what tells whether a file is in a workdir, once the process is at work there."""
    return lambda case, program: program.logged() and case.workdir.joinpath(*parts).exists()


def is_logged(words: str):
    """Return what tells whether the process has said so in its log."""
    return lambda case, program: words in program.logged()


# In the order in which one run comes to them, and what shows that it is there.
STAGES = {
    "the import of TensorFlow": lambda case, program: program.listens(),
    "source training": has("source", "checkpoints", "0000000014.json"),
    "source evaluation": has("source", "checkpoints", "0000000060.json"),
    "feature extraction": is_logged("features: "),
    "transfer training": has("transfer-0", "checkpoints", "0000000014.json"),
    "scratch training": has("scratch-0", "checkpoints", "0000000014.json"),
    "the report": has("scratch-0", "result.json"),
}
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def stop(case: Case, stage: str, number: signal.Signals) -> bool:
    """Tell a process to end when it is at a stage, and note what is wrong with how it does."""
    with case.start() as program:
        program.wait_until(lambda: STAGES[stage](case, program))
        program.process.send_signal(number)
        started = time.monotonic()
        ended = case.note(program, f"{stage} by {number.name}", StoppedError.exit_code)
        seconds = time.monotonic() - started
    if ended.code == 0:
        return False
    own = [line for line in ended.err.splitlines() if line.startswith("tl_keras:")]
    if own != [STOPPED] or not ended.err.endswith(f"{STOPPED}\n") or ended.out:
        case.problems.append(f"in {stage}: it says {ended.err[-2000:]!r}")
    if seconds > 10.0:
        case.problems.append(f"in {stage}: it took {seconds:.1f} s to end")
    return True


@pytest.mark.slow
def test_runs_told_to_stop_at_any_stage_do_and_continue_to_the_bit(
    references, tmp_path, rounds, tally
):
    names = list(STAGES)
    one = [[(names[1], signal.SIGTERM)]]
    short = [
        [(names[0], signal.SIGINT), (names[3], signal.SIGTERM)],
        [(names[1], signal.SIGTERM), (names[6], signal.SIGINT)],
    ]
    # Each stage with each signal; and, in between, several in one run.
    long = [[(name, number)] for name in names for number in SIGNALS]
    long += [[(name, SIGNALS[n % 2]) for name in names[n::2]] for n in range(2)]

    chains = rounds(one, short, long)

    def stopped(number: int) -> Case:
        for attempt in range(10):
            case = Case(references["features"], tmp_path / f"{number}-{attempt}")
            # A short stage may be over before the signal is there.
            if all(stop(case, *stage) for stage in chains[number]):
                break
        return case.finish()

    cases = two_at_a_time(stopped, range(len(chains)))
    wrong = told(cases, tally, "told to stop:")
    stops = sum(case.kills.total() for case in cases)
    assert (wrong, stops >= rounds(1, 4, 20)) == ([], True)


@pytest.mark.slow
def test_seeds_give_the_same_bytes_in_any_order_and_at_any_time(
    references, tmp_path, request, tally
):
    reference = references["joint"]
    # The workdir of seed 0 with seed 1 added, and new ones.
    later = Case(reference, tmp_path / "later")
    shutil.copytree(reference.workdir, later.workdir)
    again, others = Case(reference, tmp_path / "again"), Case(reference, tmp_path / "others")
    wanted = [(others, "--seeds=1,0"), (later, "--seeds=0,1"), (again, "--seeds=0")]

    def seeded(case: Case, seeds: str) -> dict[str, str]:
        with Program([*reference.flags, seeds], case.workdir) as program:
            assert program.end().code == 0
        return case.facts

    first, *more = two_at_a_time(
        lambda case: seeded(*case), wanted[: 3 if request.config.getoption("--torture") else 1]
    )
    assert "transfer-1/model.keras" in first
    # These tell in which order the seeds were given.
    ordered = {"config.json", "report.json", "report.txt"}
    pairs = [(first, reference.facts), *((found, first) for found in more)]
    wrong = [
        sorted(n for n in one.keys() & other.keys() - ordered if one[n] != other[n])
        for one, other in pairs
    ]
    tally("runs of the same seeds with the same bytes", wrong.count([]), len(wrong))
    assert wrong == [[]] * len(wrong)


def test_second_process_in_a_workdir_ends_and_names_the_first(tmp_path) -> None:
    workdir = tmp_path / "work"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(workdir)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "has it\n"
        with Program(["--seeds=0"], workdir) as program:
            ended = program.end()
        assert (ended.code, ended.out) == (StoppedError.exit_code, "")
        assert re.fullmatch(
            rf"tl_keras: --workdir=\S+ is in use by process {holder.pid}; .*\n", ended.err
        )
        assert holder.poll() is None
        with pytest.raises(StoppedError, match=f"process {holder.pid};"):
            Workdir(Config(workdir=str(workdir)))
    finally:
        holder.kill()
        holder.communicate()
    # The system takes the lock from the dead; an error gives it back too.
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), Workdir(Config(workdir=str(workdir))):
            raise error
    assert (workdir / "lock").read_text() == f"{os.getpid()}\n"
