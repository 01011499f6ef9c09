"""Read any image classification dataset of tensorflow-datasets.

- The image and the label are the features of the flags, else the dataset's supervised keys, or
  else its only Image and its only ClassLabel (`tfds_features`).
- The classes are those of the ClassLabel. Automatic class names of tfds ("0", "1", ...) are
  prefixed with the dataset's name. Of a whole number or a text, they are the values in the
  training split (`tfds_labels`).
- The splits are those of the flags, else the catalog's. For other datasets they are "train" and
  "test", or "validation" without a "test" split. Without both, the test split is a stratified fifth
  of "train" (`held_out.choose_test`), always the same (`tfds_splits`).
- A test split without labels (-1 in tfds) is replaced by "validation", if there is one. The log
  says so.
- Images of declared sizes are decoded in a fast way, others as those of folders (`tfds_examples`).
  Images with 1 or 2 declared channels become grey, all others colour. Transparency is composited on
  white.
- Examples have the order on disk.
"""

import numpy as np
import tensorflow_datasets as tfds

from tl_keras.config.tfds import TFDS_PREFIX, USUAL, TfdsSelection
from tl_keras.data import catalog, tfds_prepare
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.tfds_examples import Source, read_images, unreadable_error
from tl_keras.data.tfds_features import Features, find_features
from tl_keras.data.tfds_labels import check_labels, find_classes
from tl_keras.data.tfds_splits import Splits, choose_splits
from tl_keras.pictures import images
from tl_keras.storage.memory import allocate


def open_dataset(
    name: str,
    framing: str,
    data_dir: str,
    selection: TfdsSelection = USUAL,
    prefix: str = TFDS_PREFIX,
    fit: str = "crop",
) -> Dataset:
    """Open a dataset of tensorflow-datasets, and prepare it if necessary.

    Args:
        name: `name`, `name/configuration` or either with `:version`.
        framing: "auto", "mnist" or "none".
        data_dir: see `reading.open_dataset`.
        selection: features and splits; empty ones are chosen.
        prefix: of the flags that give them, for errors.
        fit: how images of different sizes become squares, see `pictures.images.fit`.

    Raises:
        UsageError: the name is not known, the dataset has no classified images, or a feature or a
            split of the flags is none of the dataset.
        DataError: the dataset cannot be prepared, or is damaged.
        WriteError: the dataset has to be prepared, and no folder can be written.
    """
    builder = tfds_prepare.find_builder(name, data_dir)
    # Before preparing, so that an unusable dataset is not downloaded.
    find_features(name, builder, selection, prefix)
    if not tfds_prepare.is_prepared(builder):
        builder = tfds_prepare.prepare(name, data_dir)
    features = find_features(name, builder, selection, prefix)
    # The full name, because "emnist" means "emnist/byclass", and "mnist:3.0.1" means "mnist".
    config = builder.builder_config.name if builder.builder_config else ""
    full_name = f"{builder.name}/{config}" if config else builder.name
    source = _make_source(name, builder, catalog.find(full_name), framing, features, prefix, fit)
    train, tests = choose_splits(source, selection)
    source = find_classes(source, full_name, train)
    splits = Splits(source, train, tests)
    size = images.FRAME_SIZE if source.framed else source.size
    augment = catalog.HANDWRITING if source.framed else source.entry.augment
    # Other features or splits are another dataset, also for the fingerprints of its images.
    shown = f"{name} ({selection})" if str(selection) else name

    def read(split: str, image_size: int = 0) -> ImageSet:
        return _read(source, splits, split, image_size)

    return Dataset(
        shown, source.class_names, source.channels, size, augment, read, splits.check_test,
        is_framed=catalog.has_framed_images(source.entry, framing),
    )  # fmt: skip


def _make_source(
    name: str,
    builder: tfds.core.DatasetBuilder,
    entry: catalog.Entry,
    framing: str,
    features: Features,
    prefix: str,
    fit: str,
) -> Source:
    """Return a source without classes."""
    height, width, channels = features.shape
    framed = catalog.is_framed(entry, framing)
    return Source(
        name,
        builder,
        entry,
        framed,
        features,
        1 if framed or (channels or 3) <= 2 else 3,
        height if height and height == width else 0,
        (),
        None,
        prefix,
        fit,
    )


def _read(source: Source, splits: Splits, split: str, image_size: int) -> ImageSet:
    """Decode one split; see `Dataset.read`."""
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}")
    stored = splits.train if split == "train" or splits.is_carved else splits.test
    chosen = splits.carved == (split == "test") if splits.is_carved else None
    count = source.builder.info.splits[stored].num_examples if chosen is None else chosen.sum()
    size = images.FRAME_SIZE if source.framed else source.size or image_size
    if not size:
        raise ValueError(f"the images of '{source.name}' differ in size: image_size is needed")
    pictures = allocate((int(count), size, size, source.channels))
    labels = np.empty(int(count), object if source.features.is_text else np.int64)
    done = 0
    for part, part_labels in read_images(source, stored, chosen, size):
        if done + len(part) > count:
            break
        pictures[done : done + len(part)] = part
        labels[done : done + len(part)] = part_labels
        done += len(part)
    if done != count:
        raise unreadable_error(source, f"it does not have the {count} examples that it declares")
    return ImageSet(pictures, check_labels(source, stored, labels))
