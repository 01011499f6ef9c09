"""The training examples over which statistics of normalisation are measured anew."""

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

# A thousand are enough for ImageNet's networks, as Wu and Johnson found.
FINAL_EXAMPLES = 1024
# For a look at the validation examples, of which there are many in a run.
EXAMPLES = 256


@contextlib.contextmanager
def use_current_statistics(measurer: Measurer, task: Task) -> Iterator[None]:
    """Use the statistics of a model's present weights inside, and restore the others afterwards.

    Args:
        measurer: of the task's model.
        task: which it trains on.
    """
    if not batch_statistics.find_updating_norms(measurer.model):
        yield
        return
    statistics = measurer.measure(_batches(task, EXAMPLES, measurer.model))
    with batch_statistics.use_statistics(measurer.model, statistics):
        yield


def assign_final_statistics(model: keras.Model, task: Task) -> None:
    """Give a model the statistics of its final weights.

    Args:
        model: outside of any replica.
        task: which it was trained on. The examples are taken as they are, not augmented; they
            depend on the streams' seeds alone, not on the number of replicas.
    """
    if batch_statistics.find_updating_norms(model):
        model = with_colour_input(model) if len(task.normalised) > 1 else model
        measured = Measurer(model).measure(_batches(task, FINAL_EXAMPLES, model))
        batch_statistics.assign(model, measured)


def _batches(task: Task, most: int, model: keras.Model) -> Iterator[tf.Tensor]:
    """Yield up to so many examples of each stream that goes through normalisation.

    Those of several streams go through together, as many of each.
    """
    streams = [task.streams[name] for name in task.normalised]
    count = min(most, *(stream.count for stream in streams))
    size = min(max_batch_size(stream.inputs, stream.image_size) for stream in streams)
    # In even parts, so that none has a few examples only.
    parts = [np.array_split(_sample(stream)[:count], -(-count // size)) for stream in streams]
    for chosen in zip(*parts, strict=True):
        batch = [
            pipeline.resize(tf.constant(stream.inputs[own]), stream.image_size)
            for stream, own in zip(streams, chosen, strict=True)
        ]
        channels = model.input.shape[-1]
        yield tf.concat([pipeline.with_channels(one, channels) for one in batch], axis=0)


def _sample(stream: Stream) -> np.ndarray:
    """Return the examples that take part, (n,) int64, at random: they may be stored by class."""
    chosen = np.arange(len(stream.labels)) if stream.chosen is None else stream.chosen
    generator = np.random.default_rng(derive(stream.seed, "statistics"))
    return generator.permutation(np.atleast_2d(chosen)[0])
