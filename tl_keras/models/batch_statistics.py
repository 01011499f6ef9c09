"""The statistics of BatchNormalization that belong to the final weights.

Moving averages of the last steps are those of weights that have changed since: after 8 steps with a
momentum of 0.9, 43 % of them are still what the run began with. Here they are measured anew, over
training images (Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv 2105.07576, "precise
BatchNorm").

Layers that are random in training, such as dropout, are in inference mode while it is measured: the
statistics are for a model in inference mode.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from tl_keras.models import norms
from tl_keras.models.naming import leaves

# By the norm's name: (2, channels) float64, the mean and the variance of each channel.
Statistics = Mapping[str, np.ndarray]


def updating_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the norms whose moving statistics follow the batches in training."""
    return [
        layer
        for layer in leaves(model)
        if norms.is_plain_norm(layer) and norms.updates_statistics(layer)
    ]


class Measurer:
    """Measures one model; keep it where that is done more than once, for its graph is made once."""

    def __init__(self, model: keras.Model):
        """Prepare to measure `model`, which `operations.use_fused_ops` has seen."""
        self.model = model
        self._moments = tf.function(self._of_batch, reduce_retracing=True, autograph=False)

    def _of_batch(self, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        with norms.collect_moments() as found:
            self.model(batch, training=False)
        return found

    def measure(self, batches: Iterable[tf.Tensor]) -> Statistics:
        """Return the statistics of what comes into each norm, as its batch's own normalise it.

        Args:
            batches: of the model's inputs, one at least. All examples weigh the same. Between two
                measurements only the model's weights may change.
        """
        sums: dict[str, np.ndarray] = {}
        count = 0
        for batch in batches:
            examples = len(batch)
            for name, moments in self._moments(batch).items():
                mean, variance = moments.numpy().astype(np.float64)
                raw = np.stack([mean, variance + np.square(mean)])
                sums[name] = sums.get(name, 0.0) + examples * raw
            count += examples
        means = {name: total / count for name, total in sums.items()}
        return {
            name: np.stack([mean, square - np.square(mean)])
            for name, (mean, square) in means.items()
        }


def assign(model: keras.Model, statistics: Statistics) -> None:
    """Set the moving statistics of the norms that follow the batches."""
    for norm in updating_norms(model):
        mean, variance = statistics[norm.name]
        norm.moving_mean.assign(mean.astype(np.float32))
        norm.moving_variance.assign(variance.astype(np.float32))


@contextlib.contextmanager
def use_statistics(model: keras.Model, statistics: Statistics) -> Iterator[None]:
    """Use other statistics inside, and restore the model's own afterwards."""
    kept = {
        norm.name: np.stack([norm.moving_mean.numpy(), norm.moving_variance.numpy()])
        for norm in updating_norms(model)
    }
    assign(model, statistics)
    try:
        yield
    finally:
        assign(model, kept)
