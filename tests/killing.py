"""What the tests of interruption share: start the program as users do, kill it, compare the rest.

A case is one workdir, in which one command is started again and again. However often it was
killed, what lies there at the end has to be what an untouched run leaves, to the bit.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import NamedTuple, TypeVar

from remains import different, facts, leftovers

from tl_keras.storage import crash_points

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-m", "tl_keras.main", "--flagfile=experiments/digits.flags")
# The same in two processes that share each batch.
TOGETHER = (sys.executable, "-m", "tl_keras.launch", "--workers=2", "--", *PROGRAM[3:])
SHORTENED = (
    *("--seeds=0", "--source_steps=60", "--steps=40", "--source_eval_steps=10", "--eval_steps=5"),
    *("--dense_units=16", "--batch_size=32", "--source_batch_size=32", "--checkpoint_every=7"),
)

# What a run remembers besides its weights is different in each: the judge's patience, the factor of
# plateau and the noise of dropout; features on disk; averages and a second head; stages.
KINDS = {
    "finetune": (
        *SHORTENED,
        *("--model=conv4", "--image_size=12", "--shots=10", "--baseline=false"),
        *("--early_stopping=2", "--schedule=plateau", "--plateau_patience=1", "--decay_rate=0.5"),
        *("--learning_rate=0.01", "--augment=shift:0.08,rotate:0.04"),
        *("--source_schedule=plateau", "--source_plateau_patience=1"),
    ),
    "features": (
        *SHORTENED,
        *("--method=features:16", "--shots=all"),
        *("--source=digits", "--target=mnist_5k", "--framing=mnist", "--early_stopping=20"),
    ),
    "joint": (*SHORTENED, "--method=joint", "--ema=0.9", "--clip_norm=1", "--baseline=false"),
}
LONG_KINDS = {
    **KINDS,
    "stages": (*SHORTENED, "--method=joint", "--ema=0.9", "--unfreeze=gradual"),
    "simclr": (
        *SHORTENED,
        *("--pretrain=simclr", "--head=new", "--method=lp_ft", "--swa=0.5", "--optimizer=sgd"),
        *("--schedule=cosine", "--augment=crop:4,mixup:0.2", "--penalty=l2sp"),
    ),
    "recipe": ("--seeds=0", "--checkpoint_every=20"),
    "recipe, by the clock": ("--seeds=0",),
}

EXIT_DELAY_SECONDS = 300.0
POLL_SECONDS = 0.003

T, R = TypeVar("T"), TypeVar("R")


def two_at_a_time(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Return `work` of each item, in their order; it mostly waits for a program, on a core."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


class Ended(NamedTuple):
    """What became of a process."""

    code: int
    out: str
    err: str


class Program:
    """One process of the program in `workdir`; use it in a `with`, which leaves none behind."""

    def __init__(
        self,
        flags: Sequence[str],
        workdir: Path,
        die_at: str = "",
        program: Sequence[str] = PROGRAM,
    ):
        """Start it; `die_at` is the point that it kills itself at."""
        self._log = workdir / "log.txt"
        self._logged = self._log.stat().st_size if self._log.is_file() else 0
        # Not beside what is compared.
        named = workdir.with_name(f"{workdir.name}-{time.monotonic_ns()}")
        self._out, self._err = named.with_suffix(".out"), named.with_suffix(".err")
        environment = {n: value for n, value in os.environ.items() if n != crash_points.VARIABLE}
        if die_at:
            environment[crash_points.VARIABLE] = die_at
        with self._out.open("wb") as out, self._err.open("wb") as err:
            command = [*program, *flags, f"--workdir={workdir}"]
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, cwd=ROOT, env=environment
            )

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def logged(self) -> str:
        """Return what this process wrote to log.txt; it begins when TensorFlow is imported."""
        if not self._log.is_file():
            return ""
        return self._log.read_bytes()[self._logged :].decode()

    def listens(self) -> bool:
        """Return whether the process answers SIGTERM itself."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)
        return bool(caught and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)

    def wait_until(
        self, seen: Callable[[], bool | str], seconds: float = EXIT_DELAY_SECONDS
    ) -> bool:
        """Wait for what is to be seen, or so long; return False where the process ended before."""
        until = time.monotonic() + seconds
        while self.process.poll() is None:
            if seen() or time.monotonic() > until:
                return True
            time.sleep(POLL_SECONDS)
        return False

    def end(self, seconds: float = EXIT_DELAY_SECONDS) -> Ended:
        """Wait until the process ends.

        Raises:
            TimeoutExpired: it does not.
        """
        code = self.process.wait(seconds)
        return Ended(code, *(p.read_text(errors="replace") for p in (self._out, self._err)))


class Part(NamedTuple):
    """A part of a run: the file that ends it, and when it did, in seconds of work."""

    name: str
    result: str
    end: float


class Reference:
    """An untouched run of one kind: what it leaves, and how long its parts took."""

    def __init__(
        self, name: str, flags: Sequence[str], folder: Path, program: Sequence[str] = PROGRAM
    ):
        """Run it in a new folder."""
        self.name, self.flags, self.program = name, tuple(flags), program
        self.workdir = folder / name.replace(",", "").replace(" ", "-") / "work"
        self.workdir.parent.mkdir()
        started = time.time()
        with Program(self.flags, self.workdir, program=program) as process:
            process.wait_until(process.logged)
            working = time.time()
            ended = process.end()
        assert (ended.code, "Traceback" in ended.err) == (0, False), ended.err
        assert leftovers(self.workdir) == []
        self.importing = working - started
        parts = [
            Part(f"the {path.parent.name.partition('-')[0]} run", str(path), path.stat().st_mtime)
            for path in self.workdir.glob("*/result.json")
        ]
        parts.append(Part("the report", str(self.workdir / "report.txt"), time.time()))
        self.parts = [
            Part(name, str(Path(path).relative_to(self.workdir)), end - working)
            for name, path, end in sorted(parts, key=lambda part: part.end)
        ]
        self.facts = facts(self.workdir)


class Case:
    """One workdir in which the command of a reference is killed and given again."""

    def __init__(self, reference: Reference, folder: Path):
        """Begin with no workdir, in a new folder."""
        self.reference = reference
        self.workdir = folder / "work"
        folder.mkdir(parents=True)
        self.kills = Counter[str]()
        self.problems: list[str] = []
        self.is_done = False

    def start(self, die_at: str = "", *more: str) -> Program:
        """Give the command, with more flags that change no result."""
        flags = [*self.reference.flags, *more]
        return Program(flags, self.workdir, die_at, self.reference.program)

    def note(self, program: Program, stage: str, *expected: int) -> Ended:
        """Wait for the end of a process that something was done to, and note what is wrong."""
        ended = program.end()
        if "Traceback" in ended.out + ended.err or ended.code not in (0, *expected):
            self.problems.append(f"in {stage}: ended with {ended.code}: {ended.err[-2000:]}")
        if ended.code in expected:
            self.kills[stage] += 1
        self.is_done = ended.code == 0
        return ended

    def kill_after(self, importing: float, part: int, working: float) -> bool:
        """Start it and kill -9 it.

        Args:
            importing: so many seconds after the start, where this is not 0. Otherwise:
            part: of the run, which has to have begun; and
            working: so many seconds after that.

        Returns:
            Whether it was killed; it may have ended before.
        """
        before = self.reference.parts[part - 1].result if part else ""
        with self.start() as program:
            if not importing:
                begun = self.workdir / before
                program.wait_until(lambda: bool(program.logged()) and begun.exists())
            program.wait_until(lambda: False, importing + working)
            # What it does now, it may have done a moment later: this is for the counts alone.
            stage = self.stage(program)
            program.process.kill()
            return self.note(program, stage, -signal.SIGKILL).code != 0

    def kill_at_random(self, generator: Random, kills: int) -> None:
        """Kill it so often, at moments spread evenly over the time that an untouched run takes."""
        parts, before = self.reference.parts, 0.0
        for moment in sorted(generator.uniform(0.0, parts[-1].end) for _ in range(kills)):
            part = next(i for i, part in enumerate(parts) if moment <= part.end)
            since = max(before, parts[part - 1].end if part else 0.0)
            # A process that goes on reads the data and traces its graphs anew, for about a second.
            again = generator.uniform(0.0, 1.5) if before else 0.0
            is_early = generator.random() < 0.1
            importing = generator.uniform(0.01, self.reference.importing) if is_early else 0.0
            if not self.kill_after(importing, part, 0.0 if is_early else moment - since + again):
                return
            before = before if is_early else moment

    def kill_at_point(self, point: str, count: int, *more: str) -> bool:
        """Have it kill itself at a point; return False where it did not come there."""
        with self.start(f"{point}:{count}", *more) as program:
            return self.note(program, point, -signal.SIGKILL).code != 0

    def stage(self, program: Program) -> str:
        """Return what a process does now, for the counts."""
        if not program.logged():
            return "the import of TensorFlow"
        left = [p for p in self.reference.parts if not (self.workdir / p.result).is_file()]
        return left[0].name if left else "the report"

    def finish(self) -> "Case":
        """Give the command until it ends, and compare what is there then; what is good goes."""
        if not self.is_done:
            with self.start() as program:
                ended = self.note(program, "the last process")
            if not self.is_done:
                return self
            if ended.out != (self.workdir / "report.txt").read_text():
                self.problems.append("what it printed is not report.txt")
        self.problems += [f"{name} differs" for name in different(self.reference.facts, self.facts)]
        self.problems += [f"{name} is left over" for name in leftovers(self.workdir)]
        if not self.problems:
            shutil.rmtree(self.workdir)
        return self

    @property
    def facts(self) -> dict[str, str]:
        """What lies in the workdir."""
        return facts(self.workdir)
