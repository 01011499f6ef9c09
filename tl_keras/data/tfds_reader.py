"""Read any image classification dataset of tensorflow-datasets.

- The image and the label are the dataset's supervised keys, or else its only Image and its only
  ClassLabel. Colour has 3 channels, grey has 1, transparency is composited on white.
- The splits are the catalog's. For other datasets they are "train" and "test", or "validation"
  without a "test" split. Without both, the test split is a stratified fifth of "train"
  (`held_out.choose_test`), always the same.
- A test split without labels (-1 in tfds) is replaced by "validation", if there is one. The log
  says so.
- Automatic class names of tfds ("0", "1", ...) are prefixed with the dataset's name.
- Examples have the order on disk.
"""

import functools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tl_keras.data import catalog, tfds_prepare
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.held_out import choose_test
from tl_keras.data.tfds_examples import Source, read_examples, unreadable_error
from tl_keras.errors import DataError, UsageError
from tl_keras.pictures import images
from tl_keras.storage.memory import allocate

LOG = logging.getLogger(__name__)

# The label that tfds writes for an example without one.
_NO_LABEL = -1
_TEST_SPLITS = ("test", "validation", "valid", "val")


def open_dataset(name: str, framing: str, data_dir: str) -> Dataset:
    """Open a dataset of tensorflow-datasets, and prepare it if necessary.

    Args:
        name: `name`, `name/configuration` or either with `:version`.
        framing: "auto", "mnist" or "none".
        data_dir: see `reading.open_dataset`.

    Raises:
        UsageError: the name is not known, or the dataset has no classified images.
        DataError: the dataset cannot be prepared, or is damaged.
        WriteError: the dataset has to be prepared, and no folder can be written.
    """
    builder = tfds_prepare.find_builder(name, data_dir)
    # Before preparing, so that an unusable dataset is not downloaded.
    _find_keys(name, builder)
    if not tfds_prepare.is_prepared(builder):
        builder = tfds_prepare.prepare(name, data_dir)
    source = _make_source(name, builder, framing)
    splits = _Splits(source)
    channels = 1 if source.framed or source.stored_channels <= 2 else 3
    size = images.FRAME_SIZE if source.framed else source.size
    augment = catalog.HANDWRITING if source.framed else source.entry.augment

    def read(split: str, image_size: int = 0) -> ImageSet:
        return _read(source, splits, split, image_size)

    return Dataset(name, source.class_names, channels, size, augment, read, splits.check_test)


def _find_keys(name: str, builder: tfds.core.DatasetBuilder) -> tuple[str, str]:
    """Return the keys of the image and of the label."""
    features = builder.info.features
    is_dict = isinstance(features, tfds.features.FeaturesDict)
    kinds: dict[str, Any] = dict(features.items()) if is_dict else {}
    pictures = [key for key, kind in kinds.items() if type(kind) is tfds.features.Image]
    labels = [key for key, kind in kinds.items() if isinstance(kind, tfds.features.ClassLabel)]
    supervised: tuple[Any, ...] = builder.info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in pictures and supervised[1] in labels:
        pictures, labels = [supervised[0]], [supervised[1]]
    if len(pictures) != 1 or len(labels) != 1:
        found = ", ".join(f"{key} ({type(kind).__name__})" for key, kind in kinds.items())
        raise UsageError(
            f"dataset '{name}' has no classified images. It needs one Image and one ClassLabel,"
            f" and has {found or type(features).__name__}"
        )
    if kinds[pictures[0]].np_dtype != np.uint8:
        raise UsageError(
            f"dataset '{name}' has images of {np.dtype(kinds[pictures[0]].np_dtype)}. Only uint8"
            " is supported"
        )
    return pictures[0], labels[0]


def _make_source(name: str, builder: tfds.core.DatasetBuilder, framing: str) -> Source:
    image_key, label_key = _find_keys(name, builder)
    # The full name, because "emnist" means "emnist/byclass", and "mnist:3.0.1" means "mnist".
    config = builder.builder_config.name if builder.builder_config else ""
    full_name = f"{builder.name}/{config}" if config else builder.name
    entry = catalog.find(full_name)
    height, width, channels = builder.info.features[image_key].shape
    names = tuple(builder.info.features[label_key].names or ())
    class_names = entry.class_names or catalog.own_names(full_name, names)
    if len(class_names) < 2:
        raise DataError(f"dataset '{name}' has {len(class_names)} classes. At least two are needed")
    return Source(
        name,
        builder,
        entry,
        catalog.is_framed(entry, framing),
        image_key,
        label_key,
        channels or 3,
        height if height and height == width else 0,
        class_names,
    )


class _Splits:
    """The training and the test split of a dataset. Labels are read when they are needed.

    Attributes:
        train: the training split's name.
        is_carved: whether the test split is a part of the training split.
    """

    def __init__(self, source: Source):
        """Find the names of the splits. A missing split raises a DataError."""
        self._source = source
        self.train, self._tests = _choose_splits(source)
        self.is_carved = not self._tests

    def check_test(self) -> None:
        """Check the labels of the test split; see `Dataset.check_test`."""
        # The labels of a carved test split are checked with the training split's.
        if not self.is_carved:
            self._labelled_test_split  # noqa: B018

    @property
    def test(self) -> str:
        """The test split's name. Labels are read only if there are several candidates."""
        return self._tests[0] if len(self._tests) == 1 else self._labelled_test_split

    @functools.cached_property
    def _labelled_test_split(self) -> str:
        """The name of the first candidate with labels. A DataError is raised if none has labels."""
        for number, split in enumerate(self._tests):
            labels = _read_labels(self._source, split)
            if _is_unlabelled(labels):
                continue
            _check_labels(self._source, split, labels)
            if number:
                unlabelled = " and ".join(repr(one) for one in self._tests[:number])
                name = self._source.name
                LOG.info("%s: tested on '%s', because %s has no labels", name, split, unlabelled)
            return split
        raise _unlabelled_error(self._source, self._tests)

    @functools.cached_property
    def carved(self) -> np.ndarray:
        """Mask of the test examples in the training split, (examples,) bool."""
        return choose_test(
            _check_labels(self._source, self.train, _read_labels(self._source, self.train))
        )


def _choose_splits(source: Source) -> tuple[str, list[str]]:
    """Return the name of the training split, and the candidates for the test split, best first."""
    there = [split for split, info in source.builder.info.splits.items() if info.num_examples]
    if source.name in catalog.DATASETS or "train" not in there:
        wanted = source.entry.splits
    else:
        wanted = ("train", next((split for split in _TEST_SPLITS if split in there), ""))
    missing = [split for split in wanted if split and split not in there]
    if missing:
        raise DataError(
            f"dataset '{source.name}' in {source.builder.data_dir} has no split"
            f" {' and no '.join(missing)}. It has {', '.join(there) or 'none'}"
        )
    others = [split for split in _TEST_SPLITS if split in there and split not in wanted]
    return wanted[0], [wanted[1], *others] if wanted[1] else []


def _read(source: Source, splits: _Splits, split: str, image_size: int) -> ImageSet:
    """Decode one split; see `Dataset.read`."""
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}")
    stored = splits.train if split == "train" or splits.is_carved else splits.test
    chosen = splits.carved == (split == "test") if splits.is_carved else None
    count = source.builder.info.splits[stored].num_examples if chosen is None else chosen.sum()
    size = images.FRAME_SIZE if source.framed else source.size or image_size
    if not size:
        raise ValueError(f"the images of '{source.name}' differ in size: image_size is needed")
    channels = 1 if source.framed or source.stored_channels <= 2 else 3
    pictures = allocate((int(count), size, size, channels))
    labels = np.empty(int(count), np.int64)
    done = 0
    for part, part_labels in _read_batches(source, stored, chosen, size):
        if done + len(part) > count:
            break
        pictures[done : done + len(part)] = part
        labels[done : done + len(part)] = part_labels
        done += len(part)
    if done != count:
        raise unreadable_error(source, f"it does not have the {count} examples that it declares")
    return ImageSet(pictures, _check_labels(source, stored, labels))


def _check_labels(source: Source, split: str, labels: np.ndarray) -> np.ndarray:
    """Return labels that start from 0. A label that is no class raises a DataError."""
    if _is_unlabelled(labels):
        raise _unlabelled_error(source, [split])
    labels = labels - source.entry.first_label
    count = len(source.class_names)
    wrong = (labels < 0) | (labels >= count)
    if wrong.any():
        value = labels[wrong][0] + source.entry.first_label
        raise DataError(
            f"dataset '{source.name}' in {source.builder.data_dir} has the label {value}, outside"
            f" its {count} classes ({wrong.sum()} of {len(labels)} examples of split '{split}')."
            " Choose another dataset"
        )
    return labels


def _is_unlabelled(labels: np.ndarray) -> bool:
    return bool(len(labels) and (labels == _NO_LABEL).all())


def _unlabelled_error(source: Source, splits: list[str]) -> DataError:
    return DataError(
        f"dataset '{source.name}' in {source.builder.data_dir} has no labels in its split"
        f" {' and '.join(map(repr, splits))} (all are {_NO_LABEL}). Choose another dataset, or"
        " folder:PATH with labelled images"
    )


def _read_labels(source: Source, stored: str) -> np.ndarray:
    """Return the stored labels of a split, (examples,) int64."""
    return np.concatenate(
        [part for _, part in read_examples(source, stored, None, labels_only=True)]
        or [np.empty(0, np.int64)]
    )


def _read_batches(
    source: Source, stored: str, chosen: np.ndarray | None, size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield images, (batch, size, size, channels) uint8, and labels, (batch,) int64."""
    for part, labels in read_examples(source, stored, chosen, size=size):
        if source.stored_channels in (2, 4):
            part = images.composite(part[..., :-1], part[..., -1:])
        if source.entry.transposed:
            part = part.transpose(0, 2, 1, 3)
        yield (images.frame(part) if source.framed else part), labels
