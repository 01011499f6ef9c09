"""Batches for training and for evaluation, as tf.data.

A training batch is a pure function of (seed, step). The shuffled epochs are concatenated to one
endless stream, and step s takes positions s*batch_size to (s+1)*batch_size of it. So every batch is
full, every image comes once per epoch, and a run can be resumed at any step, on any number of
replicas. The replicas share a batch evenly: 32 images are 11, 11 and 10 for three replicas.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tl_keras.config.augmentation import Augmentation
from tl_keras.data import augment, mixing
from tl_keras.data.draws import draw_bits
from tl_keras.errors import TransferError
from tl_keras.pictures.arrays import Images
from tl_keras.runtime.seeds import derive

NO_AUGMENTATION = Augmentation()

# Independent orders of the same examples.
IMAGE_ORDER, PARTNER_ORDER = "order of the pictures", "order of their partners"

# TensorFlow's default of 4 shuffles too little. From 8 on, orders pass all tests of randomness.
SHUFFLE_ROUNDS = 16

# Inputs up to this size are copied into a tensor, which saves a tenth of a millisecond per batch.
MAX_COPY_BYTES = 2**27

# Errors of images that were read for a batch, in threads of TensorFlow.
_read_errors: list[TransferError] = []

# One process with one replica.
SINGLE_REPLICA = tf.distribute.InputContext()


@dataclass(frozen=True)
class Stream:
    """An endless stream of training batches.

    Attributes:
        inputs: (examples, height, width, channels) uint8 images, or features of frozen layers,
            (examples, ...) in float32 or 16 bits.
        labels: (examples,) int64.
        batch_size: examples per step over all replicas, at most the number of examples.
        seed: the seeds of the order and of the augmentation are derived from it.
        image_size: side in pixels to which images are resized; 0 leaves the inputs unchanged.
        augmentation: drawn anew for each image in each epoch.
        view: streams that differ in it alone give the same examples with other augmentation.
        views: number of epochs after which the augmentation repeats; 0 for never.
        chosen: (n,) int64, indices of the examples in use; None for all. It avoids a copy of a
            large split. Or (views, n) int64: the rows that represent the examples in the first
            epoch, in the second, and so on in turn.
        num_classes: number of classes, for the labels of mixup and cutmix; 0 without them.
    """

    inputs: Images
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
        """Number of examples in use."""
        return len(self.labels) if self.chosen is None else self.chosen.shape[-1]

    @property
    def chosen_labels(self) -> np.ndarray:
        """Labels of the examples in use, (n,) int64."""
        return self.labels if self.chosen is None else self.labels[np.atleast_2d(self.chosen)[0]]

    def clamp_batch_size(self) -> "Stream":
        """Return this stream with a batch size of at most the number of examples."""
        return replace(self, batch_size=min(self.batch_size, self.count))

    @property
    def steps_per_epoch(self) -> float:
        """Steps per epoch, a fraction if the batch size does not divide the number of examples."""
        return self.count / self.batch_size

    def order(
        self, step: tf.Tensor, replica: tf.Tensor, replicas: int, which: str = IMAGE_ORDER
    ) -> tuple[tf.Tensor, ...]:
        """Return the examples of one replica in one step.

        Args:
            step: () int64.
            replica: () int64, index of the replica.
            replicas: number of replicas.
            which: IMAGE_ORDER, or PARTNER_ORDER for the partners of mixup and cutmix.

        Returns:
            indices: (share,) int64, among the examples in use, and epochs: the same shape. A share
                is batch_size / replicas, rounded up or down.
        """
        first, end = (place * self.batch_size // replicas for place in (replica, replica + 1))
        places = step * self.batch_size + tf.range(first, end, dtype=tf.int64)
        if self.batch_size % replicas == 0:
            places = tf.ensure_shape(places, [self.batch_size // replicas])
        epochs = places // self.count
        seed = tf.fill(tf.shape(places), tf.constant(derive(self.seed, which), tf.int64))
        # The shuffle uses the low bits of each seed number, 8 bits for few examples. Consecutive
        # numbers such as epochs would give similar and repeated orders.
        keys = draw_bits(tf.stack([seed, epochs, tf.zeros_like(epochs)], axis=1), 3)
        # Not tf.random.experimental.index_shuffle, which pads per-index seeds at the wrong end.
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
        """Return the batches from `first_step` on, one element per local replica and step.

        An image's partner in mixup and cutmix has the same position in a second shuffled order. It
        depends on the seed, the epoch and the image's index alone.

        Returns:
            A dataset of (inputs, labels), endless: inputs as the model takes them, labels int64, or
            (batch, num_classes) float32 with mixup or cutmix.

        Raises:
            ValueError: mixup or cutmix with `num_classes` 0.
        """
        if self.augmentation.mixes and not self.num_classes:
            raise ValueError("mixup and cutmix need num_classes, received 0")
        rows = _make_gather(self.inputs)
        chosen = np.arange(len(self.labels)) if self.chosen is None else self.chosen
        turns = np.atleast_2d(chosen)
        replicas = context.num_replicas_in_sync
        labels, places = tf.constant(self.labels[turns[0]]), tf.constant(turns)

        def augment_rows(indices: tf.Tensor, epochs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            keys = self.keys(indices, epochs)
            turn = tf.gather_nd(places, tf.stack([epochs % len(turns), indices], axis=1))
            return augment.augment(rows(turn), keys, self.augmentation, self.image_size), keys

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
        """Return (batch, 3) int64, the augmentation keys.

        Args:
            indices: (batch,) int64, among the examples in use.
            epochs: (batch,) int64.
        """
        if self.views:
            epochs %= self.views
        seed = tf.constant(derive(self.seed, "augmentation", self.view), tf.int64)
        return tf.stack([tf.fill(tf.shape(indices), seed), epochs, indices], axis=1)


def sequential_batches(
    inputs: Images,
    batch_size: int,
    image_size: int,
    context: tf.distribute.InputContext = SINGLE_REPLICA,
    augmentation: Augmentation = NO_AUGMENTATION,
    keys: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Return every example once, in order, for evaluation.

    Elements go to the replicas in turn. The last example is repeated until each replica has a full
    batch. Drop all results after the first `len(inputs)`.

    Args:
        inputs: as `Stream.inputs`.
        batch_size: examples per element, for one replica.
        image_size: as `Stream.image_size`.
        context: the process. Each replica gets the same number of elements.
        augmentation: applied to each example with its key.
        keys: (examples, 3) int64, see `Stream.keys`; None without augmentation.
    """
    rows = _make_gather(inputs)
    table = None if keys is None else tf.constant(keys)
    replicas = context.num_replicas_in_sync
    rounds = -(-len(inputs) // (batch_size * replicas))
    # Batches of equal size, so that the last one is as full as the others.
    size = -(-len(inputs) // (rounds * replicas))
    last = len(inputs) - 1

    def make_batch(number: tf.Tensor) -> tf.Tensor:
        indices = tf.minimum(number * size + tf.range(size, dtype=tf.int64), last)
        images = rows(indices)
        if table is not None:
            images = augment.augment(images, tf.gather(table, indices), augmentation, image_size)
        return resize(images, image_size)

    return _map_batches(_batch_numbers(context, 0, rounds), make_batch)


def _batch_numbers(
    context: tf.distribute.InputContext, first_round: int, rounds: int = 0
) -> tf.data.Dataset:
    """Return round * replicas + replica, () int64, for each round and each replica of one process.

    Args:
        context: the process.
        first_round: 0 or more.
        rounds: number of rounds; 0 for an endless dataset, for which processes need not ask each
            other whether it ends.
    """
    replicas = context.num_replicas_in_sync
    local = replicas // context.num_input_pipelines
    # `repeat` gives the dataset infinite cardinality. A counter would leave its graph in memory.
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
    """Map each number to a batch, with prefetching.

    AutoGraph is disabled: it takes a second, and no Python code here branches on a tensor's value.
    Autotuning is disabled: it finds nothing faster, and in a cluster the end of an iterator would
    wait seconds for its next round.
    """
    make_batch = tf.autograph.experimental.do_not_convert(make_batch)
    mapped = numbers.map(make_batch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    options = tf.data.Options()
    options.autotune.enabled = False
    return mapped.prefetch(tf.data.AUTOTUNE).with_options(options)


def _make_gather(inputs: Images):  # type: ignore[no-untyped-def]
    """Return a function that gathers rows in a graph.

    Small inputs are copied into a tensor. Larger inputs stay where they are, in memory or in a
    file.
    """
    if inputs.nbytes <= MAX_COPY_BYTES:
        table = tf.constant(np.asarray(inputs))
        return lambda indices: tf.gather(table, indices)

    def read(indices: np.ndarray) -> np.ndarray:
        try:
            return np.asarray(inputs[indices])
        except TransferError as error:
            _read_errors.append(error)
            raise

    def gather(indices: tf.Tensor) -> tf.Tensor:
        rows = tf.numpy_function(read, [indices], inputs.dtype)
        return tf.ensure_shape(rows, [None, *inputs.shape[1:]])

    return gather


@contextlib.contextmanager
def raise_read_errors() -> Iterator[None]:
    """Raise the error of an image that could not be read, in place of TensorFlow's own error.

    An error that occurs in a batch arrives as a `tf.errors.OpError`, with a traceback as its text.

    Raises:
        TransferError: see `pictures.arrays`.
    """
    _read_errors.clear()
    try:
        yield
    except tf.errors.OpError as error:
        if _read_errors:
            raise _read_errors[0] from error
        raise


def resize(images: tf.Tensor, image_size: int) -> tf.Tensor:
    """Return (batch, image_size, image_size, channels) uint8; 0 leaves the inputs unchanged."""
    if image_size == 0 or images.shape[1:3] == (image_size, image_size):
        return images
    resized = tf.image.resize(images, (image_size, image_size), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def with_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Return (batch, height, width, channels) uint8 images, converted to 1 or 3 channels."""
    if images.shape[-1] == channels:
        return images
    if channels == 1:
        return tf.image.rgb_to_grayscale(images)
    return tf.repeat(images, channels, axis=-1)
