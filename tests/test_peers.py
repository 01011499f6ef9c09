"""Tests of processes that share the work, when one of them is killed, frozen, absent or stopped."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from killing import KINDS, ROOT, TOGETHER, Case, Program, Reference

from tl_keras.distributed import cluster, local_cluster
from tl_keras.errors import PeerLostError, StoppedError
from tl_keras.runtime import interruption

LOST, STOPPED = f"tl_keras: {cluster.PEER_LOST_MESSAGE}", f"tl_keras: {interruption.MESSAGE}"
# Until the others have ended; then the frozen one is killed.
SECONDS_TO_FIND_OUT = 30.0
KINDS_TOGETHER = ("finetune", "features", "joint")


@pytest.fixture(scope="module")
def references(request, tmp_path_factory) -> list[Reference]:
    """Untouched runs of two processes."""
    folder = tmp_path_factory.mktemp("references")
    wanted = KINDS_TOGETHER if request.config.getoption("--torture") else KINDS_TOGETHER[:1]
    kinds = [(name, KINDS[name]) for name in wanted]
    return [Reference(*kind, folder, TOGETHER) for kind in kinds]


@pytest.fixture
def times(request) -> int:
    """How often each case is tried."""
    return 10 if request.config.getoption("--torture") else 1


def workers(program: Program) -> dict[int, int]:
    """Return the pid of each worker by its index; fewer where some have ended."""
    pid, found = program.process.pid, {}
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            match = re.search(r'"index": (\d+)', Path(f"/proc/{child}/environ").read_text())
            if match:
                found[int(match[1])] = int(child)
    return found


def strike(case: Case, number: int, generator: Random) -> float:
    """Send a signal to one of the workers at a random moment of the work, and note what comes.

    Returns:
        The seconds that the healthy worker took to end.
    """
    whom = generator.randrange(2)
    moment = generator.uniform(0.0, 0.8 * case.reference.parts[-1].end)
    with case.start() as program:
        program.wait_until(program.logged)
        program.wait_until(lambda: False, moment)
        found = workers(program)
        if len(found) < 2:
            case.note(program, "the end")
            return 0.0
        started = time.monotonic()
        os.kill(found[whom], number)
        other = Path(f"/proc/{found[1 - whom]}/stat")
        while other.exists() and other.read_text().rpartition(")")[2].split()[0] != "Z":
            if time.monotonic() - started > 2 * SECONDS_TO_FIND_OUT:
                break
            time.sleep(0.05)
        seconds = time.monotonic() - started
        expected = StoppedError if number == signal.SIGTERM else PeerLostError
        named = f"{signal.Signals(number).name} to {'the chief' if not whom else 'another one'}"
        ended = case.note(program, named, expected.exit_code)
        told = STOPPED if number == signal.SIGTERM else LOST
        # The other one may have come to the end of all work already.
        if ended.code and not ended.out and f"[{1 - whom}] {told}" not in ended.err:
            case.problems.append(f"{named}: not told: {ended.err[-2000:]}")
        return seconds


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_others_end_when_one_is_lost_and_all_continue_to_the_bit(
    number, references, tmp_path, times, tally
):
    generator = Random(int(number))
    cases = [
        Case(references[index % len(references)], tmp_path / str(index)) for index in range(times)
    ]

    def struck(case: Case) -> float:
        seconds = strike(case, number, generator)
        case.finish()
        return seconds

    # One at a time where it counts how long they take: four processes on two cores take longer.
    seconds = [struck(case) for case in cases]
    # On a machine that is quicker now than for the reference, a signal may come when all is over.
    while len(cases) < times + 3 and not any(case.kills.total() for case in cases):
        cases.append(Case(references[0], tmp_path / str(len(cases))))
        seconds.append(struck(cases[-1]))
    good = sum(not case.problems for case in cases)
    tally(f"{signal.Signals(number).name} to one of two, continued to the bit", good, len(cases))
    assert [problem for case in cases for problem in case.problems] == []
    assert sum(case.kills.total() for case in cases) > 0
    limit = interruption.GRACE_SECONDS + 2 if number == signal.SIGTERM else SECONDS_TO_FIND_OUT
    assert max(seconds) < limit


def test_one_that_never_comes_is_not_waited_for_longer_than_is_said(tmp_path, times, tally):
    for index in range(times):
        environment = list(local_cluster.make_environments(2))[index % 2]
        addresses = json.loads(environment["TF_CONFIG"])["cluster"]["worker"]
        command = [sys.executable, "-m", "tl_keras.main", "--startup_timeout=2"]
        done = subprocess.run(
            [*command, f"--workdir={tmp_path}/{index}"],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=60,
        )
        assert (done.returncode, done.stdout) == (PeerLostError.exit_code, "")
        absent = 1 - index % 2
        told = (
            f"tl_keras: process {absent} at {addresses[absent]} did not start within --startup_ti"
        )
        assert done.stderr.startswith(told), done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / str(index)).exists()
    tally("absent worker, ended with 76", times, times)
