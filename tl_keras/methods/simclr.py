"""Contrastive pretraining: two views of an image are closer than views of different images.

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
from tl_keras.methods.interface import MethodInputs, PretrainingOutputs, find_body_variables
from tl_keras.models import sharded_dropout
from tl_keras.training.task import Batch, Objective, Task

PROJECTION = 128

FIRST, SECOND = "target", "second_view"


class Contrast(NamedTuple):
    """The result of a batch of pairs.

    Attributes:
        loss: () float32, NT-Xent.
        accuracy: () float32, the fraction of views whose nearest view is of the same image, 0 to 1.
    """

    loss: tf.Tensor
    accuracy: tf.Tensor


def prepare(run: MethodInputs) -> PretrainingOutputs:
    """Prepare SimCLR: NT-Xent between the projections of two augmentations of each image.

    The projection is an MLP on the features, d -> d -> 128, which is discarded after training. The
    labels are not used: the streams carry the index of each image instead.
    """
    model = run.model
    [temperature] = catalog.get_pretraining_strengths("simclr", run.config)
    with run.strategy.scope():
        width = model.output["features"].shape[-1]
        projection = _build_projection(width, run.seed_for("projection"))

    def contrast(
        first: tf.Tensor, second: tf.Tensor, indices: tf.Tensor, training: bool
    ) -> Contrast:
        # One forward pass over both: BatchNormalization sees them as one batch.
        images = tf.concat([first, second], axis=0)
        with sharded_dropout.concatenated_streams(FIRST, SECOND):
            projected = projection(model(images, training=training)["features"])
        half = tf.shape(first)[0]
        return nt_xent(projected[:half], projected[half:], indices, temperature)

    def objective(batch: Batch, _: tf.Tensor) -> Objective:
        (first, indices), (second, _) = batch[FIRST], batch[SECOND]
        result = contrast(first, second, indices, True)
        return Objective({"nt_xent": result.loss}, {"contrastive_accuracy": result.accuracy})

    task = Task(
        model=model,
        variables=[*find_body_variables(model), *projection.trainable_variables],
        streams=_make_view_streams(run.stream(run.images)),
        objective=objective,
    )
    compare = tf.function(
        lambda first, second, indices: contrast(first, second, indices, False), autograph=False
    )
    return PretrainingOutputs(
        task, model, evaluate=lambda images: _evaluate(run.stream(images, name="test"), compare)
    )


def nt_xent(
    first: tf.Tensor, second: tf.Tensor, indices: tf.Tensor, temperature: float
) -> Contrast:
    """Return NT-Xent of each view against all views of other images, over all replicas.

    l(i) = -log(exp(s(i, j) / t) / sum over k of exp(s(i, k) / t)), where j is the other view of i's
    image, k runs over j and the views of all other images, s is the cosine of the angle between two
    projections, and t the temperature. A batch that crosses the end of an epoch may contain an
    image twice. The views of its second copy are not negatives of the first.

    Args:
        first: (share, d) projections of this replica's images, in one view.
        second: (share, d), in the other view.
        indices: (share,) int64, equal for the same image.
        temperature: t.

    Returns:
        The means over the 2 * share views of this replica.
    """
    context = tf.distribute.get_replica_context()
    views = [tf.math.l2_normalize(tf.cast(one, tf.float32), axis=1) for one in (first, second)]
    # (2 batch, d): all first views in the order of the replicas, then all second ones.
    others = tf.concat([context.all_gather(one, axis=0) for one in views], axis=0)
    # Copy to this replica's device: in a cluster, batches of an iterator have no device.
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


def _build_projection(width: int, seed: int) -> keras.Model:
    hidden, last = (
        keras.initializers.GlorotUniform(seed=one)
        for one in np.random.SeedSequence(seed).generate_state(2).tolist()
    )
    features = keras.Input((width,), name="features")
    x = keras.layers.Dense(width, "relu", kernel_initializer=hidden)(features)
    x = keras.layers.Dense(PROJECTION, kernel_initializer=last)(x)
    return keras.Model(features, x, name="projection")


def _make_view_streams(stream: Stream) -> dict[str, Stream]:
    """Return two streams of the same images with different augmentations.

    The labels are the indices of the images.
    """
    stream = dataclasses.replace(stream, labels=np.arange(len(stream.labels)))
    return {FIRST: stream, SECOND: dataclasses.replace(stream, view=1)}


def _evaluate(stream: Stream, compare: Callable[..., Contrast]) -> dict[str, float]:
    """Return the mean figures of one epoch of complete batches."""
    stream = stream.clamp_batch_size()
    first, second = (one.batches() for one in _make_view_streams(stream).values())
    batches = tf.data.Dataset.zip(first, second).take(int(stream.steps_per_epoch))
    results = [compare(images, others, indices) for (images, indices), (others, _) in batches]
    loss, accuracy = np.mean(np.array(results, np.float64), axis=0).tolist()
    return {"contrastive_accuracy": accuracy, "loss": loss}
