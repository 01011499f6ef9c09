"""Read the examples of a prepared dataset of tensorflow-datasets.

- An image of a declared size that is stored as a plain PNG or JPEG (see `_make_plain_test`) is
  decoded by TensorFlow, in batches. This is the fast way of MNIST and CIFAR.
- All other images are decoded as the files of a folder are (`pictures.decode`): the EXIF
  orientation is applied, transparency is composited on white, palettes, CMYK and 16 bits become 8
  bits per channel.
"""

import contextlib
import math
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tl_keras.data import catalog, tfds_prepare
from tl_keras.data.tfds_features import Features, get, merge, nest
from tl_keras.errors import DataError
from tl_keras.pictures import images, limits, picture_file
from tl_keras.pictures.decode import decode as decode_picture
from tl_keras.pictures.parallel import map_in_parallel
from tl_keras.pictures.picture_format import PictureFormat

_BATCH_SIZE = 512
# Bytes of the decoded images of a batch.
_BATCH_BYTES = 1 << 27

_PNG_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}
_JFIF = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00"
_JFIF_BYTES = 20
# The marker of quantization tables. That of EXIF data would come before it.
_TABLES = b"\xff\xdb"


class Source(NamedTuple):
    """A prepared dataset.

    Attributes:
        name: as given by the flag.
        builder: the builder of tensorflow-datasets.
        entry: row of the catalog.
        framed: whether images are framed.
        features: the image and the label.
        channels: 1 or 3, of the images that are read.
        size: side of the images if all are squares of that size, else 0.
        class_names: in the order of the labels.
        values: the values of the label that are the classes, sorted; None for a ClassLabel.
        prefix: of the flags that select features and splits.
        fit: how images of different sizes become squares, see `pictures.images.fit`.
    """

    name: str
    builder: tfds.core.DatasetBuilder
    entry: catalog.Entry
    framed: bool
    features: Features
    channels: int
    size: int
    class_names: tuple[str, ...]
    values: np.ndarray | None
    prefix: str
    fit: str


def read_labels(source: Source, split: str) -> np.ndarray:
    """Return the stored labels of a split: (examples,) int64, or bytes objects for text.

    Raises:
        DataError: the split is damaged.
    """
    empty = np.empty(0, object if source.features.is_text else np.int64)
    with _name_damage(source):
        examples = _open_split(source, split, None, labels_only=True)
        labels = examples.map(lambda _, example: _get_label(source, example))
        return np.concatenate([empty, *labels.batch(_BATCH_SIZE).as_numpy_iterator()])


def read_images(
    source: Source, split: str, chosen: np.ndarray | None, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield batches of images and labels, in the order on disk.

    Args:
        source: the dataset.
        split: name or slice of the split.
        chosen: (examples,) bool, which examples to read; None for all.
        size: side of the images in pixels.

    Yields:
        (batch, size, size, channels) uint8, and (batch,) labels as `read_labels` returns them.

    Raises:
        DataError: the split is damaged, or an image is.
    """
    shape = source.features.shape
    if None in shape or source.features.dtype != np.uint8:
        yield from _read_each(source, split, chosen, size)
        return
    done = 0
    try:
        for pixels, labels in _read_plain(source, split, chosen, size):
            yield pixels, labels
            done += len(labels)
    except DataError:
        # TensorFlow cannot decode an image of the rest, and does not tell which.
        rest = chosen
        if rest is None:
            rest = np.ones(source.builder.info.splits[split].num_examples, bool)
        rest = rest & (np.cumsum(rest) > done)
        yield from _read_each(source, split, rest, size)


def unreadable_error(source: Source, reason: str) -> DataError:
    """Return the error for a dataset that is damaged on disk."""
    return DataError(
        f"dataset '{source.name}' in {source.builder.data_dir} cannot be read ({reason}). Delete"
        " that folder, and the dataset is prepared again"
    )


def _read_plain(
    source: Source, split: str, chosen: np.ndarray | None, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `read_images` does, where all images are declared to have one size."""
    import tensorflow as tf

    shape = source.features.shape
    is_plain = _make_plain_test(shape)
    batch_size = max(1, min(_BATCH_SIZE, _BATCH_BYTES // math.prod(side or 1 for side in shape)))

    def decode(index: Any, example: Any) -> tuple[Any, ...]:
        content = get(example, source.features.image_key)
        pixels = tf.io.decode_image(content, shape[2], expand_animations=False)
        return index, content, tf.ensure_shape(pixels, shape), _get_label(source, example)

    with _name_damage(source):
        examples = _open_split(source, split, chosen)
        examples = examples.map(decode, tf.data.AUTOTUNE, deterministic=True)
        examples = examples.batch(batch_size).prefetch(2)
        for indices, contents, pixels, labels in examples.as_numpy_iterator():
            finished = _finish(source, pixels, size)
            others = [place for place, one in enumerate(contents) if not is_plain(one)]
            if others:
                items = [(indices[other], contents[other]) for other in others]
                # The arrays of tf.data are read-only.
                finished = finished.copy()
                finished[others] = list(map_in_parallel(_make_decoder(source, split, size), items))
            yield finished, labels


def _read_each(
    source: Source, split: str, chosen: np.ndarray | None, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield what `read_images` does, with every image decoded as that of a folder."""
    import tensorflow as tf

    with _name_damage(source):
        examples = _open_split(source, split, chosen).map(
            lambda index, example: (
                index,
                get(example, source.features.image_key),
                _get_label(source, example),
            )
        )
        decode = _make_decoder(source, split, size)
        items = examples.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()
        for image, label in map_in_parallel(lambda item: (decode(item[:2]), item[2]), items):
            yield image[None], np.array([label])


def _make_decoder(
    source: Source, split: str, size: int
) -> Callable[[tuple[int, bytes]], np.ndarray]:
    """Return a function of (index, content) that decodes one image: (size, size, channels)."""
    form = PictureFormat(size, source.fit, source.framed)

    def decode(item: tuple[int, bytes]) -> np.ndarray:
        index, content = item
        try:
            if not source.size and not source.entry.transposed:
                image = decode_picture(content, form).image
                return picture_file.with_channels(image, source.channels)
            image = picture_file.load(content)
        except limits.PictureError as error:
            raise _bad_image_error(source, split, index, str(error)) from error
        except MemoryError as error:
            raise DataError(
                f"there is not enough memory to decode image {index} of split '{split}' of dataset"
                f" '{source.name}'"
            ) from error
        height, width = image.shape[:2]
        if source.size and not source.framed and (height, width) != (source.size, source.size):
            reason = f"{width}x{height} pixels are not the declared {source.size}x{source.size}"
            raise _bad_image_error(source, split, index, reason)
        return _finish(source, image[None], size)[0]

    return decode


def _bad_image_error(source: Source, split: str, index: int, reason: str) -> DataError:
    slices = f"{split}[:{index}]+{split}[{index + 1}:]" if index else f"{split}[1:]"
    way_out = f", such as {slices}" if split.isidentifier() else ""
    return DataError(
        f"dataset '{source.name}' in {source.builder.data_dir}: image {index} of split '{split}'"
        f" cannot be used: {reason}. Delete that folder to prepare the dataset again, or leave the"
        f" image out by --{source.prefix}train_split or --{source.prefix}test_split{way_out}"
    )


def _finish(source: Source, pixels: np.ndarray, size: int) -> np.ndarray:
    """Return decoded images of one size, (batch, height, width, any), as they are read."""
    if pixels.shape[-1] in (2, 4):
        pixels = images.composite(pixels[..., :-1], pixels[..., -1:])
    if source.entry.transposed:
        pixels = pixels.transpose(0, 2, 1, 3)
    if source.framed:
        return images.frame(pixels)
    pixels = picture_file.with_channels(pixels, source.channels)
    if pixels.shape[1:3] == (size, size):
        return pixels
    return np.stack([images.fit(image, size, source.fit) for image in pixels])


def _make_plain_test(shape: tuple[int | None, ...]) -> Callable[[bytes], bool]:
    """Return a function that tells whether TensorFlow decodes an image as `picture_file` does.

    That is a PNG of the declared size and channels, 8 bits each, with its pixels right after the
    header; or a JPEG with a JFIF header and no EXIF data after it.
    """
    height, width, channels = (int(side or 0) for side in shape)
    size = width.to_bytes(4) + height.to_bytes(4)
    header = b"IHDR" + size + bytes([8, _PNG_COLOUR[channels], 0, 0, 0])
    png = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4)

    def is_plain(content: bytes) -> bool:
        if content.startswith(png):
            return content.startswith(b"IDAT", len(png) + 4)
        is_jpeg = channels in (1, 3) and content.startswith(_JFIF)
        return is_jpeg and content.startswith(_TABLES, _JFIF_BYTES)

    return is_plain


def _get_label(source: Source, example: Any) -> Any:
    import tensorflow as tf

    label = get(example, source.features.label_key)
    return label if source.features.is_text else tf.cast(label, tf.int64)


def _open_split(
    source: Source, split: str, chosen: np.ndarray | None, *, labels_only: bool = False
) -> Any:
    """Return a tf.data.Dataset of (index in the split, example), with encoded images."""
    import tensorflow as tf

    image_key, label_key = source.features.image_key, source.features.label_key
    specs, decoders = nest(label_key, True), {}
    if not labels_only:
        specs = merge(specs, nest(image_key, True))
        decoders = nest(image_key, tfds.decode.SkipDecoding())
    with tfds_prepare.silence_tfds():
        examples = source.builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(specs, decoders),
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
    examples = examples.enumerate()
    if chosen is not None:
        mask = tf.constant(chosen)
        examples = examples.filter(lambda index, _: mask[index])
    return examples


@contextlib.contextmanager
def _name_damage(source: Source) -> Iterator[None]:
    """Use the processor, and turn the errors of a damaged dataset into a DataError."""
    import tensorflow as tf

    try:
        with tf.device("CPU"):
            yield
    except (tf.errors.OpError, OSError, ValueError, AssertionError) as error:
        raise unreadable_error(source, tfds_prepare.short_reason(error)) from error
