"""Find the image and the label among the features of a dataset of tensorflow-datasets."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tl_keras.config.tfds import TfdsSelection
from tl_keras.errors import UsageError

# The feature's place in the nested dictionaries of an example.
Key = tuple[str, ...]


class Features(NamedTuple):
    """The features of an image classification dataset.

    Attributes:
        image_key: where an example has its image.
        label_key: where it has its label.
        shape: (height, width, channels) of the images, None where it differs or is not declared.
        dtype: uint8 or uint16.
        class_names: of a ClassLabel; None if the classes are the label's values.
        is_text: whether the label is text.
    """

    image_key: Key
    label_key: Key
    shape: tuple[int | None, int | None, int | None]
    dtype: np.dtype
    class_names: tuple[str, ...] | None
    is_text: bool


def find_features(
    name: str, builder: tfds.core.DatasetBuilder, selection: TfdsSelection, prefix: str
) -> Features:
    """Find the image and the label of a dataset: those of the flags, else the usual ones.

    Args:
        name: of the dataset, for errors.
        builder: of the dataset.
        selection: the features that the flags name.
        prefix: of these flags: "tfds_" or "source_tfds_".

    Raises:
        UsageError: a named feature is missing or of a wrong kind, or none is named and there is no
            single Image or ClassLabel.
    """
    kinds = dict(_list_features(builder.info.features))
    pictures, labels = _find_usual(builder, kinds)
    if selection.image_key:
        flag = f"--{prefix}image_key={selection.image_key}"
        pictures = [_find_named(name, flag, kinds, _is_image, "an Image")]
    if selection.label_key:
        flag, wanted = f"--{prefix}label_key={selection.label_key}", "a class, number or text"
        labels = [_find_named(name, flag, kinds, _is_label, wanted)]
    if len(pictures) != 1 or len(labels) != 1:
        raise UsageError(
            f"dataset '{name}' has no classified images. It needs one Image and one ClassLabel,"
            f" and has {_describe(kinds) or type(builder.info.features).__name__}. If two of these"
            f" are the image and the label, name them by --{prefix}image_key and"
            f" --{prefix}label_key"
        )
    image, label = kinds[pictures[0]], kinds[labels[0]]
    if len(image.shape) != 3 or image.np_dtype not in (np.uint8, np.uint16):
        raise UsageError(
            f"dataset '{name}' has images of {np.dtype(image.np_dtype)} and shape {image.shape}"
            f" ({_join(pictures[0])}). Only uint8 or uint16 and (height, width, channels) is"
            f" supported. Choose another dataset, or another feature by --{prefix}image_key"
        )
    class_names = tuple(label.names or ()) if _is_classes(label) else None
    is_text = class_names is None and label.np_dtype == np.object_
    return Features(
        pictures[0], labels[0], image.shape, np.dtype(image.np_dtype), class_names, is_text
    )


def nest(key: Key, value: Any) -> dict[str, Any]:
    """Return nested dictionaries with a value at a key."""
    return {key[0]: nest(key[1:], value) if key[1:] else value}


def merge(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return nested dictionaries with the content of both."""
    both = {key: merge(first[key], second[key]) for key in first.keys() & second.keys()}
    return {**first, **second, **both}


def get(example: Any, key: Key) -> Any:
    """Return what an example has at a key."""
    for part in key:
        example = example[part]
    return example


def _list_features(features: Any, above: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield every feature that is no dictionary, with its key."""
    if isinstance(features, tfds.features.FeaturesDict):
        for key, kind in features.items():
            yield from _list_features(kind, (*above, key))
    elif above:
        yield above, features


# LabeledImage, an Image too, has classes in its pixels.
def _is_image(kind: Any) -> bool:
    return type(kind) is tfds.features.Image


def _is_classes(kind: Any) -> bool:
    return isinstance(kind, tfds.features.ClassLabel)


def _is_label(kind: Any) -> bool:
    """Return whether a feature is one whole number or one text."""
    is_scalar = isinstance(kind, (tfds.features.Tensor, tfds.features.Scalar)) and kind.shape == ()
    return is_scalar and (kind.np_dtype == np.object_ or np.dtype(kind.np_dtype).kind in "iub")


def _find_usual(
    builder: tfds.core.DatasetBuilder, kinds: dict[Key, Any]
) -> tuple[list[Key], list[Key]]:
    """Return the candidates for the image and for the label: the supervised keys, else all."""
    # Nested features are only used if a flag names them.
    pictures: list[Key] = [key for key, kind in kinds.items() if len(key) == 1 and _is_image(kind)]
    labels: list[Key] = [key for key, kind in kinds.items() if len(key) == 1 and _is_classes(kind)]
    supervised = [(key,) for key in builder.info.supervised_keys or ()]
    if len(supervised) == 2 and supervised[0] in pictures and supervised[1] in labels:
        return [supervised[0]], [supervised[1]]
    return pictures, labels


def _find_named(
    name: str, flag: str, kinds: dict[Key, Any], fits: Callable[[Any], bool], wanted: str
) -> Key:
    """Return the key that a flag, `--NAME=VALUE`, names."""
    given = flag.partition("=")[2]
    key = next((key for key in kinds if _join(key) == given), None)
    if key is None or not fits(kinds[key]):
        found = f"is {_name_kind(kinds[key])} and does not fit" if key else "is no feature"
        fitting = ", ".join(repr(_join(key)) for key, kind in kinds.items() if fits(kind))
        raise UsageError(
            f"{flag} {found} in dataset '{name}'. It takes {wanted}:"
            f" {fitting or 'there is none. There is ' + _describe(kinds)}"
        )
    return key


def _join(key: Key) -> str:
    return "/".join(key)


def _describe(kinds: dict[Key, Any]) -> str:
    return ", ".join(f"{_join(key)} ({_name_kind(kind)})" for key, kind in kinds.items())


def _name_kind(kind: Any) -> str:
    is_number = type(kind) in (tfds.features.Tensor, tfds.features.Scalar)
    shape = f", shape {kind.shape}" if is_number and kind.shape else ""
    return f"{np.dtype(kind.np_dtype)}{shape}" if is_number else type(kind).__name__
