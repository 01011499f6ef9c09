"""Rows on reading picture files: the first time, a second time, and while a model trains."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks import picture_files
from experiments.benchmarks.picture_files import Files
from experiments.benchmarks.processes import Program, Worker
from experiments.benchmarks.speed import Opponent, finding
from experiments.benchmarks.turns import Pace, take_turns

OURS = "tl_keras"
READ, OUR_TRAINING = "experiments.benchmarks.read_folder", "experiments.benchmarks.ours"
KERAS = "experiments.benchmarks.peers_keras_files:read"
TORCH = "experiments.benchmarks.peers_torch_files:read"
FIRST, IN_MEMORY = "the first reading", "the same in memory"


@dataclass(frozen=True)
class FirstReading:
    """List, check, decode and keep files that were not read before, in CPU time.

    Attributes:
        name: of the row.
        files: which.
        size: side of the decoded pictures in pixels.
        pace: how many rounds.
        workers: numbers of worker processes of PyTorch's DataLoader.
    """

    name: str
    files: Files
    size: int
    pace: Pace
    workers: Sequence[int] = (0, 2)

    def opponents(self, folder: Path) -> list[Opponent]:
        """Return Keras, and PyTorch with each number of workers."""
        shared = {"folder": str(folder), "size": self.size}
        return [
            Opponent("Keras image_dataset_from_directory", 1.0, KERAS, shared),
            *(
                Opponent(f"PyTorch, Pillow, {n} workers", 1.0, TORCH, {**shared, "workers": n})
                for n in self.workers
            ),
        ]

    def measure(self) -> dict[str, Any]:
        """Return what `finding` makes of the rounds."""
        with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
            folder = Path(place) / "pictures"
            picture_files.write(Path(place), self.files)
            opponents = self.opponents(folder)
            shared = {"folder": str(folder), "size": self.size}
            entrants = [Worker(OURS, f"{READ}:first_reading", shared)]
            entrants += [Worker(one.name, one.function, one.arguments) for one in opponents]
            found = take_turns(entrants, self.pace)
        work = (
            f"the CPU time of all processes for {self.files.describe()} to {self.size} px; ours"
            " checks the files and keeps the decoded pictures on disk besides"
        )
        return finding(self.name, work, found, OURS, opponents)


@dataclass(frozen=True)
class SecondReading:
    """Read files whose decoded pictures were kept, against reading them for the first time.

    Attributes:
        name: of the row.
        files: which.
        size: side of the decoded pictures in pixels.
        goal: how many times as fast it is to be.
        pace: how many rounds.
    """

    name: str
    files: Files
    size: int
    goal: float
    pace: Pace

    def measure(self) -> dict[str, Any]:
        """Return what `finding` makes of the runs."""
        with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
            folder, kept = Path(place) / "pictures", Path(place) / "kept"
            picture_files.write(Path(place), self.files)

            def words(cache: Path) -> list[str]:
                return ["-m", READ, str(folder), str(self.size), str(cache)]

            count = self.files.number
            entrants = [
                Program(OURS, count, lambda *_: words(kept), is_prepared=True, in_cpu_time=True),
                Program(FIRST, count, lambda own, _: words(own / "kept"), in_cpu_time=True),
            ]
            found = take_turns(entrants, self.pace)
        work = (
            f"the CPU time of a fresh process, without TensorFlow, that reads the kept pictures of"
            f" {self.files.describe()} to {self.size} px"
        )
        return finding(self.name, work, found, OURS, [Opponent(FIRST, self.goal)])


@dataclass(frozen=True)
class Streaming:
    """Train on pictures that are decoded in each epoch, against pictures in memory.

    Attributes:
        name: of the row.
        files: which.
        size: side of the decoded pictures in pixels.
        flags: of the training.
        steps: of a round.
        goal: how many times as fast as in memory it is to be.
        pace: how many rounds.
    """

    name: str
    files: Files
    size: int
    flags: Mapping[str, Any]
    steps: int
    goal: float
    pace: Pace

    def measure(self) -> dict[str, Any]:
        """Return what `finding` makes of the rounds, and whether the weights were equal."""
        with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
            folder = Path(place) / "pictures"
            picture_files.write(Path(place), self.files)
            notes = {name: Path(place) / str(n) for n, name in enumerate((OURS, IN_MEMORY))}
            streams = dict(zip(notes, ("always", "never"), strict=True))
            entrants = [
                Worker(name, f"{OUR_TRAINING}:train_on_files", self._arguments(folder, note, how))
                for (name, note), how in zip(notes.items(), streams.values(), strict=True)
            ]
            found = take_turns(entrants, self.pace)
            verdict = compare([read_lines(note) for note in notes.values()])
        work = (
            f"{self.steps} steps of {self.flags['model']} with random weights on"
            f" {self.files.describe()} at {self.size} px, batch {self.flags['batch_size']};"
            f" {verdict}"
        )
        return finding(self.name, work, found, OURS, [Opponent(IN_MEMORY, self.goal)])

    def _arguments(self, folder: Path, note: Path, how: str) -> dict[str, Any]:
        flags = {**self.flags, "stream_pictures": how}
        shared = {"folder": str(folder), "size": self.size, "steps": self.steps}
        return {**shared, "flags": flags, "digests": str(note)}


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file; none where there is no file."""
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def compare(digests: Sequence[Sequence[str]]) -> str:
    """Return whether two contenders had equal weights after each round, in words.

    Args:
        digests: of each contender, the digest of its weights after each round.
    """
    first, second = digests
    rounds = min(len(first), len(second))
    if not rounds:
        return "the weights were not compared"
    equal = list(first[:rounds]) == list(second[:rounds])
    after = f"after each of {rounds} rounds"
    return f"the weights {'were equal to the bit' if equal else 'WERE NOT EQUAL'} {after}"
