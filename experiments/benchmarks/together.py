"""Two processes that halve the cores of this machine, against one process that has them all.

    python -m experiments.benchmarks.together [--rows=REGEX] [--rounds=2]

They take turns, a whole run each: processes that are connected cannot be stopped for a while, as
the contenders of other rows are. The last column is what scaling.py expects of 5.2 Gbit/s and 0.5
ms a message.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.benchmarks import ours, scaling
from experiments.benchmarks.scaling import Link, Work
from tl_keras.distributed import local_cluster

LINK = Link(bandwidth=5.2e9 / 8, latency=5e-4)
# Of a run, the first ones trace the graph and wake the machine.
WARMUP, ROUNDS = 2, 6


class Row(NamedTuple):
    """What is trained.

    Attributes:
        flags: of the command line.
        size: of the images, in pixels.
        channels: of them.
        steps: of a round.
        goal: the ratio that is wanted; 0 for none.
    """

    flags: Mapping[str, Any]
    size: int
    channels: int
    steps: int
    goal: float


SMALL = {"model": "small_cnn", "precision": "float32"}
RESNET = {"model": "resnet50", "batch_size": 32, "optimizer": "sgd", "precision": "float32"}
ROWS = {
    "small_cnn, batch 512": Row({**SMALL, "batch_size": 512}, 28, 1, 30, 0.7),
    "small_cnn, batch 128": Row({**SMALL, "batch_size": 128}, 28, 1, 100, 0.0),
    "resnet50, each its norms": Row({**RESNET, "sync_batch_norm": False}, 96, 3, 4, 0.0),
    "resnet50": Row(RESNET, 96, 3, 4, 0.85),
}


class Clock:
    """Takes the time of each round, and ends the process after the last."""

    def __init__(self) -> None:
        self._started = 0.0
        self._found: list[float] = []

    def begin(self) -> None:
        """Begin a round."""
        self._started = time.perf_counter()

    def end(self, images: int, input_wait: float = 0.0) -> None:  # noqa: ARG002
        """End a round in which so many images were worked on."""
        self._found.append(images / (time.perf_counter() - self._started))
        if len(self._found) == WARMUP + ROUNDS:
            print(json.dumps(self._found[WARMUP:]), flush=True)
            # At once: the others are at the same place, and nothing is to be kept.
            os._exit(0)


def work(name: str) -> None:
    """Train what a row says, in this process, and print the images of a second in each round."""
    row = ROWS[name]
    images = 8 * row.flags["batch_size"]
    ours.train(Clock(), dict(row.flags), images, row.size, row.channels, row.steps)  # type: ignore[arg-type]


def run(name: str, workers: int) -> list[float]:
    """Return the images of a second in each round, of so many processes together."""
    code = f"from experiments.benchmarks import together; together.work({name!r})"
    processes: list[subprocess.Popen] = []
    try:
        for number, variables in enumerate(local_cluster.make_environments(workers)):
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                env={"TF_CPP_MIN_LOG_LEVEL": "3", **variables},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            local_cluster.pin_to_cores(process.pid, number, workers)
        told = [process.communicate() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    for process, (_, log) in zip(processes, told, strict=True):
        if process.returncode:
            raise RuntimeError(f"a process ended with {process.returncode}: {log[-2000:]}")
    return json.loads(told[0][0].splitlines()[-1])


def expected(row: Row, images_per_second: float) -> float:
    """Return the ratio that the model has for a row."""
    parameters, norms = scaling.counts(row.flags["model"])
    norms = norms if row.flags.get("sync_batch_norm", True) else 0
    return scaling.halved(
        Work(parameters, norms, row.flags["batch_size"] / images_per_second), LINK
    )


def main(argv: Sequence[str]) -> int:
    """Measure the rows that `argv` asks for, and print a line of each."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.together", description=__doc__
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rows", default="", help="a regular expression, searched in their names")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind")
    chosen = parser.parse_args(argv[1:])
    if chosen.rounds < 1:
        parser.error(f"--rounds={chosen.rounds} must be 1 or more")
    print("| trained | one process | two processes | ratio | goal | expected |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, row in ROWS.items():
        if not re.search(chosen.rows, name):
            continue
        found: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(chosen.rounds):
            for workers, rates in found.items():
                rates += run(name, workers)
        one, two = (statistics.median(found[workers]) for workers in (1, 2))
        goal = f"{row.goal:.2f}" if row.goal else "–"
        line = f"| {name} | {one:,.0f} | {two:,.0f} | {two / one:.2f} | {goal} |"
        print(f"{line} {expected(row, one):.2f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
