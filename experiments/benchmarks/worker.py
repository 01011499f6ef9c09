"""The process of one contender: it builds its model once, and then works when it is asked to.

`python -m experiments.benchmarks.worker MODULE:FUNCTION ARGUMENTS` with the arguments as JSON calls
`FUNCTION(rounds, **arguments)`, which does all of its work between `rounds.begin()` and
`rounds.end(images)`. Requests come as lines on the standard input, answers go as JSON lines to what
was the standard output; what libraries print goes to the standard error.
"""

import contextlib
import ctypes
import importlib
import json
import os
import re
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

_SET_PARENT_DEATH_SIGNAL = 1


class Rounds:
    """When a contender is to work; what it does outside of a round is not measured.

    Attributes:
        clock: returns seconds; the wall's, unless the contender sets `cpu_seconds`.
        after: called after each round, before it is answered; its time does not count.
    """

    def __init__(self, requests: IO[str], answers: IO[str]):
        """Read requests from one file, and answer on the other."""
        self._requests = requests
        self._answers = answers
        self.clock: Callable[[], float] = time.perf_counter
        self.after: Callable[[], None] = lambda: None
        self._is_ready = False
        self._started = 0.0

    def begin(self) -> None:
        """Wait until a round is asked for.

        Raises:
            EOFError: nobody will ask any more.
        """
        if not self._is_ready:
            self._is_ready = True
            self.answer({"ready": True})
        if not self._requests.readline():
            raise EOFError
        self._started = self.clock()

    def end(self, images: int, input_wait: float = 0.0) -> None:
        """Say that the round is over, in which so many images were worked on.

        Args:
            images: how many.
            input_wait: share of the time in which the model had none of them, where it is known.
        """
        seconds = self.clock() - self._started
        self.after()
        found = {"images_per_second": images / seconds, "peak_mb": peak_mb()}
        self.answer({**found, "input_wait": input_wait})

    def answer(self, values: dict[str, Any]) -> None:
        """Write one line."""
        self._answers.write(f"{json.dumps(values)}\n")
        self._answers.flush()


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its children that have ended, in seconds."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def peak_mb() -> float:
    """Return the most memory that this process had so far, in 10^6 bytes."""
    # What getrusage says of a young process can be its parent's.
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def one_line(error: BaseException) -> str:
    """Return what is to be said of an error in a table."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def main(argv: Sequence[str]) -> int:
    """Work for the contender that `argv` names until nobody asks any more."""
    _die_with_parent()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    rounds = Rounds(sys.stdin, answers)
    try:
        module, _, function = argv[1].partition(":")
        contender = getattr(importlib.import_module(module), function)
        contender(rounds, **json.loads(argv[2]))
    except EOFError:
        return 0
    except Exception as error:
        traceback.print_exc()
        rounds.answer({"error": one_line(error)})
        return 1
    rounds.answer({"error": "it ended by itself"})
    return 1


def _die_with_parent() -> None:
    """Have Linux end this process when its parent is gone, even where it is stopped."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
