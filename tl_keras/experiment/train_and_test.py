"""One run: train what a method prepared, evaluate it once on the test images, write the results.

The pretraining is a run, and so is each arm of each seed.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_keras.data.pipeline import sequential_batches
from tl_keras.experiment.images import Images
from tl_keras.methods.interface import MethodInputs, MethodOutputs, PretrainingOutputs
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
    """The outcome of a finished run.

    Attributes:
        result: steps, time and convergence.
        validation: accuracy and loss on the validation images; None without any.
        test: figures of the test images by name, ready for JSON.
        tensors: the trained weights.
        files: names and sha256 of the permanent files in the run's folder.
    """

    result: Result
    validation: dict[str, float] | None
    test: dict[str, Any]
    tensors: Tensors
    files: dict[str, str]

    def record(self) -> dict[str, Any]:
        """Return this run's part of report.json."""
        return {
            "validation": self.validation,
            "test": self.test,
            "steps": self.result.steps,
            "seconds": round(self.result.seconds, 3),
            "images_per_second": round(self.result.images_per_second, 1),
            "converged": self.result.converged,
            "weights_sha256": weights.hash_tensors(self.tensors),
            "files": self.files,
        }


class RunLog:
    """Writes a run's figures to metrics.jsonl and to TensorBoard, under the same names."""

    def __init__(self, folder: Path):
        """Write to `folder`, which exists."""
        self._path = folder / METRICS
        self._metrics: MetricsLog | None = None
        self.events = EventLog(folder)

    def resume(self, records: Sequence[Record]) -> None:
        """Rewrite both files with the records of the state that the run resumes from."""
        for step, values in records:
            self.events.add_scalars(step, values)
        self._metrics = MetricsLog(self._path, records)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record `values` at `step`."""
        if self._metrics is not None:
            self._metrics.write(step, values)
            self.events.add_scalars(step, values)

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Write `values` at `step` to TensorBoard only."""
        self.events.add_scalars(step, values)

    def close(self) -> None:
        """Close both files."""
        if self._metrics is not None:
            self._metrics.close()
        self.events.close()


def train_and_test(
    run: MethodInputs,
    outputs: MethodOutputs,
    images: Images,
    folder: Path,
    title: str,
    origin: Origin,
) -> Outcome:
    """Train, validate and test, and write model.keras, predictions, figures and pictures.

    Args:
        run: the inputs of the method.
        outputs: the outputs of the method.
        images: the dataset; its test split is read after training.
        folder: folder of this run.
        title: name of the run on the console.
        origin: metadata of model.keras without its test figures.
    """
    with train(run, outputs, folder, title) as (log, result):
        validation = validate(run, outputs)
        logits = outputs.predict(images.test)
        names = images.dataset.class_names
        test = metrics.classify(images.test.labels, logits, names)
        tensors = weights.get_tensors(outputs.model)
        figures = {"test/loss": test.loss, "test/accuracy": test.accuracy}
        log.write(result.steps, figures)
        _show(log.events, run, images, logits, test, result.steps)
        _finish(log.events, run, figures, tensors, result.steps)
    origin_with_test = dataclasses.replace(
        origin, test={"accuracy": test.accuracy, "loss": test.loss}
    )
    hashes = {METRICS: files.sha256(folder / METRICS)}
    predicted = logits.argmax(axis=1)
    hashes[PREDICTIONS] = predictions.write(folder, images.test.labels, predicted)
    hashes[MODEL] = model_file.save(folder / MODEL, outputs.model, origin_with_test)
    return Outcome(result, validation, test.as_record(), tensors, hashes)


def train_body(
    run: MethodInputs, outputs: PretrainingOutputs, images: Images, folder: Path, title: str
) -> Outcome:
    """Train a body without labels, and write figures and pictures.

    There is no model.keras, because the model has no trained head.

    Args:
        run: the inputs of the pretraining.
        outputs: the outputs of the pretraining.
        images: the dataset; its test split is read after training.
        folder: folder of this run.
        title: name of the run on the console.
    """
    with train(run, outputs, folder, title) as (log, result):
        test = outputs.evaluate(images.test)
        tensors = weights.get_tensors(outputs.model)
        body = {name: value for name, value in tensors.items() if not name.startswith(HEAD)}
        figures = {f"test/{name}": value for name, value in test.items()}
        log.write(result.steps, figures)
        _show_pretraining(log.events, outputs, images, result.steps)
        _finish(log.events, run, figures, body, result.steps)
    return Outcome(result, None, test, body, {METRICS: files.sha256(folder / METRICS)})


@contextlib.contextmanager
def train(
    run: MethodInputs, outputs: MethodOutputs | PretrainingOutputs, folder: Path, title: str
) -> Iterator[tuple[RunLog, Result]]:
    """Train in `folder`, and yield the open log for the figures of validation and test.

    The trained model is in float32 for every training precision, and has the BatchNormalization
    statistics of its final weights. The test split is not read.
    """
    with files.writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(RunLog(folder)) as log:
        log.events.add_config(run.config.flat())
        pace, task = run.config.checkpoint_every, outputs.task
        result = Loop(task, run.training, run.strategy, folder, log, title, pace).run()
        precision.set_compute_dtype(outputs.model, precision.FLOAT32)
        recomputes = run.training.batch_norm == "recomputed" and not result.is_best
        if result.steps and recomputes:
            statistics.assign_final_statistics(outputs.model, task)
        yield log, result


def validate(run: MethodInputs, outputs: MethodOutputs) -> dict[str, float] | None:
    """Return accuracy and loss of the trained model on the validation images; None without any.

    Model selection uses these figures only. The test split is not read.
    """
    images = run.images.take(run.split.validation)
    if not len(images.labels):
        return None
    logits = outputs.predict(images)
    result = metrics.classify(images.labels, logits, tuple(map(str, range(logits.shape[1]))))
    return {"accuracy": result.accuracy, "loss": result.loss}


def _show(
    events: EventLog,
    run: MethodInputs,
    images: Images,
    logits: np.ndarray,
    test: Classification,
    step: int,
) -> None:
    """Write a batch, the confusion matrix and misclassified images to TensorBoard."""
    names = images.dataset.class_names
    stream = run.stream(run.images, run.split.train).clamp_batch_size()
    batch, targets = (tensor.numpy() for tensor in next(iter(stream.batches())))
    # A mixed image is shown with the label of its larger part.
    labels = targets if targets.ndim == 1 else targets.argmax(axis=1)
    events.add_batch(batch[:PICTURES], labels[:PICTURES], names, 0)
    events.add_confusion(test.confusion, names, step)
    logits = logits.astype(np.float64)
    confidences = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).max(axis=1)
    events.add_mistakes(
        images.test.images, images.test.labels, logits.argmax(axis=1), names, step, confidences
    )


def _show_pretraining(
    events: EventLog, outputs: PretrainingOutputs, images: Images, step: int
) -> None:
    """Write the compared views, or reconstructed test images, to TensorBoard."""
    streams = [stream.clamp_batch_size() for stream in outputs.task.streams.values()]
    batches = [next(iter(stream.batches())) for stream in streams]
    first, labels = (tensor.numpy()[:PICTURES] for tensor in batches[0])
    if len(batches) > 1:
        events.add_pairs("batch", first, batches[1][0].numpy(), ("first view", "second view"), 0)
    else:
        events.add_batch(first, labels, images.dataset.class_names, 0)
    if outputs.rebuild is not None:
        inputs = sequential_batches(images.test.images[:PICTURES], PICTURES, images.image_size)
        shown = next(iter(inputs)).numpy()
        events.add_pairs("rebuilt", shown, outputs.rebuild(shown), ("test image", "rebuilt"), step)


def _finish(
    events: EventLog, run: MethodInputs, figures: dict[str, float], tensors: Tensors, step: int
) -> None:
    """Write the run's hyperparameters and weight histograms to TensorBoard."""
    settings = {"arm": events.folder.name.partition("-")[0], "seed": run.seed}
    for name in ("source", "pretrain", "target", "model", "method", "trainable", "head", "shots"):
        settings[name] = run.config.flat()[name]
    for name in ("optimizer", "learning_rate", "batch_size", "schedule"):
        settings[name] = getattr(run.training, name)
    events.add_hparams(settings, figures, step)
    events.add_histograms(tensors, step)
