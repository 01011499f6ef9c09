"""Pretraining by comparing: two views of one image shall lie nearer than views of different ones.

SimCLR: Chen, Kornblith, Norouzi and Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations", ICML 2020, arXiv 2002.05709.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data.pipeline import Stream
from tl_keras.methods import catalog
from tl_keras.methods.interface import MethodInputs, PretrainingOutputs, body_variables
from tl_keras.models import sharded_dropout
from tl_keras.training.task import Batch, Objective, Task

PROJECTION = 128

FIRST, SECOND = "target", "second_view"


class Contrast(NamedTuple):
    """What a batch of pairs gives.

    Attributes:
        loss: () float32, NT-Xent.
        accuracy: () float32, how often the other view is the nearest of all, 0 to 1.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor


def prepare(run: MethodInputs) -> PretrainingOutputs:
    """Prepare SimCLR: NT-Xent between the projections of two augmentations of each image.

    The projection is an MLP on the features, d -> d -> 128, and is thrown away. The labels are not
    used: the streams carry the index of each image in their place.
    """
    model = run.model
    [temperature] = catalog.pretraining_strengths("simclr", run.config)
    with run.strategy.scope():
        width = model.output["features"].shape[-1]
        projection = _projection(width, run.seed_for("projection"))

    def contrast(
        first: tf.Tensor, second: tf.Tensor, indices: tf.Tensor, training: bool
    ) -> Contrast:
        # One pass over both, so that normalisation layers see them as one batch.
        images = tf.concat([first, second], axis=0)
        with sharded_dropout.concatenated_streams(FIRST, SECOND):
            projected = projection(model(images, training=training)["features"])
        half = tf.shape(first)[0]
        return nt_xent(projected[:half], projected[half:], indices, temperature)

    def objective(batch: Batch, _: tf.Tensor) -> Objective:
        (first, indices), (second, _) = batch[FIRST], batch[SECOND]
        found = contrast(first, second, indices, True)
        return Objective({"nt_xent": found.loss}, {"contrastive_accuracy": found.accuracy})

    task = Task(
        model=model,
        variables=[*body_variables(model), *projection.trainable_variables],
        streams=_views(run.stream(run.images)),
        objective=objective,
    )
    compare = tf.function(
        lambda first, second, indices: contrast(first, second, indices, False), autograph=False
    )
    return PretrainingOutputs(
        task, model, evaluate=lambda images: _validator(run.stream(images, name="test"), compare)
    )


def nt_xent(
    first: tf.Tensor, second: tf.Tensor, indices: tf.Tensor, temperature: float
) -> Contrast:
    """Compare each view with all views of other images of the whole batch, over all replicas.

    l(i) = -log(exp(s(i, j) / t) / sum over k of exp(s(i, k) / t)), where j is the other view of i's
    image, k runs over j and the views of all other images, s is the cosine of the angle between two
    projections, and t the temperature. A batch that crosses the end of an epoch may hold an image
    twice. The views of its second copy are no negatives of the first.

    Args:
        first: (share, d) projections of this replica's images, in one view.
        second: (share, d), in the other view.
        indices: (share,) int64, the same for the same image.
        temperature: t.

    Returns:
        The means over the 2 share views of this replica.
    """
    context = tf.distribute.get_replica_context()
    views = [tf.math.l2_normalize(tf.cast(one, tf.float32), axis=1) for one in (first, second)]
    # (2 batch, d): all first views in the order of the replicas, then all second ones.
    others = tf.concat([context.all_gather(one, axis=0) for one in views], axis=0)
    # A copy on this replica's device: what an iterator gives to a process of a cluster is on none.
    indices = tf.identity(indices)
    other_indices = tf.tile(context.all_gather(indices, axis=0), [2])
    share, total = tf.shape(first)[0], tf.shape(others)[0]
    replica, replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync
    places = replica * (total // 2) // replicas + tf.range(share)
    positives = tf.concat([places + total // 2, places], axis=0)
    similarities = tf.matmul(tf.concat(views, axis=0), others, transpose_b=True) / temperature
    is_same_image = tf.equal(tf.tile(indices, [2])[:, None], other_indices[None, :])
    is_positive = tf.equal(tf.range(total)[None, :], positives[:, None])
    similarities -= 1e9 * tf.cast(is_same_image & ~is_positive, tf.float32)
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(positives, similarities)
    right = tf.equal(tf.argmax(similarities, axis=1, output_type=tf.int32), positives)
    return Contrast(tf.reduce_mean(losses), tf.reduce_mean(tf.cast(right, tf.float32)))


def _projection(width: int, seed: int) -> keras.Model:
    hidden, last = (
        keras.initializers.GlorotUniform(seed=one)
        for one in np.random.SeedSequence(seed).generate_state(2).tolist()
    )
    features = keras.Input((width,), name="features")
    x = keras.layers.Dense(width, "relu", kernel_initializer=hidden)(features)
    x = keras.layers.Dense(PROJECTION, kernel_initializer=last)(x)
    return keras.Model(features, x, name="projection")


def _views(stream: Stream) -> dict[str, Stream]:
    """Return two streams of the same images, which the augmentation makes different.

    Each image's index stands in place of its label.
    """
    stream = dataclasses.replace(stream, labels=np.arange(len(stream.labels)))
    return {FIRST: stream, SECOND: dataclasses.replace(stream, view=1)}


def _validator(stream: Stream, compare: Callable[..., Contrast]) -> dict[str, float]:
    """Return the figures of one epoch of whole batches."""
    fitted = stream.clamp_batch_size()
    first, second = (one.batches() for one in _views(fitted).values())
    batches = tf.data.Dataset.zip(first, second).take(int(fitted.steps_per_epoch))
    found = [compare(images, others, indices) for (images, indices), (others, _) in batches]
    loss, accuracy = np.mean(np.array(found, np.float64), axis=0).tolist()
    return {"contrastive_accuracy": accuracy, "loss": loss}
