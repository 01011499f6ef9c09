"""Read weights from our own files and from files of Keras.

Supported are our own files (`weights.save`, `model_file.save`), `.weights.h5` and `.keras` of Keras
3, and `.h5` of Keras 2, with weights alone or a whole model. Foreign weight files are parsed as
tensors only. No code in them is executed. The structure is compared with the model before any
tensor is read.
"""

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from tl_keras.config.preprocessing import Preprocessing
from tl_keras.errors import DataError
from tl_keras.models import (
    file_config,
    file_kind,
    file_layers,
    file_network,
    file_preprocessing,
    file_structure,
)
from tl_keras.models.building import HEAD, named_weights
from tl_keras.models.naming import named_layers
from tl_keras.models.weights import Origin, Weights, parse_origin, shorten_list

LOG = logging.getLogger(__name__)

# The state of the optimizer.
OPTIMIZER = ("optimizer/", "optimizer_weights/")

REMEDY = (
    "Give its weights alone, such as the model.weights.h5 inside of a .keras file, and the"
    " preprocessing as --source_preprocessing"
)

MAX_SHOWN = 8


class Wanted(NamedTuple):
    """The expected shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype


class WeightsFile:
    """A weights file whose structure is parsed, and whose tensors are not read yet.

    Attributes:
        path: of the file.
        origin: the origin of the weights in our own files; None for foreign files.
        sha256: of the file's bytes.
    """

    def __init__(self, path: Path, flag: str, sha256: str = ""):
        """Parse the structure of a file.

        Args:
            path: the file.
            flag: the flag that named it, for errors, such as "--source_weights=a.h5".
            sha256: the expected sha256 of the file, or "".

        Raises:
            DataError: the file does not exist, has no weights, is damaged, is not stored as Keras
                stores weights, or has another sha256.
        """
        self.path = path
        self._flag = flag
        try:
            file_kind.check_path(path)
            self._opened = self._size_and_time()
            if sha256:
                self._check_hash(sha256)
            # A file with the expected sha256 is trusted, and needs no separate process.
            self._structure = file_structure.read(path, trusted=bool(sha256))
            self.origin = parse_origin(self._structure.description)
            # Last, because it takes long for a large file that was given by mistake.
            self.sha256 = sha256.lower() or self._hash()
        except OSError as error:
            raise DataError(f"{flag} cannot be read: {error.strerror or error}") from error
        except DataError as error:
            raise DataError(f"{flag} {error}") from error.__cause__
        self._preprocessing = self._find_preprocessing()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing in front of the network's first layer with weights.

        None if the file does not contain it, and for our own weights with the catalog's
        preprocessing.
        """
        return self.origin.preprocessing if self.origin else self._preprocessing.preprocessing

    @property
    def passed(self) -> tuple[str, ...]:
        """Names of training-only layers in front of the first layer with weights."""
        return self._preprocessing.passed

    def read(self, model: keras.Model) -> Weights:
        """Return the tensors of `model`, by its names, as float32 or integers.

        Numbers of 16 bits are extended to 32 bits, and numbers of 64 bits are rounded. Our own
        files give the body and the source's head. Foreign files give the body alone, and the
        constants of a Normalization are the model's own.

        Args:
            model: from `building.build`. It is not changed.

        Raises:
            DataError: tensors of the body are missing, have another shape, or are not finite; our
                own file has tensors that the model does not have; a foreign file describes another
                network or an unsupported preprocessing.
        """
        wanted = {
            name: Wanted(tuple(one.shape), np.dtype(one.dtype))
            for name, one in named_weights(model).items()
        }
        if self.origin:
            wanted = _replace_head(self.origin, wanted)
            kept = {}
        else:
            kept = _normalization_tensors(model)
            wanted = {
                name: one
                for name, one in wanted.items()
                if name not in kept and not name.startswith(f"{HEAD}/")
            }
        found = self._find_tensors(model, wanted)
        self._check_fits(model, wanted, found)
        self._check_network(model)
        self._check_rest(set(self._structure.tensors) - set(found.values()))
        self._log_converted(wanted, found)
        tensors = {name: self._read_tensor(found[name], name, one) for name, one in wanted.items()}
        self._check_unchanged()
        return Weights({**tensors, **kept}, self.origin)

    def _check_hash(self, sha256: str) -> None:
        found = self._hash()
        if found != sha256.lower():
            raise DataError(
                f"does not have the sha256 of --source_weights_sha256={sha256}, but {found}."
                " Download it again, or, if you trust the file, give its own sha256"
            )

    def _hash(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _size_and_time(self) -> tuple[int, int]:
        found = self.path.stat()
        return found.st_size, found.st_mtime_ns

    def _check_unchanged(self) -> None:
        try:
            unchanged = self._opened == self._size_and_time()
        except OSError:
            unchanged = False
        if not unchanged:
            raise DataError(f"{self._flag} has changed while it was read. Start again")

    def _find_tensors(self, model: keras.Model, wanted: Iterable[str]) -> dict[str, str]:
        """Return the path in the file of each wanted tensor that it has."""
        try:
            layers = file_layers.find_layers(self._structure, model)
        except DataError as error:
            raise DataError(f"{self._flag} {error}") from error
        if layers is None:
            return {name: name for name in wanted if name in self._structure.tensors}
        names = defaultdict(list)
        for name in wanted:
            names[name.rpartition("/")[0]].append(name)
        return {
            name: path
            for layer, of_layer in names.items()
            # Matching is by order, so with another number of tensors, an offset could become a
            # scale.
            if len(layers.get(layer, [])) == len(of_layer)
            for name, path in zip(of_layer, layers[layer], strict=True)
        }

    def _check_fits(
        self, model: keras.Model, wanted: dict[str, Wanted], found: dict[str, str]
    ) -> None:
        """Raise DataError with all tensors that are missing, or have another shape or dtype."""
        wrong = []
        for name, (shape, dtype) in wanted.items():
            stored = self._structure.tensors.get(found.get(name, ""))
            if stored is None:
                wrong.append(f"no {name!r} of {shape}")
            elif stored.shape != shape:
                wrong.append(f"{name!r} of {stored.shape} and not {shape}")
            elif not _fits(np.dtype(stored.dtype), dtype):
                wrong.append(f"{name!r} of {np.dtype(stored.dtype)} and not {dtype}")
        if wrong:
            has = _list_texts(map(repr, sorted(self._structure.tensors))) or "nothing"
            raise DataError(
                f"{self._flag} does not fit --model={model.name}, in {len(wrong)} of {len(wanted)}"
                f" tensors: it has {_list_texts(wrong)}. It holds {has}. Choose the --model,"
                " --image_size and --dense_units that it was saved with"
            )

    def _find_preprocessing(self) -> file_preprocessing.InputPreprocessing:
        """Return the preprocessing that a foreign file describes."""
        layers = self._structure.layers
        return file_preprocessing.find(
            layers if isinstance(layers, list) else [], self._read_constants
        )

    def _read_constants(self, layer: str) -> list[list[float]] | None:
        """Return the tensors of a Normalization in the file."""
        paths = file_layers.find_tensors(self._structure, layer)
        if paths is None:
            return None
        found = []
        for path in paths[:2]:
            shape, dtype, _ = self._structure.tensors[path]
            if math.prod(shape) > file_config.MAX_VALUES or dtype[1] != "f":
                return None
            wanted = Wanted(shape, np.dtype("float64"))
            found.append(self._read_tensor(path, path, wanted).ravel().tolist())
        return found

    def _check_network(self, model: keras.Model) -> None:
        """Raise DataError if a foreign file describes a network that differs from our model."""
        layers, unknown = self._structure.layers, self._preprocessing.unknown
        if isinstance(layers, str):
            raise DataError(
                f"{self._flag} has a description of its model that cannot be read: {layers}."
                f" {REMEDY}"
            )
        if unknown:
            raise DataError(f"{self._flag} has unsupported preprocessing: {unknown}. {REMEDY}")
        if layers is None:
            return
        try:
            file_network.check(layers, self._preprocessing.images, self._structure, model)
        except DataError as error:
            raise DataError(f"{self._flag} {error}") from error

    def _check_rest(self, rest: set[str]) -> None:
        """Log the tensors that are skipped. In our own files, they raise a DataError."""
        names = sorted(path for path in rest if not path.startswith(OPTIMIZER))
        if names and self.origin:
            raise DataError(
                f"{self._flag} has {_list_texts(map(repr, names))}, which {self.origin.model} does"
                " not have"
            )
        if names:
            listed = _list_texts(map(repr, names))
            LOG.info("%s: skipped %d tensors: %s", self._flag, len(names), listed)

    def _log_converted(self, wanted: dict[str, Wanted], found: dict[str, str]) -> None:
        kinds = {name: np.dtype(self._structure.tensors[found[name]].dtype) for name in wanted}
        names = [name for name, one in wanted.items() if kinds[name] != one.dtype]
        if names:
            listed = _list_texts(f"{name!r} from {kinds[name]}" for name in names)
            LOG.info("%s: converted %d tensors: %s", self._flag, len(names), listed)

    def _read_tensor(self, path: str, name: str, wanted: Wanted) -> np.ndarray:
        """Read a tensor."""
        shape, dtype, start = self._structure.tensors[path]
        try:
            count = math.prod(shape)
            value = np.fromfile(self.path, dtype, count, offset=start).reshape(shape)
            # A number too large for 32 bits becomes infinite, and is refused below.
            with np.errstate(over="ignore"):
                tensor = value.astype(wanted.dtype, copy=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{self._flag}: {name!r} cannot be read: {error}") from error
        if not np.isfinite(tensor).all():
            raise DataError(f"{self._flag}: {name!r} holds numbers that are not finite")
        if wanted.dtype.kind in "iu" and not np.array_equal(tensor, value):
            raise DataError(f"{self._flag}: {name!r} holds numbers too large for {wanted.dtype}")
        return tensor


def _normalization_tensors(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the tensors of a model's preprocessing, by name."""
    preparing = [
        name
        for name, layer in named_layers(model).items()
        if isinstance(layer, keras.layers.Normalization)
    ]
    return {
        name: variable.numpy()
        for name, variable in named_weights(model).items()
        if name.rpartition("/")[0] in preparing
    }


def _replace_head(origin: Origin, wanted: dict[str, Wanted]) -> dict[str, Wanted]:
    """Return the expected tensors of our own file. Its head has a column per class of its own."""
    columns = len(origin.class_names)
    of_source = {}
    for name, (shape, dtype) in wanted.items():
        if not name.startswith(f"{HEAD}/"):
            of_source[name] = Wanted(shape, dtype)
        elif columns:
            of_source[name] = Wanted((*shape[:-1], columns), dtype)
    return of_source


def _fits(found: np.dtype, wanted: np.dtype) -> bool:
    """Return whether numbers of one dtype can be converted to another."""
    return found.kind == "f" if wanted.kind == "f" else found.kind in "iu"


def _list_texts(texts: Iterable[str]) -> str:
    return shorten_list(texts, separator="; ", limit=MAX_SHOWN)
