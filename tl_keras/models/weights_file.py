"""Weights from files: our own, and those that Keras writes, taken as tensors and nothing else.

Read are our own files (`weights.save`, `model_file.save`), Keras 3's `.weights.h5` and `.keras`,
and the older `.h5` of Keras 2, of weights alone or of a whole model. Nothing that a file says is
run, and what it holds is compared with the model before any of it is read.
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
from tl_keras.models.preprocessing import Preprocessing
from tl_keras.models.weights import Origin, Weights, parse_origin

LOG = logging.getLogger(__name__)

# The state of what a model was trained with.
OPTIMIZER = ("optimizer/", "optimizer_weights/")

REMEDY = (
    "give its weights alone, such as the model.weights.h5 inside of a .keras file, and say by"
    " --source_preprocessing what is to be done instead"
)

MAX_SHOWN = 8


class Wanted(NamedTuple):
    """What a model has a place for."""

    shape: tuple[int, ...]
    dtype: np.dtype


class WeightsFile:
    """A weights file whose structure was looked at, and none of whose tensors was read.

    Attributes:
        path: of the file.
        origin: what our own files, and our `.keras` files, say of where their weights come from;
            None for those of others.
        sha256: of the file's bytes.
    """

    def __init__(self, path: Path, flag: str, sha256: str = ""):
        """Look at a file.

        Args:
            path: the file.
            flag: what named it, for errors, such as "--source_weights=a.h5".
            sha256: what the file's is to be; "" where nobody knows.

        Raises:
            DataError: there is no such file, it is not one of weights, it is damaged, not stored
                as Keras stores weights, or not the one that was meant.
        """
        self.path = path
        self._flag = flag
        try:
            file_kind.check_path(path)
            self._opened = self._size_and_time()
            if sha256:
                self._check_hash(sha256)
            # A file that its user knows to be the right one has no need of a process of its own.
            self._structure = file_structure.read(path, trusted=bool(sha256))
            self.origin = parse_origin(self._structure.description)
            # Last, because it takes long where somebody gives a disk image by mistake.
            self.sha256 = sha256.lower() or self._hash()
        except OSError as error:
            raise DataError(f"{flag} cannot be read: {error.strerror or error}") from error
        except DataError as error:
            raise DataError(f"{flag} {error}") from error.__cause__
        self._preprocessing = self._find_preprocessing()

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What the network's first layer with weights sees of pixels.

        None where the file does not say it, and for our own weights with that of the catalog.
        """
        return self.origin.preprocessing if self.origin else self._preprocessing.preprocessing

    @property
    def passed(self) -> tuple[str, ...]:
        """Names of the layers before the first with weights that act in training only."""
        return self._preprocessing.passed

    def read(self, model: keras.Model) -> Weights:
        """Return the tensors that `model` has a place for, by its names, as float32 or integers.

        Numbers of 16 bits become those of 32, and those of 64 are rounded to them. Of our own
        files, that is the body and the source's head; of all others the body alone, and the
        constants of a Normalization are the model's: how images are prepared is up to the model.

        Args:
            model: one that `building.build` made; it is not changed.

        Raises:
            DataError: tensors of the body are missing, of another shape, or not finite numbers;
                our own file has tensors that the model has no place for; a file of others describes
                another network, or a preprocessing that cannot become part of the model.
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
                f"is not the file that --source_weights_sha256={sha256} means: its own is {found}."
                " Download it again, or, where you trust it as it is, give its own"
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
            raise DataError(f"{self._flag} has changed while it was read: start again")

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
            # By order, so one too many or too few could put a shift where a scale belongs.
            if len(layers.get(layer, [])) == len(of_layer)
            for name, path in zip(of_layer, layers[layer], strict=True)
        }

    def _check_fits(
        self, model: keras.Model, wanted: dict[str, Wanted], found: dict[str, str]
    ) -> None:
        """Raise DataError with all that is missing, or of another shape or kind."""
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
            has = _shortened(map(repr, sorted(self._structure.tensors))) or "nothing"
            raise DataError(
                f"{self._flag} does not fit --model={model.name}, in {len(wrong)} of"
                f" {len(wanted)} tensors: it has {_shortened(wrong)}. It holds {has}. Choose the"
                " --model, --image_size and --dense_units it was made with"
            )

    def _find_preprocessing(self) -> file_preprocessing.InputPreprocessing:
        """Return what a file of others says that its network does to pixels."""
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
        """Raise DataError where a file of others describes what our model cannot be."""
        layers, unknown = self._structure.layers, self._preprocessing.unknown
        if isinstance(layers, str):
            raise DataError(f"{self._flag} describes its model so that {layers}: {REMEDY}")
        if unknown:
            raise DataError(f"{self._flag} prepares its images by {unknown}: {REMEDY}")
        if layers is None:
            return
        try:
            file_network.check(layers, self._preprocessing.images, self._structure, model)
        except DataError as error:
            raise DataError(f"{self._flag} {error}") from error

    def _check_rest(self, rest: set[str]) -> None:
        """Say which tensors are not taken over; our own files have none."""
        names = sorted(path for path in rest if not path.startswith(OPTIMIZER))
        if names and self.origin:
            raise DataError(
                f"{self._flag} has {_shortened(map(repr, names))}, for which"
                f" {self.origin.model} has no place"
            )
        if names:
            listed = _shortened(map(repr, names))
            LOG.info("%s: skipped %d tensors: %s", self._flag, len(names), listed)

    def _log_converted(self, wanted: dict[str, Wanted], found: dict[str, str]) -> None:
        kinds = {name: np.dtype(self._structure.tensors[found[name]].dtype) for name in wanted}
        names = [name for name, one in wanted.items() if kinds[name] != one.dtype]
        if names:
            listed = _shortened(f"{name!r} from {kinds[name]}" for name in names)
            LOG.info("%s: converted %d tensors: %s", self._flag, len(names), listed)

    def _read_tensor(self, path: str, name: str, wanted: Wanted) -> np.ndarray:
        """Read a tensor."""
        shape, dtype, start = self._structure.tensors[path]
        try:
            count = math.prod(shape)
            value = np.fromfile(self.path, dtype, count, offset=start).reshape(shape)
            # What is too large for 32 bits becomes infinite, and is refused as such.
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
    """Return what our own file has to hold: a head with a column for each of its own classes."""
    columns = len(origin.class_names)
    of_source = {}
    for name, (shape, dtype) in wanted.items():
        if not name.startswith(f"{HEAD}/"):
            of_source[name] = Wanted(shape, dtype)
        elif columns:
            of_source[name] = Wanted((*shape[:-1], columns), dtype)
    return of_source


def _fits(found: np.dtype, wanted: np.dtype) -> bool:
    """Return whether numbers of one kind can be taken for those of another."""
    return found.kind == "f" if wanted.kind == "f" else found.kind in "iu"


def _shortened(texts: Iterable[str]) -> str:
    every = list(texts)
    more = f" and {len(every) - MAX_SHOWN} more" if len(every) > MAX_SHOWN else ""
    return "; ".join(every[:MAX_SHOWN]) + more
