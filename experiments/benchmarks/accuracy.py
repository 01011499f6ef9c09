"""Rows that compare accuracy: what computing in bfloat16 costs a recipe."""

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.processes import run
from experiments.benchmarks.turns import FailedError

EXACT, ROUGH = "float32", "bfloat16"


@dataclass(frozen=True)
class Accuracy:
    """One recipe with each precision and each seed.

    Attributes:
        name: of the row.
        recipe: file of experiments/ without its ending.
        flags: besides those of the recipe.
        goal: points of test accuracy that may be lost, in the mean over the seeds.
        seeds: of the runs.
    """

    name: str
    recipe: str
    flags: Sequence[str] = ()
    goal: float = 0.5
    seeds: Sequence[int] = (0, 1, 2)

    def measure(self) -> dict[str, Any]:
        """Return what `finding` makes of the accuracies.

        Raises:
            FailedError: a run failed; where data are missing, its message says which.
        """
        return self.finding({precision: self._train(precision) for precision in (EXACT, ROUGH)})

    def finding(self, accuracies: Mapping[str, Sequence[float]]) -> dict[str, Any]:
        """Return what was found, ready for JSON.

        Args:
            accuracies: from 0 to 1, of each seed, by precision.
        """
        means = {name: 100 * statistics.fmean(values) for name, values in accuracies.items()}
        lost = means[EXACT] - means[ROUGH]
        return {
            "row": self.name,
            "kind": "accuracy",
            "recipe": " ".join([self.recipe, *self.flags]),
            "seeds": list(self.seeds),
            "accuracies": {name: list(values) for name, values in accuracies.items()},
            "means": means,
            "lost": lost,
            "goal": self.goal,
            "reached": lost <= self.goal,
        }

    def _train(self, precision: str) -> list[float]:
        """Return the test accuracy of the transfer of each seed, from 0 to 1."""
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            workdir = Path(folder) / "run"
            seeds = ",".join(map(str, self.seeds))
            words = [
                *("-m", "tl_keras.main", f"--flagfile=experiments/{self.recipe}.flags"),
                *(f"--precision={precision}", f"--seeds={seeds}", "--nobaseline"),
                *(f"--workdir={workdir}", *self.flags),
            ]
            run(words, Path(folder))
            report = json.loads((workdir / "report.json").read_text(encoding="utf-8"))
        found = {
            one["seed"]: one["test"]["accuracy"]
            for one in report["runs"]
            if one["arm"] == "transfer"
        }
        if set(found) != set(self.seeds):
            raise FailedError(f"its report has the seeds {sorted(found)}, not {seeds}")
        return [found[seed] for seed in self.seeds]
