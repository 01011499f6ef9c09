"""What the loop needs to know of one training run; the methods fill it in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

from tl_keras.data.dataset import ImageSet
from tl_keras.data.pipeline import Stream

# One replica's share of a step: stream name -> (inputs, labels).
Batch = Mapping[str, tuple[tf.Tensor, tf.Tensor]]


@dataclass(frozen=True)
class Task:
    """One model, its examples and its objective.

    Attributes:
        model: gives {"features", "logits"} of the target's inputs; built under the strategy.
        variables: what trains. Everything else is frozen, here and nowhere else.
        streams: "target", and "source" where a batch of source images rides along.
        terms: `terms(batch)` runs in one replica, inside the gradient tape, and returns the
            objective's terms by name, each () float32, and the target's logits. The loss is their
            sum. A term is a mean over the replica's share of the batch, or depends on weights
            alone: every replica has the same number of examples, so that the mean over the replicas
            is right for both.
        validation: images or features with labels, or None.
        image_size: side in pixels that validation images are brought to; 0 leaves them.
    """

    model: keras.Model
    variables: Sequence[keras.Variable]
    streams: Mapping[str, Stream]
    terms: Callable[[Batch], tuple[dict[str, tf.Tensor], tf.Tensor]]
    validation: ImageSet | None = None
    image_size: int = 0


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the mean cross-entropy () float32 of (batch,) labels and (batch, classes) logits."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=labels, logits=tf.cast(logits, tf.float32)
    )
    return tf.reduce_mean(losses)
