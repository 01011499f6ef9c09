"""The TensorBoard event files of a run.

TensorBoard's log directory is the workdir. Each run has a folder in it (`source`, `transfer-0`,
`scratch-0`), so that scalars of the same name share a chart. Event files are derived data. A
resumed run writes them again from its checkpoint, because steps that are trained twice would be
drawn twice.

The writer is our own. TensorFlow's writer buffers events and ignores some write errors. On a full
disk it prints lines of C++, or nothing.
"""

import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api, api_pb2
from tensorboard.plugins.hparams import summary as hparams_summary
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from tl_keras.pictures.arrays import Images
from tl_keras.report import pictures
from tl_keras.storage import files


class EventLog:
    """The event file of one run, in `folder`.

    Scalar names are `split/name`: `train/loss`, `validation/accuracy`, `test/accuracy`,
    `train/learning_rate`. Images have a separate group, which TensorBoard sorts after the charts.
    Every method raises WriteError if the file cannot be written.
    """

    def __init__(self, folder: Path | str):
        """Start a new event file in `folder`, and delete the existing ones.

        Raises:
            WriteError: the folder cannot be created or written.
        """
        self.folder = Path(folder)
        self._started = time.time()
        self._last_steps: dict[str, int] = {}
        with files.writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for old in self.folder.glob("events.out.tfevents.*"):
                old.unlink()
        name = f"events.out.tfevents.{int(self._started)}.{os.getpid()}.v2"
        self._file = files.AppendFile(self.folder / name)
        self._writer = RecordWriter(self._file)
        self._record(Event(wall_time=self._started, file_version="brain.Event:2"))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the chart of each name in `values`, at `step` steps."""
        self._add(step, *(scalar_pb(name, value) for name, value in values.items()))
        self._last_steps |= dict.fromkeys(values, step)

    def add_text(self, name: str, markdown: str, step: int = 0) -> None:
        """Show `markdown` in the text tab."""
        self._add(step, text_pb(name, markdown.encode(errors="backslashreplace")))

    def add_config(self, settings: Mapping[str, Any]) -> None:
        """Show settings (flag name -> value) as a table in the text tab, under `config`."""
        rows = [
            f"| {_escape_cell(name)} | {_escape_cell(value)} |" for name, value in settings.items()
        ]
        self.add_text("config", "\n".join(["| flag | value |", "| --- | --- |", *rows]))

    def add_batch(
        self, images: np.ndarray, labels: np.ndarray, class_names: Sequence[str], step: int
    ) -> None:
        """Show up to 32 images of a training batch as the model gets them: `visuals/batch`.

        Args:
            images: (batch, height, width, channels) uint8, or float from 0 to 255.
            labels: (batch,) int.
            class_names: in the order of the labels.
            step: of the picture.
        """
        self._add_image("visuals/batch", pictures.draw_batch(images, labels, class_names), step)

    def add_pairs(
        self,
        name: str,
        above: np.ndarray,
        below: np.ndarray,
        titles: tuple[str, str],
        step: int,
    ) -> None:
        """Show up to 16 pairs of images, one above the other: `visuals/NAME`.

        Args:
            name: of the figure.
            above: (n, height, width, channels) uint8, or float from 0 to 255.
            below: the same shape or longer.
            titles: of an image above, and of an image below.
            step: of the figure.
        """
        self._add_image(f"visuals/{name}", pictures.draw_pairs(above, below, titles), step)

    def add_confusion(self, matrix: np.ndarray, class_names: Sequence[str], step: int) -> None:
        """Show a confusion matrix: `visuals/confusion`.

        Args:
            matrix: (classes, classes) int counts, rows true, columns predicted.
            class_names: in the order of the rows.
            step: of the picture.
        """
        self._add_image("visuals/confusion", pictures.draw_confusion(matrix, class_names), step)

    def add_mistakes(
        self,
        images: Images,
        labels: np.ndarray,
        predictions: np.ndarray,
        class_names: Sequence[str],
        step: int,
        confidences: np.ndarray | None = None,
    ) -> None:
        """Show up to 32 misclassified images, in order of falling confidence:
        `visuals/misclassified`.

        Args:
            images: (examples, height, width, channels) uint8, the whole test set.
            labels: (examples,) int.
            predictions: (examples,) int.
            class_names: in the order of the labels.
            step: of the picture.
            confidences: (examples,) probability of each prediction, 0 to 1.
        """
        drawn = pictures.draw_mistakes(images, labels, predictions, class_names, confidences)
        self._add_image("visuals/misclassified", drawn, step)

    def add_histograms(self, named_weights: Mapping[str, np.ndarray], step: int) -> None:
        """Show a histogram of each weight, under `weights/NAME`.

        Args:
            named_weights: name -> array of any shape. Non-finite values are left out.
            step: of the histograms.
        """
        for name, values in named_weights.items():
            values = np.asarray(values, np.float32)
            self._add(step, histogram_pb(f"weights/{name}", values[np.isfinite(values)]))

    def add_hparams(
        self, settings: Mapping[str, Any], metrics: Mapping[str, float], step: int
    ) -> None:
        """Add the run as a row of the HPARAMS tab. Call it once, when the run is finished.

        TensorBoard determines the columns, so that settings that differ between runs come first,
        even across workdirs.

        Args:
            settings: name -> value. Lists are written with commas, None as an empty string.
            metrics: scalar name -> value, such as `test/accuracy`. The tab reads them from the
                scalars, so they are written as scalars, unless they were written at this step.
            step: of these scalars.
        """
        row = {name: _to_plain(value) for name, value in settings.items()}
        # TensorBoard averages runs with the same id, or with equal settings and no id, into one
        # row. The folder's name alone is not unique across methods and workdirs.
        own_id = _to_plain(str(self.folder))
        start = api.hparams_pb(row, trial_id=own_id, start_time_secs=self._started)
        end = hparams_summary.session_end_pb(api_pb2.STATUS_SUCCESS)
        # TensorBoard creates these as TensorFlow's class of the same name.
        self._add(0, *(Summary.FromString(part.SerializeToString()) for part in (start, end)))
        self.add_scalars(
            step, {n: v for n, v in metrics.items() if self._last_steps.get(n) != step}
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _add_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        height, width = pixels.shape[:2]
        tensor = make_tensor_proto([str(width).encode(), str(height).encode(), encoded.getvalue()])
        metadata = create_summary_metadata(display_name=None, description=None)
        self._add(step, Summary(value=[Summary.Value(tag=name, metadata=metadata, tensor=tensor)]))

    def _add(self, step: int, *parts: Summary) -> None:
        values = [value for part in parts for value in part.value]
        self._record(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _record(self, event: Event) -> None:
        self._writer.write(event.SerializeToString())


def _to_plain(value: Any) -> str | float | int | bool:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (float, int, bool)):
        return value
    if isinstance(value, str):
        # A byte of a path that is not UTF-8 is a lone surrogate.
        return value.encode(errors="backslashreplace").decode()
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ",".join(str(part) for part in value)
    return str(value)


def _escape_cell(value: Any) -> str:
    """Return a setting, escaped for a Markdown table."""
    return re.sub(r"([|*_`<\\])", r"\\\1", str(_to_plain(value))).replace("\n", " ")
