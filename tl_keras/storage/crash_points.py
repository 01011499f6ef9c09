"""Deliberate crashes, with which the tests show that a run survives being killed at any point.

Only tests use this. TL_KERAS_DIE_AT="file renamed:3" ends the process with SIGKILL when it reaches
that point for the third time. `POINTS` lists all points.
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
    "picture rows written",
    "picture records written",
    "picture rows widened",
)

_point, _, _count = os.environ.get(VARIABLE, "").rpartition(":")
_remaining = int(_count) if _point in POINTS and _count.isdecimal() else 0


def maybe_crash(point: str) -> None:
    """Kill the process if TL_KERAS_DIE_AT names this point and its count is reached."""
    global _remaining
    if point == _point and _remaining:
        _remaining -= 1
        if not _remaining:
            os.kill(os.getpid(), signal.SIGKILL)
