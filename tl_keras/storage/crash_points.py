"""Dying on purpose: how the tests show that a run survives being killed at any point.

Nobody else needs this. TL_KERAS_DIE_AT="file renamed:3" ends the process with SIGKILL when it
reaches that point for the third time; the points are named where they stand, and listed here.
"""

import os
import signal

VARIABLE = "TL_KERAS_DIE_AT"

POINTS = (
    "steps trained",
    "temporary written",
    "file renamed",
    "checkpoint half written",
    "checkpoint written",
    "checkpoint pruned",
    "cache rows written",
    "cache manifest written",
    "log line written",
)

_wanted, _, _count = os.environ.get(VARIABLE, "").rpartition(":")
_left = int(_count) if _wanted in POINTS and _count.isdecimal() else 0


def reached(point: str) -> None:
    """Die here, if it is this point's turn."""
    global _left
    if point == _wanted and _left:
        _left -= 1
        if not _left:
            os.kill(os.getpid(), signal.SIGKILL)
