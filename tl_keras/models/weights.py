"""Weights as named tensors: copied between models, hashed and saved.

A tensor's name is `layer/variable`, the same in every process (`naming.named_weights`). Tensors are
copied by name. Rows of the head are copied by class name.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import numpy as np

from tl_keras.config.preprocessing import Preprocessing
from tl_keras.errors import DataError
from tl_keras.models import preprocessing
from tl_keras.models.building import named_body, named_weights
from tl_keras.pictures import picture_format
from tl_keras.pictures.picture_format import PictureFormat
from tl_keras.storage import files

Tensors = Mapping[str, np.ndarray]

HEAD = "head/"
METADATA = "tl_keras"


@dataclass(frozen=True)
class Origin:
    """The origin of weights, for runs that use them as a source.

    Attributes:
        dataset: the training dataset.
        class_names: of the head's columns, in order; empty without a head.
        model: name of the architecture.
        image_size: side in pixels of the training images.
        body_channels: input channels of the body.
        test: accuracy and loss on the dataset's test split; None if they were not measured.
        preprocessing: the preprocessing in front of the first layer with weights; None for the
            catalog's.
        form: the pictures that the model was trained on; None for weights without a head, and in
            files of earlier versions.
    """

    dataset: str
    class_names: tuple[str, ...]
    model: str
    image_size: int
    body_channels: int
    test: dict[str, float] | None = None
    preprocessing: Preprocessing | None = None
    form: PictureFormat | None = None

    def describe(self) -> dict[str, Any]:
        """Return the origin as JSON values, for `parse_origin`."""
        return {**asdict(self), "form": self.form and self.form.describe()}


def parse_origin(description: str) -> Origin | None:
    """Parse the description of the origin in our own file. Return None for "".

    Raises:
        DataError: `save` did not write it. The message continues the file's name.
    """
    if not description:
        return None
    try:
        fields: dict[str, Any] = json.loads(description)
        prepared = preprocessing.from_description(fields.get("preprocessing"))
        names = tuple(fields["class_names"])
        form = fields.get("form") and picture_format.parse(fields["form"])
        parsed = {"class_names": names, "preprocessing": prepared, "form": form}
        origin = Origin(**{**fields, **parsed})
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise DataError(
            f"is damaged: its description cannot be read ({ascii(str(error)[:200])})"
        ) from error
    texts = [origin.dataset, origin.model, *origin.class_names]
    numbers = [origin.image_size, origin.body_channels]
    figures = origin.test if isinstance(origin.test, dict) else {}
    sound = (
        isinstance(fields["class_names"], list)
        and all(isinstance(text, str) for text in texts)
        and (origin.dataset + origin.model).isprintable()
        and all(type(number) is int and number > 0 for number in numbers)
        and len(set(origin.class_names)) == len(origin.class_names)
        and origin.test in (None, figures)
        and all(type(figure) in (int, float) for figure in figures.values())
    )
    if not sound:
        raise DataError("is damaged: its description is not what tl_keras writes")
    return origin


class Weights(NamedTuple):
    """Tensors and their origin, which is None for foreign files."""

    tensors: Tensors
    origin: Origin | None


class CopyReport(NamedTuple):
    """The result of copying weights, for each tensor and for each class's row of the head.

    Attributes:
        copied: copied tensors of the body, without the constants of a Normalization.
        matched: classes whose row of the head was copied by name.
        skipped: tensors and classes of the source that the target does not have.
        fresh: classes of the target that start from fresh weights.
    """

    copied: tuple[str, ...]
    matched: tuple[str, ...]
    skipped: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        """Return four lines for the log."""
        return "\n".join(
            f"  {kind:8}{len(names):4}  {shorten_list(names)}"
            for kind, names in self._asdict().items()
        )


def get_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """Return a copy of every weight of `model` by name."""
    return {name: variable.numpy() for name, variable in named_weights(model).items()}


def assign(model: keras.Model, tensors: Tensors) -> None:
    """Set all weights of `model`. The names and shapes must be equal."""
    names = {id(variable): name for name, variable in named_weights(model).items()}
    model.set_weights([tensors[names[id(variable)]] for variable in model.weights])


def copy(
    source: Weights, model: keras.Model, class_names: tuple[str, ...], head: str, flag: str
) -> CopyReport:
    """Copy `source` into `model` by name, with `set_weights`.

    Args:
        source: the weights to copy.
        model: the destination. It keeps its other weights.
        class_names: of the model's classes, in order.
        head: "match": copy the head's rows of classes with the same name; "new": copy none.
        flag: the flag that named the source, for the error.

    Raises:
        DataError: a tensor of the body is missing or has another shape.
    """
    values = get_tensors(model)
    known = source.origin.class_names if source.origin else ()
    body = [name for name in values if not name.startswith(HEAD)]
    for name in body:
        _check_fits(name, values[name], source, flag)
    values |= {name: source.tensors[name] for name in body}
    matched = [name for name in class_names if name in known] if head == "match" else []
    for name in (f"{HEAD}kernel", f"{HEAD}bias"):
        rows = [known.index(label) for label in matched]
        places = [class_names.index(label) for label in matched]
        if matched:
            values[name][..., places] = source.tensors[name][..., rows]
    assign(model, values)
    unused = [name for name in source.tensors if name not in values]
    learned = named_body(model)
    return CopyReport(
        copied=tuple(name for name in body if name.rpartition("/")[0] in learned),
        matched=tuple(matched),
        skipped=(*unused, *(label for label in known if label not in matched)),
        fresh=tuple(label for label in class_names if label not in matched),
    )


def _check_fits(name: str, wanted: np.ndarray, source: Weights, flag: str) -> None:
    found = source.tensors.get(name)
    layer = name.rpartition("/")[0]
    if found is None:
        raise DataError(
            f"{flag} has no '{name}' of shape {wanted.shape}, which layer '{layer}' needs. It has"
            f" {shorten_list(source.tensors)}. Choose the --model that it was saved from"
        )
    if found.shape != wanted.shape:
        raise DataError(
            f"{flag} has '{name}' of shape {found.shape}, and layer '{layer}' needs"
            f" {wanted.shape}. Choose the --model, --image_size and --dense_units that it was"
            " saved with"
        )


def hash_tensors(tensors: Tensors) -> str:
    """Return the sha256 of the name, dtype, shape and bytes of all tensors, in order of names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name])
        total.update(f"{name} {value.dtype.str} {value.shape}\n".encode())
        total.update(value.tobytes())
    return total.hexdigest()


def save(path: Path, tensors: Tensors, origin: Origin | None = None) -> str:
    """Write tensors to an HDF5 file atomically, and return the file's sha256.

    Raises:
        WriteError: the file cannot be written. An existing file is unchanged.
    """
    # Written to memory first, because HDF5 crashes the process at exit if the disk is full.
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, value in tensors.items():
            file.create_dataset(name, data=value)
        if origin is not None:
            file.attrs[METADATA] = json.dumps(origin.describe())
    return files.write_bytes(path, content.getvalue())


def shorten_list(texts: Iterable[str], separator: str = ", ", limit: int = 12) -> str:
    """Join the first `limit` texts, and add the number of the others."""
    every = list(texts)
    more = f" and {len(every) - limit} more" if len(every) > limit else ""
    return separator.join(every[:limit]) + more
