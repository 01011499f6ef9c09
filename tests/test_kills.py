"""A run that is killed, at any moment, goes on to the very same bits when it is given again."""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from killing import KINDS, LONG_KINDS, PROGRAM, ROOT, Case, Program, Reference, two_at_a_time
from remains import different, facts

from tl_keras import faults, interruption
from tl_keras.config import Config
from tl_keras.errors import StoppedError
from tl_keras.workdir import Workdir

STOPPED = f"tl_keras: {interruption.MESSAGE}"

# Has the lock until it is killed; the program would first import TensorFlow.
HOLDER = """
import sys, time
from tl_keras.config import Config
from tl_keras.workdir import Workdir
with Workdir(Config(workdir=sys.argv[1])):
    print("has it", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def references(request, tmp_path_factory) -> dict[str, Reference]:
    """Untouched runs by the names of their kinds."""
    folder = tmp_path_factory.mktemp("references")
    kinds = LONG_KINDS if request.config.getoption("--torture") else KINDS
    made = two_at_a_time(lambda kind: Reference(*kind, folder), kinds.items())
    return {reference.name: reference for reference in made}


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


def kinds_in_turn(references, count: int) -> list[Reference]:
    """Return as many references, each kind as often as any other."""
    return [list(references.values())[number % len(references)] for number in range(count)]


def test_runs_killed_at_random_moments_continue_to_the_bit(references, tmp_path, rounds, tally):
    # One to four kills in a workdir, so that the runs between them are long ones too.
    wanted, numbers = rounds(8, 200), [*rounds((3, 3, 2), (1, 3, 2, 4))]
    plan = [numbers[n % len(numbers)] for n in range(rounds(3, 80))]
    assert sum(plan) >= wanted

    def killed(numbered: tuple[int, Reference]) -> Case:
        number, reference = numbered
        case = Case(reference, tmp_path / str(number))
        case.kill_at_random(Random(number), plan[number])
        return case.finish()

    chosen = kinds_in_turn(references, len(plan))
    cases = two_at_a_time(killed, enumerate(chosen))
    assert told(cases, tally, "killed at random moments") == []


def test_runs_killed_five_times_continue_to_the_bit(references, tmp_path, rounds, tally):
    def killed(numbered: tuple[int, Reference]) -> Case:
        number, reference = numbered
        for attempt in range(10):
            case = Case(reference, tmp_path / f"{number}-{attempt}")
            case.kill_at_random(Random(1000 * attempt + number + 500), 5)
            if case.kills.total() == 5:
                break
        return case.finish()

    cases = two_at_a_time(killed, enumerate(kinds_in_turn(references, rounds(2, 40))))
    wrong = told(cases, tally, "killed, five times in one run,")
    good = [case for case in cases if case.kills.total() == 5 and not case.problems]
    tally("runs that were killed five times and are the same to the bit", len(good), len(cases))
    assert (wrong, len(good)) == ([], len(cases))


def test_every_named_point_is_placed() -> None:
    placed = re.compile(r'faults\.reached\("([^"]+)"\)')
    texts = [path.read_text() for path in sorted((ROOT / "tl_keras").rglob("*.py"))]
    assert sorted(placed.findall("".join(texts))) == sorted(faults.POINTS)
