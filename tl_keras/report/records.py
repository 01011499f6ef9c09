"""The log of a run's metrics, for people and for other programs to read."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tl_keras.storage import crash_points, files


class MetricsLog:
    """A run's metrics.jsonl: one line {"step": 20, "train/loss": 0.31, ...} a measurement.

    JSON has no NaN and no infinity, so a value that is not finite is written as null. We never read
    the file: what a run goes on from stands in its checkpoint, and the file is written anew.
    """

    def __init__(self, path: Path, records: Sequence[tuple[int, Mapping[str, float]]] = ()):
        """Begin the log at `path` with what was recorded before, and go on from there.

        Args:
            path: of the file; one that is there is replaced.
            records: step and values of each measurement.

        Raises:
            WriteError: the file cannot be written.
        """
        self._path = path
        text = "".join(_line(step, values) for step, values in records)
        files.write_bytes(path, text.encode())
        with files.writing(path):
            self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append `values` (name -> number) measured after `step` steps, and flush.

        Raises:
            WriteError: the disk is full or gone.
        """
        with files.writing(self._path):
            self._file.write(_line(step, values))
            self._file.flush()
        crash_points.maybe_crash("log line written")

    def close(self) -> None:
        """Close the file.

        Raises:
            WriteError: a line that could not be written before still cannot.
        """
        with files.writing(self._path):
            self._file.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _line(step: int, values: Mapping[str, float]) -> str:
    numbers = {name: float(value) for name, value in values.items()}
    finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    return f"{json.dumps({'step': int(step), **finite}, allow_nan=False)}\n"
