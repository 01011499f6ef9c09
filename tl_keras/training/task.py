"""The task: what the training loop trains. Methods make tasks."""

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
    """The loss terms and figures of one replica's share of a batch.

    Attributes:
        terms: the terms of the loss, which is their sum; each () float32. A term with the name of a
            stream is a mean over the share of that stream. Any other term is a mean over the share
            of the target, or equal on all replicas: a function of weights or of gathered tensors.
            Replicas are weighted by their fraction of the batch, which is correct for both.
        figures: further recorded figures, such as "accuracy"; each () float32, a mean over the
            share of the target.
    """

    terms: dict[str, tf.Tensor]
    figures: dict[str, tf.Tensor]


# Computes the objective on one replica's share of a batch, inside the gradient tape. The second
# argument is the progress of the run, () float32: the fraction of steps done, 0 at the first.
ObjectiveFunction = Callable[[Batch, tf.Tensor], Objective]


class Stage(NamedTuple):
    """A stage of a run in which the same weights train.

    Attributes:
        start: the fraction of all steps after which it begins, 0 to below 1.
        enter: sets which layers train; the trainable variables of the task are updated. Returns the
            task of this stage: the whole task, or an equivalent faster one on a part of its model.
    """

    start: float
    enter: Callable[[], "Task"]


@dataclass(frozen=True)
class Task:
    """One model, its examples and its objective.

    Attributes:
        model: returns {"features", "logits"} for the target's inputs; built under the strategy.
        variables: all variables that train in some stage; all others are frozen.
        streams: "target", and further streams with a batch in each step.
        objective: computes the objective on one replica's share of a batch.
        validation: images or features with labels, or None.
        image_size: side in pixels that validation images are resized to; 0: unchanged.
        stages: the stages in order, the first from 0 on; empty: `variables` train all the time.
        multipliers: factors of the updates of each of `variables`; empty for 1.
        normalised: names of the streams that go through BatchNormalization as one batch.
        after_step: called with the progress after each step, in the graph and once for all
            replicas, for example to update the weights of a teacher. None for nothing.
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


# Returns the objective of a model, or of its trainable part.
ObjectiveOf = Callable[[keras.Model], ObjectiveFunction]


@dataclass(frozen=True)
class CrossEntropy:
    """The mean cross-entropy of a batch.

    Attributes:
        smoothing: fraction of the target probability that is spread over all classes, 0 to
            below 1. Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016.
        class_weights: (classes,) float32, the factor of each example's loss; None for 1.
    """

    smoothing: float = 0.0
    class_weights: np.ndarray | None = None

    def __call__(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Return the loss, () float32.

        Args:
            labels: (batch,) int64, or (batch, classes) float32 for mixed images.
            logits: (batch, classes).
        """
        logits = tf.cast(logits, tf.float32)
        if labels.shape.rank == 1 and not self.smoothing and self.class_weights is None:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
            return tf.reduce_mean(losses)
        classes = logits.shape[-1]
        targets = labels if labels.shape.rank == 2 else tf.one_hot(labels, classes)
        smoothed = targets * (1.0 - self.smoothing) + self.smoothing / classes
        losses = tf.nn.softmax_cross_entropy_with_logits(labels=smoothed, logits=logits)
        if self.class_weights is not None:
            losses *= tf.linalg.matvec(targets, tf.constant(self.class_weights))
        return tf.reduce_mean(losses)


def accuracy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return the accuracy of a batch, () float32. A mixed image counts by its larger part."""
    targets = labels if labels.shape.rank == 1 else tf.argmax(labels, -1)
    return tf.reduce_mean(tf.cast(tf.equal(tf.argmax(logits, -1), targets), tf.float32))
