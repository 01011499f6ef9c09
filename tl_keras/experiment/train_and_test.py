"""One run: train what a method prepared, look at the test images once, and leave it all on disk.

Pretraining is such a run, and so is each arm of each seed.
"""

import contextlib
import dataclasses
import gc
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tensorflow.python.framework import ops

from tl_keras.data.pipeline import sequential_batches
from tl_keras.experiment.setup import Images
from tl_keras.methods.setting import Prepared, Pretraining, Setting
from tl_keras.models import model_file, precision, weights
from tl_keras.models.weights import HEAD, Origin, Tensors
from tl_keras.report import metrics
from tl_keras.report.metrics import Classification
from tl_keras.report.records import MetricsLog
from tl_keras.report.tensorboard import EventLog
from tl_keras.storage import files, predictions
from tl_keras.storage.predictions import PREDICTIONS
from tl_keras.training import statistics
from tl_keras.training.loop import Loop, Record, Result

LOG = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
MODEL = "model.keras"
PICTURES = 32


class Outcome(NamedTuple):
    """What a finished run found.

    Attributes:
        result: what it took.
        test: figures of the test images by name, ready for JSON.
        tensors: what was learned.
        files: names of what was left in the run's folder for good, and the sha256 of each.
    """

    result: Result
    test: dict[str, Any]
    tensors: Tensors
    files: dict[str, str]

    def record(self) -> dict[str, Any]:
        """Return this run's part of report.json."""
        return {
            "test": self.test,
            "steps": self.result.steps,
            "seconds": round(self.result.seconds, 3),
            "images_per_second": round(self.result.images_per_second, 1),
            "converged": self.result.converged,
            "weights_sha256": weights.hash_tensors(self.tensors),
            "files": self.files,
        }


class RunLog:
    """A run's figures, in metrics.jsonl and in TensorBoard under the same names."""

    def __init__(self, folder: Path):
        """Keep the figures in `folder`, which exists."""
        self._path = folder / METRICS
        self._metrics: MetricsLog | None = None
        self.events = EventLog(folder)

    def resume(self, records: Sequence[Record]) -> None:
        """Begin with what was recorded before; both files are written anew."""
        for step, values in records:
            self.events.add_scalars(step, values)
        self._metrics = MetricsLog(self._path, records)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at `step`."""
        if self._metrics is not None:
            self._metrics.write(step, values)
            self.events.add_scalars(step, values)

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Show `values` at `step` in TensorBoard alone."""
        self.events.add_scalars(step, values)

    def close(self) -> None:
        """Close both files."""
        if self._metrics is not None:
            self._metrics.close()
        self.events.close()


def carry_out(
    setting: Setting,
    prepared: Prepared,
    images: Images,
    folder: Path,
    title: str,
    origin: Origin,
) -> Outcome:
    """Train, evaluate on the test split, and write model.keras, predictions, figures and pictures.

    Args:
        setting: what the method was given.
        prepared: what it gave back.
        images: the dataset; its test split is read when training is over.
        folder: of this run.
        title: names the run on the console.
        origin: what model.keras is to say of itself, but for its figures.
    """
    with _trained(setting, prepared, folder, title) as (log, result):
        logits = prepared.predict(images.test)
        names = images.dataset.class_names
        test = metrics.classify(images.test.labels, logits, names)
        tensors = weights.get_tensors(prepared.model)
        figures = {"test/loss": test.loss, "test/accuracy": test.accuracy}
        log.write(result.steps, figures)
        _show(log.events, setting, images, logits, test, result.steps)
        _finish(log.events, setting, figures, tensors, result.steps)
    told = dataclasses.replace(origin, test={"accuracy": test.accuracy, "loss": test.loss})
    left = {METRICS: files.sha256(folder / METRICS)}
    predicted = logits.argmax(axis=1)
    left[PREDICTIONS] = predictions.write(folder, images.test.labels, predicted)
    left[MODEL] = model_file.save(folder / MODEL, prepared.model, told)
    return Outcome(result, test.as_record(), tensors, left)


def pretrain(
    setting: Setting, prepared: Pretraining, images: Images, folder: Path, title: str
) -> Outcome:
    """Train without labels, and write figures and pictures; what is learned is the body alone.

    There is no model.keras: nothing was trained that could tell classes apart.

    Args:
        setting: what the pretraining was given.
        prepared: what it gave back.
        images: the dataset; its test split is read when training is over.
        folder: of this run.
        title: names the run on the console.
    """
    with _trained(setting, prepared, folder, title) as (log, result):
        test = prepared.judge(images.test)
        tensors = weights.get_tensors(prepared.model)
        body = {name: value for name, value in tensors.items() if not name.startswith(HEAD)}
        figures = {f"test/{name}": value for name, value in test.items()}
        log.write(result.steps, figures)
        _show_pretraining(log.events, prepared, images, result.steps)
        _finish(log.events, setting, figures, body, result.steps)
    return Outcome(result, test, body, {METRICS: files.sha256(folder / METRICS)})


@contextlib.contextmanager
def _trained(
    setting: Setting, prepared: Prepared | Pretraining, folder: Path, title: str
) -> Iterator[tuple[RunLog, Result]]:
    """Train in `folder`, and keep the log open for what is found after.

    The model is then what is kept: in float32, for it can be loaded and go on anywhere, in whatever
    precision pays there, and with the statistics of its final weights.
    """
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(RunLog(folder)) as log:
        log.events.add_config(setting.config.flat())
        task = prepared.task
        loop = Loop(
            task,
            setting.training,
            setting.strategy,
            folder,
            log,
            title,
            setting.config.checkpoint_every,
        )
        result = loop.run()
        precision.set_compute_dtype(prepared.model, precision.FLOAT32)
        recomputes = setting.training.batch_norm == "recomputed" and not result.is_best
        if result.steps and recomputes:
            statistics.keep(prepared.model, task)
        yield log, result


def _show(
    events: EventLog,
    setting: Setting,
    images: Images,
    logits: np.ndarray,
    test: Classification,
    step: int,
) -> None:
    """Put into TensorBoard what a person would want to see of this run."""
    names = images.dataset.class_names
    stream = setting.stream(setting.images, setting.split.train).clamp_batch_size()
    batch, wanted = (tensor.numpy() for tensor in next(iter(stream.batches())))
    # A mixture is shown under the name of its larger part.
    labels = wanted if wanted.ndim == 1 else wanted.argmax(axis=1)
    events.add_batch(batch[:PICTURES], labels[:PICTURES], names, 0)
    events.add_confusion(test.confusion, names, step)
    logits = logits.astype(np.float64)
    confidences = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).max(axis=1)
    events.add_mistakes(
        images.test.images, images.test.labels, logits.argmax(axis=1), names, step, confidences
    )


def _show_pretraining(events: EventLog, prepared: Pretraining, images: Images, step: int) -> None:
    """Put into TensorBoard the views that were compared, or what was made of test images."""
    streams = [stream.clamp_batch_size() for stream in prepared.task.streams.values()]
    batches = [next(iter(stream.batches())) for stream in streams]
    first, labels = (tensor.numpy()[:PICTURES] for tensor in batches[0])
    if len(batches) > 1:
        events.add_pairs("batch", first, batches[1][0].numpy(), ("first view", "second view"), 0)
    else:
        events.add_batch(first, labels, images.dataset.class_names, 0)
    if prepared.rebuild is not None:
        inputs = sequential_batches(images.test.images[:PICTURES], PICTURES, images.image_size)
        shown = next(iter(inputs)).numpy()
        events.add_pairs("rebuilt", shown, prepared.rebuild(shown), ("test image", "rebuilt"), step)


def _finish(
    events: EventLog, setting: Setting, figures: dict[str, float], tensors: Tensors, step: int
) -> None:
    """Put into TensorBoard what sets this run apart from others, and what it learned."""
    settings = {"arm": events.folder.name.partition("-")[0], "seed": setting.seed}
    for name in ("source", "pretrain", "target", "model", "method", "trainable", "head", "shots"):
        settings[name] = setting.config.flat()[name]
    for name in ("optimizer", "learning_rate", "batch_size", "schedule"):
        settings[name] = getattr(setting.training, name)
    events.add_hparams(settings, figures, step)
    events.add_histograms(tensors, step)


@contextlib.contextmanager
def forgetting_models() -> Iterator[None]:
    """Give back the memory of the models that were made inside; nothing may use them any more.

    Their graphs refer to each other. TensorFlow also keeps for good whatever a graph brought a
    gradient of its own for, such as the sum over the replicas, and with it the graph and the
    weights, the optimizer's too.
    """
    gradients = ops.gradient_registry._registry
    before = set(gradients)
    try:
        yield
    finally:
        for name in set(gradients) - before:
            if name.startswith("CustomGradient-"):
                del gradients[name]
        gc.collect()
