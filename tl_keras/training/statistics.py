"""Recomputes the statistics of BatchNormalization over training examples."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data import pipeline
from tl_keras.data.pipeline import Stream
from tl_keras.models import batch_statistics
from tl_keras.models.batch_statistics import Measurer
from tl_keras.models.colour import with_colour_input
from tl_keras.runtime.seeds import derive
from tl_keras.training.prediction import max_batch_size
from tl_keras.training.task import Task

# A thousand are enough for networks of ImageNet (Wu and Johnson, 2021).
FINAL_EXAMPLES = 1024
# For each validation. There are many in a run, so fewer examples are used.
EXAMPLES = 256


@contextlib.contextmanager
def use_current_statistics(measurer: Measurer, task: Task) -> Iterator[None]:
    """Use the statistics of a model's present weights in the context, then restore the old ones.

    Args:
        measurer: the measurer of the task's model.
        task: the task that the model trains on.
    """
    if not batch_statistics.find_updating_norms(measurer.model):
        yield
        return
    statistics = measurer.measure(_batches(task, EXAMPLES, measurer.model))
    with batch_statistics.use_statistics(measurer.model, statistics):
        yield


def assign_final_statistics(model: keras.Model, task: Task) -> None:
    """Assign the statistics of its final weights to a model.

    Args:
        model: the trained model. Call the function outside of replicas.
        task: the task that it was trained on. Examples are not augmented. Their choice depends on
            the seeds of the streams, and not on the number of replicas.
    """
    if batch_statistics.find_updating_norms(model):
        model = with_colour_input(model) if len(task.normalised) > 1 else model
        measured = Measurer(model).measure(_batches(task, FINAL_EXAMPLES, model))
        batch_statistics.assign(model, measured)


def _batches(task: Task, max_count: int, model: keras.Model) -> Iterator[tf.Tensor]:
    """Yield batches of up to `max_count` examples of each stream in `task.normalised`.

    Batches of several streams have equally many examples of each.
    """
    streams = [task.streams[name] for name in task.normalised]
    count = min(max_count, *(stream.count for stream in streams))
    size = min(max_batch_size(stream.inputs, stream.image_size) for stream in streams)
    # Batches of equal size: the statistics of a very small one would be noisy.
    parts = [np.array_split(_sample(stream)[:count], -(-count // size)) for stream in streams]
    for chosen in zip(*parts, strict=True):
        batch = [
            pipeline.resize(tf.constant(stream.inputs[indices]), stream.image_size)
            for stream, indices in zip(streams, chosen, strict=True)
        ]
        channels = model.input.shape[-1]
        yield tf.concat([pipeline.with_channels(one, channels) for one in batch], axis=0)


def _sample(stream: Stream) -> np.ndarray:
    """Return the stream's examples, (n,) int64, in random order: they may be sorted by class."""
    chosen = np.arange(len(stream.labels)) if stream.chosen is None else stream.chosen
    generator = np.random.default_rng(derive(stream.seed, "statistics"))
    return generator.permutation(np.atleast_2d(chosen)[0])
