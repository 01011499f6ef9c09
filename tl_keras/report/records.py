"""The log of a run's metrics, which survives an interruption."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tl_keras import files
from tl_keras.errors import DataError


class Record(NamedTuple):
    """One line of metrics.jsonl: the values that were measured after `step` steps."""

    step: int
    values: dict[str, float]


class MetricsLog:
    """A run's metrics.jsonl: one line {"step": 20, "train/loss": 0.31, ...} a measurement.

    JSON has no NaN and no infinity, so a value that is not finite is written as null, and is read
    back as NaN.
    """

    def __init__(self, path: Path | str):
        """Open the log at `path` to append to it; `resume` it first where it may exist.

        Raises:
            WriteError: the file cannot be opened.
        """
        self._path = Path(path)
        with files.writing(self._path):
            self._file = self._path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append `values` (name -> number) measured after `step` steps, and flush.

        Raises:
            WriteError: the disk is full or gone.
        """
        line = _line(Record(int(step), {name: float(value) for name, value in values.items()}))
        with files.writing(self._path):
            self._file.write(f"{line}\n")
            self._file.flush()

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

    @staticmethod
    def resume(path: Path | str, step: int) -> list[Record]:
        """Cut the log at `path` back to the checkpoint of `step`, and return what is left.

        Lines after `step` are dropped, since these steps will be trained again; so is a last line
        that a crash has torn. A log that is not there is empty; -1 for `step` empties it.

        Raises:
            DataError: a line before the last one is damaged.
            WriteError: the file cannot be rewritten.
        """
        path = Path(path)
        if not path.exists():
            return []
        kept = [record for record in _read(path) if record.step <= step]
        files.write_bytes(path, "".join(f"{_line(record)}\n" for record in kept).encode())
        return kept


def _line(record: Record) -> str:
    values = {name: v if math.isfinite(v) else None for name, v in record.values.items()}
    return json.dumps({"step": record.step, **values}, allow_nan=False)


def _read(path: Path) -> list[Record]:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
            numbers = {name: math.nan if v is None else float(v) for name, v in values.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number} is damaged: {line[:60]!r}. Delete this line, or the run's"
                " folder to train it again"
            ) from error
        records.append(Record(step, numbers))
    return records
