"""Training a head for many epochs: the program with its cache against the program without."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.processes import Program, run
from experiments.benchmarks.speed import Opponent, measured
from experiments.benchmarks.turns import Pace

CACHED, UNCACHED = "with the cache", "without"
NOTHING_KEPT = "--cache_gb=0"
# What trains nothing but the head.
HEAD = ("--method=finetune", "--trainable=head")


@dataclass(frozen=True)
class HeadTraining:
    """Whole runs of the program, started anew for each round.

    Attributes:
        name: of the row.
        model: as --model takes it.
        images: how many train.
        size: side of them in pixels.
        epochs: to train.
        goal: how many times faster the cache shall make it.
        pace: how many rounds.
    """

    name: str
    model: str
    images: int
    size: int
    epochs: int
    goal: float
    pace: Pace = Pace(warmup=0, rounds=5)

    def measure(self) -> dict[str, Any]:
        """Return what `speed.finding` makes of the rounds.

        Raises:
            FailedError: there are no weights to start from.
        """
        work = (
            f"{self.epochs} epochs of {self.images} images of {self.size} px, {self.model},"
            " from the start of the process to its end"
        )
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            weights = fresh_weights(self.model, self.size, Path(folder))
            whole = [*HEAD, f"--epochs={self.epochs}"]

            def words(extra: Sequence[str], place: Path) -> list[str]:
                flags = [*whole, *extra]
                return command(self.images, self.size, self.model, weights, place, flags)

            worked = self.images * self.epochs
            entrants = [
                Program(CACHED, lambda place: words([], place), worked),
                Program(UNCACHED, lambda place: words([NOTHING_KEPT], place), worked),
            ]
            opponents = [Opponent(UNCACHED, self.goal)]
            return measured(self.name, work, entrants, opponents, self.pace)


def command(
    images: int, size: int, model: str, weights: Path, place: Path, flags: Sequence[str]
) -> list[str]:
    """Return what Python is given for one transfer to random pictures, without the scratch arm."""
    return [
        *("-m", "experiments.benchmarks.synthetic", f"{images}x{size}"),
        *("--target=synthetic", f"--model={model}", f"--image_size={size}", "--nobaseline"),
        *("--validation=0", f"--source_weights={weights}", f"--workdir={place / 'run'}", *flags),
    ]


def fresh_weights(model: str, size: int, folder: Path) -> Path:
    """Have the program write random weights of a model, as a source that was not trained.

    Raises:
        FailedError: it could not.
    """
    words = [
        *("-m", "experiments.benchmarks.synthetic", f"100x{size}", "--target=synthetic"),
        *("--source=synthetic", f"--model={model}", f"--image_size={size}", "--nobaseline"),
        *("--validation=0", "--source_epochs=0", "--epochs=0", f"--workdir={folder / 'run'}"),
    ]
    run(words, folder)
    return folder / "run" / "source" / "source.weights.h5"
