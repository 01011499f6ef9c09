"""Turn the stored labels of a dataset of tensorflow-datasets into indices of its classes."""

import numpy as np

from tl_keras.data import catalog
from tl_keras.data.tfds_examples import Source, read_labels
from tl_keras.errors import DataError

# The label that tfds writes for an example without one.
_NO_LABEL = -1
_NO_TEXT = b""


def find_classes(source: Source, full_name: str, train: str) -> Source:
    """Return a source with its classes: those that are declared, or the values of the label.

    Args:
        source: without classes.
        full_name: of the dataset, with its configuration.
        train: the training split, whose labels are read if no classes are declared.

    Raises:
        DataError: there are fewer than two classes, or the label has no classes.
    """
    declared, values = source.features.class_names, None
    if declared is not None:
        names = source.entry.class_names or catalog.own_names(full_name, declared)
    else:
        values = _find_values(source, train)
        texts = [_show(value) for value in values]
        is_text = source.features.is_text
        names = tuple(texts if is_text else (f"{full_name}/{text}" for text in texts))
        names = catalog.own_names(full_name, names)
    if len(names) < 2:
        raise DataError(
            f"dataset '{source.name}' has {len(names)} classes. At least two are needed"
        )
    return source._replace(class_names=names, values=values)


def check_labels(source: Source, split: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as indices of classes, (examples,) int64.

    Raises:
        DataError: a label is no class.
    """
    if is_unlabelled(source, labels):
        raise unlabelled_error(source, [split])
    if source.values is None:
        indices = labels - source.entry.first_label
        wrong = (indices < 0) | (indices >= len(source.class_names))
        outside, way_out = (
            f"outside its {len(source.class_names)} classes",
            "Choose another dataset",
        )
    else:
        indices = np.minimum(np.searchsorted(source.values, labels), len(source.values) - 1)
        wrong = source.values[indices] != labels
        outside = "which no training example has"
        way_out = f"Choose other splits by --{source.prefix}train_split"
    if wrong.any():
        value = labels[wrong][0]
        shown = repr(_show(value)) if source.features.is_text else value
        raise DataError(
            f"dataset '{source.name}' in {source.builder.data_dir} has the label {shown}, {outside}"
            f" ({wrong.sum()} of {len(labels)} examples of split '{split}'). {way_out}"
        )
    return indices.astype(np.int64)


def is_unlabelled(source: Source, labels: np.ndarray) -> bool:
    """Return whether no example has a label."""
    missing = _NO_TEXT if source.features.is_text else _NO_LABEL
    is_class = source.values is not None and missing in source.values
    return len(labels) > 0 and not is_class and bool((labels == missing).all())


def unlabelled_error(source: Source, splits: list[str]) -> DataError:
    """Return the error for splits without labels."""
    missing = "empty" if source.features.is_text else _NO_LABEL
    return DataError(
        f"dataset '{source.name}' in {source.builder.data_dir} has no labels in its split"
        f" {' and '.join(map(repr, splits))} (all are {missing}). Choose another dataset, or"
        " folder:PATH with labelled images"
    )


def _find_values(source: Source, train: str) -> np.ndarray:
    """Return the distinct labels of the training split, sorted."""
    labels = read_labels(source, train)
    if is_unlabelled(source, labels):
        raise unlabelled_error(source, [train])
    values = np.unique(labels)
    flag = f"--{source.prefix}label_key={'/'.join(source.features.label_key)}"
    if source.features.is_text and _NO_TEXT in values:
        raise DataError(
            f"{flag} is empty for {(labels == _NO_TEXT).sum()} of {len(labels)} examples of split"
            f" '{train}' of dataset '{source.name}'. Choose another feature, or another"
            f" --{source.prefix}train_split"
        )
    if 2 < len(values) == len(labels):
        raise DataError(
            f"{flag} is different for all {len(labels)} examples of split '{train}' of dataset"
            f" '{source.name}', so it has no classes. Choose another feature"
        )
    return values


def _show(value: int | bytes) -> str:
    """Return a label in printable characters."""
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
