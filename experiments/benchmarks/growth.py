"""Rows on growth: how the time and the memory of a whole run go with its size."""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.benchmarks.heads import (
    CACHED,
    HEAD,
    NOTHING_KEPT,
    UNCACHED,
    command,
    fresh_weights,
)
from experiments.benchmarks.processes import Ran, run
from experiments.benchmarks.turns import FailedError, Ratio

MODEL, SIZE = "mobilenet_v2_035", 32
LINES: Mapping[str, Sequence[str]] = {CACHED: (), UNCACHED: (NOTHING_KEPT,)}


@dataclass
class Point:
    """A size, and what the runs of it took, round by round."""

    at: int
    seconds: list[float]
    peak_mb: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Growth:
    """A head on frozen features, trained with and without the cache.

    Attributes:
        name: of the row.
        axis: what grows: "images" or "epochs".
        sizes: numbers of it, the smallest first.
        fixed: the number of the other.
        lines: which of LINES.
        rounds: how often each is measured.
        large: sizes from here on are measured once.
    """

    name: str
    axis: str
    sizes: Sequence[int]
    fixed: int
    lines: Sequence[str] = (CACHED, UNCACHED)
    rounds: int = 5
    large: int = 60_000

    def measure(self) -> dict[str, Any]:
        """Return what was found, ready for JSON; a run that fails is told of at its size.

        Raises:
            FailedError: there are no weights to start from.
        """
        points = {line: [Point(size, []) for size in self.sizes] for line in self.lines}
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            weights = fresh_weights(MODEL, SIZE, Path(folder))
            for number in range(self.rounds):
                for line in self.lines:
                    for point in points[line]:
                        self._add(point, number, LINES[line], weights)
        return finding(self.name, self.axis, self.fixed, points)

    def _add(self, point: Point, number: int, flags: Sequence[str], weights: Path) -> None:
        if point.error or (number and point.at >= self.large):
            return
        try:
            ran = self._run(point.at, flags, weights)
        except FailedError as error:
            point.error = str(error)
            return
        point.seconds.append(ran.seconds)
        point.peak_mb = max(point.peak_mb, ran.peak_mb)

    def _run(self, at: int, flags: Sequence[str], weights: Path) -> Ran:
        images, epochs = (at, self.fixed) if self.axis == "images" else (self.fixed, at)
        every = [*HEAD, "--precision=bfloat16", f"--epochs={epochs}", *flags]
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            place = Path(folder)
            return run(command(images, SIZE, MODEL, weights, place, every), place)


def finding(
    name: str, axis: str, fixed: int, points: Mapping[str, Sequence[Point]]
) -> dict[str, Any]:
    """Return what a row found, ready for JSON; times are in that of the smallest run.

    Args:
        name: of the row.
        axis: what grows.
        fixed: the number of the other.
        points: by line, the smallest size first; the first of all is the yardstick.
    """
    yardstick = next(iter(points.values()))[0]
    lines = {
        line: [
            {
                "at": one.at,
                "seconds": one.seconds,
                "time": times._asdict() if (times := _times(one, yardstick)) else None,
                "peak_mb": one.peak_mb,
                "error": one.error,
            }
            for one in along
        ]
        for line, along in points.items()
    }
    other = "epochs" if axis == "images" else "images"
    work = (
        f"{MODEL}, {SIZE} px, bfloat16, {other}: {fixed}; a time of 2 is twice the smallest run's"
    )
    return {"row": name, "kind": "growth", "axis": axis, "work": work, "lines": lines}


def _times(point: Point, yardstick: Point) -> Ratio | None:
    """Return how many times the yardstick's time a run took, round by round."""
    if point.error or yardstick.error or not point.seconds:
        return None
    factors = [own / one for own, one in zip(point.seconds, yardstick.seconds, strict=False)]
    return Ratio(statistics.median(factors), min(factors), max(factors))
