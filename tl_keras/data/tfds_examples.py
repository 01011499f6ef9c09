"""Read the examples of a prepared dataset of tensorflow-datasets."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tl_keras.data import catalog, tfds_prepare
from tl_keras.errors import DataError

_BATCH_SIZE = 512


class Source(NamedTuple):
    """A prepared dataset; `size` is 0 if the stored images differ in size."""

    name: str
    builder: tfds.core.DatasetBuilder
    entry: catalog.Entry
    framed: bool
    image_key: str
    label_key: str
    stored_channels: int
    size: int
    class_names: tuple[str, ...]


def read_examples(
    source: Source,
    stored: str,
    chosen: np.ndarray | None,
    *,
    size: int = 0,
    labels_only: bool = False,
) -> Iterator[Any]:
    """Yield batches of images and labels, in the order on disk.

    Args:
        source: the dataset.
        stored: name of the split.
        chosen: (examples,) bool, which examples to read; None for all.
        size: side in pixels to which images of different sizes are resized.
        labels_only: yield empty images.

    Raises:
        DataError: the split is damaged.
    """
    import tensorflow as tf

    def decode(example: dict[str, Any]) -> tuple[Any, Any]:
        label = tf.cast(example[source.label_key], tf.int64)
        if labels_only:
            return (), label
        channels = source.stored_channels
        image = tf.io.decode_image(example[source.image_key], channels, expand_animations=False)
        image.set_shape((None, None, channels))
        if not source.framed and not source.size:
            image = tf.image.resize(image, (size, size), antialias=True)
            image = tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)
        return image, label

    keys = [source.label_key] if labels_only else [source.image_key, source.label_key]
    decoders = tfds.decode.PartialDecoding(
        dict.fromkeys(keys, True),
        {} if labels_only else {source.image_key: tfds.decode.SkipDecoding()},
    )
    # Images of different sizes that are framed later cannot be stacked.
    batch = 1 if source.framed and not source.size and not labels_only else _BATCH_SIZE
    try:
        with tf.device("CPU"):
            with tfds_prepare.silence_tfds():
                dataset = source.builder.as_dataset(
                    split=stored,
                    shuffle_files=False,
                    decoders=decoders,
                    read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
                )
            if chosen is not None:
                mask = tf.constant(chosen)
                dataset = dataset.enumerate().filter(lambda index, _: mask[index])
                dataset = dataset.map(lambda _, example: example)
            dataset = dataset.map(decode, tf.data.AUTOTUNE, deterministic=True)
            yield from dataset.batch(batch).prefetch(2).as_numpy_iterator()
    except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
        raise unreadable_error(source, tfds_prepare.short_reason(error)) from error


def unreadable_error(source: Source, reason: str) -> DataError:
    """Return the error for a dataset that is damaged on disk."""
    return DataError(
        f"dataset '{source.name}' in {source.builder.data_dir} cannot be read ({reason}). Delete"
        " that folder, and the dataset is prepared again"
    )
