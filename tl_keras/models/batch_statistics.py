"""Precise BatchNormalization statistics for the final weights.

Moving averages contain the statistics of earlier weights: after 8 steps with a momentum of 0.9, 43
% of them are still the initial values. Here the statistics are recomputed over training images
("precise BatchNorm", Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, arXiv 2105.07576).

Layers such as dropout are in inference mode meanwhile, because the statistics are used in inference
mode.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from tl_keras.models import norms
from tl_keras.models.naming import leaves

# By the layer's name: (2, channels) float64, the mean and the variance of each channel.
Statistics = Mapping[str, np.ndarray]


def find_updating_norms(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Return the BatchNormalization layers that update their moving statistics in training."""
    return [
        layer
        for layer in leaves(model)
        if norms.is_plain_norm(layer) and norms.updates_statistics(layer)
    ]


class Measurer:
    """Measures the batch statistics of one model. Reuse it, because its graph is traced once."""

    def __init__(self, model: keras.Model):
        """Prepare to measure `model`, to which `operations.use_fused_ops` was applied."""
        self.model = model
        self._moments = tf.function(self._of_batch, reduce_retracing=True, autograph=False)

    def _of_batch(self, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        with norms.collect_moments() as found:
            self.model(batch, training=False)
        return found

    def measure(self, batches: Iterable[tf.Tensor]) -> Statistics:
        """Return the statistics of each layer's inputs, while all normalise by batch statistics.

        Args:
            batches: at least one batch of the model's inputs. All examples have the same weight.
                Between two measurements, only the model's weights may change.
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
    """Set the moving statistics of the layers that update them in training."""
    for norm in find_updating_norms(model):
        mean, variance = statistics[norm.name]
        norm.moving_mean.assign(mean.astype(np.float32))
        norm.moving_variance.assign(variance.astype(np.float32))


@contextlib.contextmanager
def use_statistics(model: keras.Model, statistics: Statistics) -> Iterator[None]:
    """Use `statistics` inside, and restore the model's own afterwards."""
    kept = {
        norm.name: np.stack([norm.moving_mean.numpy(), norm.moving_variance.numpy()])
        for norm in find_updating_norms(model)
    }
    assign(model, statistics)
    try:
        yield
    finally:
        assign(model, kept)
