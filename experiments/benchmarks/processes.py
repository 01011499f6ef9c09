"""Contenders as processes: long-lived ones that work in turn, and whole runs of a program."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from experiments.benchmarks.turns import FailedError, Measure

ROOT = Path(__file__).resolve().parents[2]
# Whoever says nothing for so long is taken for hanging.
EXIT_DELAY_SECONDS = 3600.0
# It ends with its parent, however that does.
_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
parent = os.getppid()
while os.getppid() == parent:
    sum(range(100_000))
"""


@contextlib.contextmanager
def cores_awake() -> Iterator[None]:
    """Keep every core from idling, by processes that run only where nothing else does.

    A core that sleeps is slow to wake up, and there are virtual machines that pack what is to run
    onto as few cores as they can: of two threads with the same work both times were seen, the half
    and the whole.
    """
    spinning = [
        subprocess.Popen([sys.executable, "-c", _SPIN, str(core)], stdin=subprocess.DEVNULL)
        for core in sorted(os.sched_getaffinity(0))
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


class Worker:
    """A process of `experiments.benchmarks.worker`, stopped whenever it is not asked to work."""

    def __init__(
        self,
        name: str,
        function: str,
        arguments: Mapping[str, Any],
        patience: float = EXIT_DELAY_SECONDS,
    ):
        """Have `function`, such as "package.module:name", called with `arguments` in a process."""
        self.name = name
        self._words = ["-m", "experiments.benchmarks.worker", function, json.dumps(arguments)]
        self._patience = patience
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's number; 0 where there is none."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start to build, anew where it was built before; `ready` waits for the end of that."""
        self.close()
        self._folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                cwd=ROOT,
                env=environment(self._folder),
            )

    def ready(self) -> None:
        """Wait until it is built.

        Raises:
            FailedError: it could not be.
        """
        self._answer()
        self._signal(signal.SIGSTOP)

    def round(self) -> Measure:
        """Let it work for one round.

        Raises:
            FailedError: it could not.
        """
        process = self._running()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"round\n")  # type: ignore[union-attr]
        self._signal(signal.SIGCONT)
        try:
            return Measure(**self._answer())
        finally:
            self._signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the process, stopped or not, and remove what it wrote."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process = None
            shutil.rmtree(self._folder, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise FailedError("it was not started")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    def _answer(self) -> dict[str, Any]:
        process = self._running()
        output: IO[bytes] = process.stdout  # type: ignore[assignment]
        if not select.select([output], [], [], self._patience)[0]:
            raise FailedError(f"no answer within {self._patience:g} seconds")
        line = output.readline()
        if not line:
            code, told = process.wait(), last_line(self._folder / "log")
            raise FailedError(f"it ended with {named_exit(code)}: {told}")
        answer = json.loads(line)
        if "error" in answer:
            raise FailedError(answer["error"])
        return answer


class Ran(NamedTuple):
    """What a whole run of a program took; its peak memory is in 10^6 bytes.

    Attributes:
        seconds: from start to end.
        peak_mb: of the process with the most memory.
        cpu_seconds: of all processes.
    """

    seconds: float
    peak_mb: float
    cpu_seconds: float


def run(
    words: Sequence[str],
    folder: Path,
    patience: float = EXIT_DELAY_SECONDS,
    variables: Mapping[str, str] | None = None,
) -> Ran:
    """Run Python with `words` to its end.

    Args:
        words: after the interpreter's name.
        folder: takes its log and its temporary files.
        patience: seconds after which it is killed.
        variables: of the environment, in place of those that this process has.

    Raises:
        FailedError: it ended with another exit code than 0; the error has its last line.
    """
    log = folder / "log"
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            env={**environment(folder), **(variables or {})},
            start_new_session=True,
        )
        timer = threading.Timer(patience, _kill_group, [process.pid])
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            _kill_group(process.pid)
    if process.returncode:
        raise FailedError(f"it ended with {named_exit(process.returncode)}: {last_line(log)}")
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Ran(seconds, usage.ru_maxrss * 1024 / 1e6, cpu_seconds)


class Program:
    """A contender that is a whole run of a program in each round.

    Attributes:
        name: as the table has it.
    """

    def __init__(
        self,
        name: str,
        images: int,
        words: Callable[[Path, int], Sequence[str]],
        *,
        is_prepared: bool = False,
        in_cpu_time: bool = False,
        finish: Callable[[Path, int], None] = lambda _place, _number: None,
        variables: Mapping[str, str] | None = None,
    ):
        """Run Python with `words(place, number)` in each round, from number 1 on.

        Args:
            name: as the table has it.
            images: that a run works on.
            words: after the interpreter's name. `place` is an empty folder, removed after the run.
            is_prepared: whether there is a run of number 0 before the first round.
            in_cpu_time: whether the CPU time of the run counts, and not that of the wall.
            finish: called after each run with the same arguments, to read what it wrote.
            variables: see `run`.
        """
        self.name = name
        self._images = images
        self._words = words
        self._is_prepared = is_prepared
        self._in_cpu_time = in_cpu_time
        self._finish = finish
        self._variables = variables
        self._number = 0

    def start(self) -> None:
        """Do nothing."""

    def ready(self) -> None:
        """Make the run of number 0 if there is one; it may raise a FailedError."""
        if self._is_prepared:
            self._run(0)

    def round(self) -> Measure:
        """Make one run; it may raise a FailedError."""
        self._number += 1
        ran = self._run(self._number)
        seconds = ran.cpu_seconds if self._in_cpu_time else ran.seconds
        return Measure(self._images / seconds, ran.peak_mb)

    def close(self) -> None:
        """Do nothing."""

    def _run(self, number: int) -> Ran:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            place = Path(folder)
            ran = run(self._words(place, number), place, variables=self._variables)
            self._finish(place, number)
        return ran


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a contender: its temporary files lie in `folder`."""
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "TMPDIR": str(folder)}


def named_exit(code: int) -> str:
    """Return what an exit code says: a number, or the signal that ended the process."""
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def last_line(log: Path) -> str:
    """Return the last line of a log that says something."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
