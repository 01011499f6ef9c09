"""What the loop needs to know of one training run; the methods fill it in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data.dataset import ImageSet
from tl_keras.data.pipeline import Stream

# One replica's share of a step: stream name -> (inputs, labels).
Batch = Mapping[str, tuple[tf.Tensor, tf.Tensor]]


class Objective(NamedTuple):
    """What one replica finds on its share of a batch.

    Attributes:
        terms: what is minimised is their sum; each () float32. A term with the name of a stream is
            a mean over the share of that stream. Any other is a mean over the share of the target,
            or is the same on every replica: a function of weights, or of what was gathered from
            all. A replica's part of the batch is its part in the sum, which is right for both.
        figures: what is recorded besides, such as "accuracy", each () float32, a mean over the
            share of the target.
    """

    terms: dict[str, tf.Tensor]
    figures: dict[str, tf.Tensor]


# What one replica computes on its share of a batch, inside the gradient tape. The second argument
# is the run's progress, () float32: the part of its steps that are done, 0 at the first.
ObjectiveFunction = Callable[[Batch, tf.Tensor], Objective]


class Stage(NamedTuple):
    """A part of a run in which the same weights train.

    Attributes:
        start: the part of all steps after which it begins, 0 to below 1.
        enter: sets which layers train; of the task's variables, those move that are trainable.
            Returns what is computed from here on: the task itself, or one that comes to the same
            sooner, whose model is a part of the whole.
    """

    start: float
    enter: Callable[[], "Task"]


@dataclass(frozen=True)
class Task:
    """One model, its examples and its objective.

    Attributes:
        model: gives {"features", "logits"} of the target's inputs; built under the strategy.
        variables: all that trains in some stage. Everything else is frozen, here and nowhere else.
        streams: "target", and others whose batches ride along.
        objective: what one replica computes on its share of a batch.
        validation: images or features with labels, or None.
        image_size: side in pixels that validation images are brought to; 0 leaves them.
        stages: in their order, the first from 0 on; empty where `variables` train all the time.
        multipliers: of the updates of each of `variables`; empty for 1.
        normalised: names of the streams whose batches go through normalisation together.
        after_step: called with the progress after each step, in the graph and once for all
            replicas, such as to let a teacher's weights follow. None for nothing.
    """

    model: keras.Model
    variables: Sequence[keras.Variable]
    streams: Mapping[str, Stream]
    objective: ObjectiveFunction
    validation: ImageSet | None = None
    image_size: int = 0
    stages: Sequence[Stage] = ()
    multipliers: Sequence[float] = ()
    normalised: tuple[str, ...] = ("target",)
    after_step: Callable[[tf.Tensor], None] | None = None


# Gives the objective of a model, or of the part of it that trains.
ObjectiveOf = Callable[[keras.Model], ObjectiveFunction]


@dataclass(frozen=True)
class CrossEntropy:
    """The mean cross-entropy of a batch.

    Attributes:
        smoothing: part of the target probability that is spread evenly over all classes, 0 to
            below 1. Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016.
        class_weights: (classes,) float32, by which each example's loss is multiplied; None for 1.
    """

    smoothing: float = 0.0
    class_weights: np.ndarray | None = None

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the loss, () float32.

        Args:
            labels: (batch,) int64, or (batch, classes) float32 where images are mixtures.
            logits: (batch, classes).
        """
        logits = tf.cast(logits, tf.float32)
        if labels.shape.rank == 1 and not self.smoothing and self.class_weights is None:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            return tf.reduce_mean(losses)
        classes = logits.shape[-1]
        wanted = labels if labels.shape.rank == 2 else tf.one_hot(labels, classes)
        smoothed = wanted * (1.0 - self.smoothing) + self.smoothing / classes
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=smoothed, logits=logits)
        if self.class_weights is not None:
            losses *= tf.linalg.matvec(wanted, tf.constant(self.class_weights))
        return tf.reduce_mean(losses)


def accuracy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return how many of a batch are right, () float32; of a mixture, its larger part counts."""
    wanted = labels if labels.shape.rank == 1 else tf.argmax(labels, -1)
    return tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, -1), wanted), tf.float32))
