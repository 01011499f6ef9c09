"""Parse the structure of an untrusted weights file, without reading its tensors.

HDF5's C library loops for ever on about one in a thousand files with damaged internal tables (30 of
30,000 files that we damaged at random), and Python code cannot interrupt it. So a separate process
with limited memory and CPU time parses the file, and returns the location of each tensor. The
tensors are then read from these locations without the library.
"""

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
from io import RawIOBase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import h5py
import numpy as np

from tl_keras.errors import DataError
from tl_keras.models import file_config, model_file
from tl_keras.models.file_config import Node
from tl_keras.models.file_kind import REMEDY, START_BYTES, describe_other_file

RESAVE = f"If you have the model, {REMEDY}"

HDF5_START = b"\x89HDF\r\n\x1a\n"
ARCHIVE_START = b"PK\x03\x04"

# The attributes of origins and layers. All other attributes are ignored.
OWN = "tl_keras"
TEXTS = re.compile(rf"{OWN}|name|(layer|weight)_names\d*")
# The attribute with the layers of a whole model, at the root of a .h5 file.
CONFIG = "model_config"
MAX_NAME_LENGTH = 1000

MEMORY_BYTES = 2**29
# Minimum and maximum. The minimum is enough for a megabyte. Larger files may have thousands of
# layers, with a kilobyte or more for each, and an archive's checksum is computed over all of it.
CPU_SECONDS = (0.7, 10.0)
STRUCTURE_BYTES_PER_SECOND = 2**21
CHECKSUM_BYTES_PER_SECOND = 2**28
# Only a disk or a network that does not respond takes so long.
TIMEOUT_SECONDS = 60.0


class TensorLocation(NamedTuple):
    """The location of a contiguous tensor in a file.

    Attributes:
        shape: of the tensor.
        dtype: such as "<f4".
        start: of its first byte, counted from the file's first.
    """

    shape: tuple[int, ...]
    dtype: str
    start: int


class Structure(NamedTuple):
    """The structure of a file.

    Attributes:
    tensors: by their path in the HDF5 file, such as "layers/conv2d/vars/0".
    texts: attributes of groups, by path and name of the attribute.
    description: the JSON that tl_keras wrote about the origin of the weights; "" in foreign
        files.
    layers: of the model that a foreign file describes, or the reason why they cannot be read;
        None without a description, and in our own files.
    """

    tensors: dict[str, TensorLocation]
    texts: dict[str, dict[str, list[str]]]
    description: str
    layers: list[Node] | str | None = None


class _FileSlice(RawIOBase):
    """A part of a file as a file object: the HDF5 file inside an archive."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set the position, and return it."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` up to the end of the part, and return the number of bytes."""
        view = memoryview(buffer)
        wanted = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def read(path: Path, *, trusted: bool = False) -> Structure:
    """Return the structure of a `.h5` or `.keras` file, parsed in a separate process.

    Args:
        path: an existing file.
        trusted: parse it in this process, which saves a fifth of a second.

    Raises:
        DataError: the file has another format, is damaged, or is not stored as Keras stores
            weights. The message continues the file's name.
    """
    if trusted:
        return inspect(path)
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    # Several threads would need more memory, and are not useful.
    environment = {"PYTHONPATH": os.pathsep.join(paths), "OPENBLAS_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(path)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **environment},
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"was not read within {TIMEOUT_SECONDS:.0f} seconds. Copy it to a local disk"
        ) from None
    except OSError as error:
        raise DataError(f"cannot be parsed: {error.strerror or error}") from error
    if done.returncode:
        raise DataError(
            f"is damaged or malicious ({_describe_exit(done)}). If you trust it, {REMEDY}"
        )
    answer = json.loads(done.stdout)
    if isinstance(answer, str):
        raise DataError(answer)
    tensors = {
        path: TensorLocation(tuple(shape), *rest) for path, (shape, *rest) in answer[0].items()
    }
    texts, description, layers = answer[1:]
    if isinstance(layers, list):
        layers = [Node(*node) for node in layers]
    return Structure(tensors, texts, description, layers)


def _describe_exit(done: subprocess.CompletedProcess[bytes]) -> str:
    """Describe how the parsing process ended."""
    if done.returncode == -signal.SIGPROF:
        return "parsing its structure takes too long"
    if done.returncode < 0:
        return f"parsing its structure ended with signal {-done.returncode}"
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return ascii(last[:200])


def main() -> None:
    """Print the structure of the file in the first argument as JSON, or why it is refused."""
    path = Path(sys.argv[1])
    _limit(path.stat().st_size)
    try:
        answer: Structure | str = inspect(path)
    except DataError as error:
        answer = str(error)
    print(json.dumps(answer))


def _limit(file_size: int) -> None:
    """Limit the memory and CPU time of this process. Exceeding them ends it at once."""
    import resource  # Unix has it

    # macOS does not support this limit.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # CPU time, not wall time, so that a busy machine makes no difference. The default action of the
    # signal needs no Python code, so it ends the C library's loops too.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    min_seconds, max_seconds = CPU_SECONDS
    seconds = min(min_seconds + file_size / STRUCTURE_BYTES_PER_SECOND, max_seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds + file_size / CHECKSUM_BYTES_PER_SECOND)


def inspect(path: Path) -> Structure:
    """Return the structure of a file, parsed in this process; see `read`."""
    try:
        with path.open("rb") as file:
            start = file.read(START_BYTES)
            size = path.stat().st_size
            if start.startswith(HDF5_START):
                return _inspect_hdf5(file, model_file.Member(0, size, ""))
            if start.startswith(ARCHIVE_START):
                return _inspect_hdf5(file, model_file.find_weights(file, size))
    except (DataError, KeyboardInterrupt):
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, TypeError and others
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"is damaged ({ascii(reason[:200])}). {RESAVE}") from error
    raise DataError(describe_other_file(start, path))


def _inspect_hdf5(file: BinaryIO, member: model_file.Member) -> Structure:
    with h5py.File(_FileSlice(file, member.start, member.size), "r") as opened:
        found = _Walker(member.start, member.size)
        found.visit_all(opened)
    own = found.texts[""].get(OWN, [])
    config = "".join(found.texts[""].pop(CONFIG, [])[:1])
    description = member.description or "".join(own[:1])
    layers = member.layers
    if config and not description:
        layers = _read_layers(config)
    return Structure(found.tensors, found.texts, description, layers)


def _read_layers(config: str) -> list[Node] | str:
    """Return the layers in the model configuration of a .h5 file."""
    if len(config) > model_file.MAX_TEXT_BYTES:
        raise DataError(f"has a {CONFIG} of {len(config):,} bytes")
    try:
        return file_config.read(json.loads(config))
    except ValueError as error:
        return f"its {CONFIG} is not JSON ({ascii(str(error)[:100])})"


class _Walker:
    """Walks through an HDF5 file without following links."""

    def __init__(self, start: int, size: int):
        """Walk through a file of `size` bytes that starts at byte `start` of another file."""
        self.tensors: dict[str, TensorLocation] = {}
        self.texts: dict[str, dict[str, list[str]]] = {}
        self._start, self._size = start, size
        self._declared = self._name_length = 0

    def visit_all(self, file: h5py.File) -> None:
        """Visit every object once.

        Raises:
            DataError: an object is not one that Keras writes.
        """
        seen = {h5py.h5o.get_info(file["/"].id).addr}
        waiting: list[tuple[str, h5py.Group]] = [("", file["/"])]
        while waiting:
            place, group = waiting.pop()
            self.texts[place] = self._read_texts(group, place)
            for name in group:
                path = f"{place}/{name}" if place else name
                self._count([path])
                if type(group.get(name, getlink=True)) is not h5py.HardLink:
                    raise DataError(f"has a link at {path!r}. Links are not followed")
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    raise DataError(f"has {path!r} under two names. {RESAVE}")
                seen.add(address)
                if isinstance(item, h5py.Group):
                    waiting.append((path, item))
                elif isinstance(item, h5py.Dataset):
                    self.tensors[path] = self._locate(item, path)
                else:
                    raise DataError(f"has {path!r}, which is no tensor. {RESAVE}")

    def _count(self, names: list[str], max_length: int = MAX_NAME_LENGTH) -> None:
        """Refuse a file whose names are longer in total than the file, because they are shared."""
        self._name_length += sum(map(len, names))
        if self._name_length > self._size or max(map(len, names)) > max_length:
            raise DataError(f"has names that are too long. {RESAVE}")

    def _locate(self, dataset: h5py.Dataset, path: str) -> TensorLocation:
        """Return the location of a tensor. It must be contiguous, uncompressed and in this file."""
        layout = dataset.id.get_create_plist()
        if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
            raise DataError(
                f"has {path!r} in chunks, compressed or in another file, and Keras stores tensors"
                f" contiguously. {RESAVE}"
            )
        dtype = dataset.dtype
        # The bytes are read without the library, so the stored type must equal numpy's.
        plain = dtype.kind in "fiu" and dataset.id.get_type().equal(h5py.h5t.py_create(dtype))
        if not plain or dataset.shape is None:
            raise DataError(f"has {path!r} of {dtype}, and tensors have plain numbers. {RESAVE}")
        size = math.prod(dataset.shape) * dtype.itemsize
        start = dataset.id.get_offset() if size else 0
        self._declared += size
        if start is None or start + size > self._size or self._declared > self._size:
            raise DataError(
                f"has {path!r} of {size:,} bytes, more than the file of {self._size:,} bytes holds"
            )
        return TensorLocation(dataset.shape, dtype.str, self._start + start)

    def _read_texts(self, group: h5py.Group, place: str) -> dict[str, list[str]]:
        """Return the attributes that describe layers: a string, or a list of strings."""
        found: dict[str, list[str]] = {}
        for name in group.attrs:
            if not TEXTS.fullmatch(name) and (place or name != CONFIG):
                continue
            attribute = group.attrs.get_id(name)
            # An empty list of names is saved as an empty list of numbers.
            if not math.prod(attribute.shape):
                found[name] = []
                continue
            is_text = isinstance(attribute.get_type(), h5py.h5t.TypeStringID)
            if not is_text or attribute.get_storage_size() > self._size:
                raise DataError(f"has an attribute {name!r} of '/{place}' that is not text")
            values = np.ravel(group.attrs[name])
            texts = [one.decode() if isinstance(one, bytes) else str(one) for one in values]
            self._count(texts, self._size if name in (OWN, CONFIG) else MAX_NAME_LENGTH)
            found[name] = texts
        return found


if __name__ == "__main__":
    main()
