"""The metrics log of a run, for users and other programs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tl_keras.storage import crash_points, files


class MetricsLog:
    """A run's metrics.jsonl: one line {"step": 20, "train/loss": 0.31, ...} per measurement.

    JSON has no NaN and no infinity, so they are written as null. tl_keras never reads the file: a
    resumed run takes the records from its checkpoint, and writes the file again.
    """

    def __init__(self, path: Path, records: Sequence[tuple[int, Mapping[str, float]]] = ()):
        """Start the log at `path` with the earlier records.

        Args:
            path: of the file. An existing file is replaced.
            records: step and values of each earlier measurement.

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
            WriteError: buffered lines cannot be written.
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
