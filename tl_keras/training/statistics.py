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
from tl_keras.seeds import derive
from tl_keras.training.prediction import affordable

# A thousand are enough for ImageNet's networks, as Wu and Johnson found.
FINAL_EXAMPLES = 1024
# For a look at the validation examples, of which there are many in a run.
EXAMPLES = 256


@contextlib.contextmanager
def in_place(measurer: Measurer, stream: Stream) -> Iterator[None]:
    """Let a model go, for a while, by the statistics of the weights that it has now.

    Args:
        measurer: of the model.
        stream: of what it trains on.
    """
    if not batch_statistics.following(measurer.model):
        yield
        return
    statistics = measurer.measure(_batches(stream, EXAMPLES))
    with batch_statistics.in_place(measurer.model, statistics):
        yield


def keep(model: keras.Model, stream: Stream) -> None:
    """Give a model the statistics of its final weights.

    Args:
        model: outside of any replica.
        stream: of what it was trained on. The examples are taken as they are, not augmented; they
            depend on the stream's seed alone, not on the number of replicas.
    """
    if batch_statistics.following(model):
        measured = Measurer(model).measure(_batches(stream, FINAL_EXAMPLES))
        batch_statistics.assign(model, measured)


def _batches(stream: Stream, most: int) -> Iterator[tf.Tensor]:
    """Yield up to so many examples at random: they may be stored class by class."""
    chosen = np.arange(len(stream.labels)) if stream.chosen is None else stream.chosen
    own = np.atleast_2d(chosen)[0]
    generator = np.random.default_rng(derive(stream.seed, "statistics"))
    sample = generator.permutation(own)[:most]
    size = affordable(stream.inputs, stream.image_size)
    # In even parts, so that none has a few examples only.
    for part in np.array_split(sample, -(-len(sample) // size)):
        yield pipeline.resized(tf.constant(stream.inputs[part]), stream.image_size)
