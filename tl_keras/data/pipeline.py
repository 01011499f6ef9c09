"""Batches for training and for evaluation, as tf.data.

A training batch is a pure function of (seed, step): the epochs' shuffled orders stand end to end as
one endless stream, and step s takes places s*batch_size to (s+1)*batch_size of it. So every batch
is full, every image comes once an epoch, the loss needs no weights for a short last batch, and a
run continues at any step, on any number of replicas, by counting from there. The replicas share a
batch as evenly as it goes: 32 images are 11, 11 and 10 for three of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tl_keras.data import augment, augment_spec, mixing
from tl_keras.data.augment_spec import Augmentation
from tl_keras.runtime.seeds import derive

NO_AUGMENTATION = augment_spec.parse("none")

# Independent orders of the same examples.
IMAGE_ORDER, PARTNER_ORDER = "order of the pictures", "order of their partners"

# TensorFlow's default of 4 hardly shuffles. From 8 on, orders are like random ones in all tests.
SHUFFLE_ROUNDS = 16

# Up to here inputs are TensorFlow's own: a batch of them takes a tenth of a millisecond less.
MAX_COPY_BYTES = 2**27

# One process with one replica.
SINGLE_REPLICA = tf.distribute.InputContext()


@dataclass(frozen=True)
class Stream:
    """An endless stream of training batches.

    Attributes:
        inputs: (examples, height, width, channels) uint8 images, or what frozen layers make of
            them, (examples, ...) in float32 or 16 bits.
        labels: (examples,) int64.
        batch_size: examples a step, over all replicas; at most as many as there are.
        seed: from which those of the order and of the augmentation are derived.
        image_size: side in pixels that images are brought to; 0 leaves the inputs as they are.
        augmentation: what is done to each image anew in each epoch.
        view: streams that differ in it alone give the same examples, augmented differently.
        views: how many epochs differ in their augmentation, before the first one's comes again; 0
            for all.
        chosen: (n,) int64, which of the examples take part; None for all. The others stay where
            they are, so that a part of a large split is no copy of it. Or (views, n) int64: which
            stand for them in the first epoch, in the second, and so on in turn.
        num_classes: of the labels of mixed pictures; 0 will do where the augmentation mixes none.
    """

    inputs: np.ndarray
    labels: np.ndarray
    batch_size: int
    seed: int
    image_size: int = 0
    augmentation: Augmentation = NO_AUGMENTATION
    view: int = 0
    views: int = 0
    chosen: np.ndarray | None = None
    num_classes: int = 0

    @property
    def count(self) -> int:
        """How many examples take part."""
        return len(self.labels) if self.chosen is None else self.chosen.shape[-1]

    @property
    def chosen_labels(self) -> np.ndarray:
        """The labels of the examples that take part, (n,) int64."""
        return self.labels if self.chosen is None else self.labels[np.atleast_2d(self.chosen)[0]]

    def clamp_batch_size(self) -> "Stream":
        """Return this stream with a batch that the examples fill."""
        return replace(self, batch_size=min(self.batch_size, self.count))

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which every example comes once; not a whole number where the batch is not."""
        return self.count / self.batch_size

    def order(
        self, step: tf.Tensor, replica: tf.Tensor, replicas: int, which: str = IMAGE_ORDER
    ) -> tuple[tf.Tensor, ...]:
        """Return which examples one replica gets in one step.

        Args:
            step: () int64.
            replica: () int64, which of them.
            replicas: how many there are.
            which: PICTURES, or PARTNERS for what those are mixed with.

        Returns:
            indices: (share,) int64, among those that take part, and epochs: the same shape, the
            epoch of each. A share is batch_size / replicas, rounded up or down.
        """
        first, end = (place * self.batch_size // replicas for place in (replica, replica + 1))
        places = step * self.batch_size + tf.range(first, end, dtype=tf.int64)
        if self.batch_size % replicas == 0:
            places = tf.ensure_shape(places, [self.batch_size // replicas])
        epochs = places // self.count
        seed = tf.fill(tf.shape(places), tf.constant(derive(self.seed, which), tf.int64))
        # The shuffle takes the low bits of each number, 8 where examples are few. Numbers that
        # count up, as epochs do, would give orders that are alike, and the same again and again.
        keys = augment.draw_bits(tf.stack([seed, epochs, tf.zeros_like(epochs)], axis=1), 3)
        # Not tf.random.experimental.index_shuffle: it pads a seed for each index the wrong way.
        indices = tf.raw_ops.RandomIndexShuffle(
            index=places % self.count,
            seed=tf.cast(keys, tf.int32),
            max_index=tf.constant(self.count - 1, tf.int64),
            rounds=SHUFFLE_ROUNDS,
        )
        return indices, epochs

    def batches(
        self, first_step: int = 0, context: tf.distribute.InputContext = SINGLE_REPLICA
    ) -> tf.data.Dataset:
        """Return the batches from `first_step` on, one element a step and replica of this process.

        A picture's partner, where the augmentation mixes, stands at the same place of another
        order of the examples: it follows from the seed, the epoch and the picture's index too.

        Returns:
            A dataset of (inputs, labels), endless: inputs as the model takes them, labels int64, or
            (batch, num_classes) float32 where the augmentation mixes pictures.

        Raises:
            ValueError: the augmentation mixes pictures, and `num_classes` is 0.
        """
        if self.augmentation.mixes and not self.num_classes:
            raise ValueError("labels of mixed pictures need num_classes, received 0")
        rows = _make_gather(self.inputs)
        chosen = np.arange(len(self.labels)) if self.chosen is None else self.chosen
        turns = np.atleast_2d(chosen)
        replicas = context.num_replicas_in_sync
        labels, places = tf.constant(self.labels[turns[0]]), tf.constant(turns)

        def augment_rows(indices: tf.Tensor, epochs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            keys = self.keys(indices, epochs)
            turn = tf.gather_nd(places, tf.stack([epochs % len(turns), indices], axis=1))
            return augment.augment(rows(turn), keys, self.augmentation), keys

        def make_batch(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            step, replica = number // replicas, number % replicas
            indices, epochs = self.order(step, replica, replicas)
            inputs, keys = augment_rows(indices, epochs)
            wanted = tf.gather(labels, indices)
            if self.augmentation.mixes:
                others, epochs = self.order(step, replica, replicas, PARTNER_ORDER)
                partners, _ = augment_rows(others, epochs)
                inputs, shares = mixing.mix(inputs, partners, keys, self.augmentation)
                other_labels = tf.gather(labels, others)
                wanted = mixing.mix_labels(wanted, other_labels, shares, self.num_classes)
            return resize(inputs, self.image_size), wanted

        return _map_batches(_batch_numbers(context, first_step), make_batch)

    def keys(self, indices: tf.Tensor, epochs: tf.Tensor) -> tf.Tensor:
        """Return (batch, 3) int64, what each picture's augmentation follows from.

        Args:
            indices: (batch,) int64, among those that take part.
            epochs: (batch,) int64.
        """
        if self.views:
            epochs %= self.views
        seed = tf.constant(derive(self.seed, "augmentation", self.view), tf.int64)
        return tf.stack([tf.fill(tf.shape(indices), seed), epochs, indices], axis=1)


def sequential_batches(
    inputs: np.ndarray,
    batch_size: int,
    image_size: int,
    context: tf.distribute.InputContext = SINGLE_REPLICA,
    augmentation: Augmentation = NO_AUGMENTATION,
    keys: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Return every example once, in order, for evaluation.

    Elements go round the replicas. The last example is repeated until each has a full batch; drop
    what comes after `len(inputs)` results.

    Args:
        inputs: as `Stream.inputs`.
        batch_size: examples an element, for one replica.
        image_size: as `Stream.image_size`.
        context: whose elements they are; there are as many for each of all replicas.
        augmentation: of each example, as its key says.
        keys: (examples, 3) int64, see `Stream.keys`; None without augmentation.
    """
    rows = _make_gather(inputs)
    table = None if keys is None else tf.constant(keys)
    replicas = context.num_replicas_in_sync
    rounds = -(-len(inputs) // (batch_size * replicas))
    # Even ones, so that the last is as full as the others.
    size = -(-len(inputs) // (rounds * replicas))
    last = len(inputs) - 1

    def make_batch(number: tf.Tensor) -> tf.Tensor:
        indices = tf.minimum(number * size + tf.range(size, dtype=tf.int64), last)
        images = rows(indices)
        if table is not None:
            images = augment.augment(images, tf.gather(table, indices), augmentation)
        return resize(images, image_size)

    return _map_batches(_batch_numbers(context, 0, rounds), make_batch)


def _batch_numbers(
    context: tf.distribute.InputContext, first_round: int, rounds: int = 0
) -> tf.data.Dataset:
    """Return round * replicas + replica, () int64, for each round and replica of one process.

    Args:
        context: whose replicas.
        first_round: 0 or more.
        rounds: how many; 0 without end, which spares processes asking each other for it.
    """
    replicas = context.num_replicas_in_sync
    local = replicas // context.num_input_pipelines
    # Repeated, for only that says "without end"; a counter would leave its graph in memory.
    turns = tf.data.Dataset.range(first_round * local, np.iinfo(np.int64).max).repeat()
    if rounds:
        turns = turns.take(rounds * local)
    if local == replicas:
        return turns
    first = context.input_pipeline_id * local
    return turns.map(lambda turn: turn // local * replicas + first + turn % local)


def _map_batches(
    numbers: tf.data.Dataset, make_batch: Callable[[tf.Tensor], Any]
) -> tf.data.Dataset:
    """Return what `make_batch` makes of each number, ahead of when it is wanted.

    AutoGraph is kept off, for it takes a second and finds nothing: no Python here branches on a
    tensor's value. So is the tuner of the pipeline: it finds nothing faster, and where processes
    are connected the end of an iterator waits for its next turn, which is seconds off.
    """
    make_batch = tf.autograph.experimental.do_not_convert(make_batch)
    mapped = numbers.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.autotune.enabled = False
    return mapped.prefetch(tf.data.AUTOTUNE).with_options(options)


def _make_gather(inputs: np.ndarray):  # type: ignore[no-untyped-def]
    """Return a function that gathers rows in a graph.

    TensorFlow is given what is small, of which it makes copies; other rows stay where they are, in
    memory or in a file.
    """
    if inputs.nbytes <= MAX_COPY_BYTES:
        table = tf.constant(inputs)
        return lambda indices: tf.gather(table, indices)

    def gather(indices: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(lambda i: np.asarray(inputs[i]), [indices], inputs.dtype)
        return tf.ensure_shape(rows, [None, *inputs.shape[1:]])

    return gather


def resize(images: tf.Tensor, image_size: int) -> tf.Tensor:
    """Return (batch, image_size, image_size, channels) uint8; 0 leaves the inputs as they are."""
    if image_size == 0 or images.shape[1:3] == (image_size, image_size):
        return images
    resized = tf.image.resize(images, (image_size, image_size), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def with_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Return (batch, height, width, c) uint8 images with as many channels as are asked for."""
    if images.shape[-1] == channels:
        return images
    if channels == 1:
        return tf.image.rgb_to_grayscale(images)
    return tf.repeat(images, channels, axis=-1)
