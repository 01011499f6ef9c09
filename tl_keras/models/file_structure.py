"""What a weights file of others holds, found out without trusting it, and without its tensors.

HDF5's C library computes for ever on about one in a thousand files whose inner tables are damaged
(30 of 30,000 that we damaged at random), and no Python code can stop it there. So it looks at a
file in a process of its own, whose memory and computing are limited, and says where each tensor
lies. The tensors are then read from these places without the library.
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

HDF5_START = b"\x89HDF\r\n\x1a\n"
ARCHIVE_START = b"PK\x03\x04"

# What is said of origins and of layers; all other attributes stay unread.
OWN = "tl_keras"
TEXTS = re.compile(rf"{OWN}|name|(layer|weight)_names\d*")
# What a .h5 file of a whole model says of its layers, at its root.
CONFIG = "model_config"
MAX_NAME_LENGTH = 1000

MEMORY_BYTES = 2**29
# Enough for a file of up to a megabyte. In larger ones there may be thousands of layers, with a
# kilobyte or more for each; and an archive's checksum is computed over all of it.
CPU_SECONDS = (0.7, 10.0)
STRUCTURE_BYTES_PER_SECOND = 2**21
CHECKSUM_BYTES_PER_SECOND = 2**28
# Only a disk or a network that does not answer takes so long.
TIMEOUT_SECONDS = 60.0


class TensorLocation(NamedTuple):
    """Where in the file a tensor lies, in one piece: its shape, numpy's name of its dtype, bytes.

    Attributes:
        shape: of the tensor.
        dtype: such as "<f4".
        start: of its first byte, counted from the file's first.
    """

    shape: tuple[int, ...]
    dtype: str
    start: int


class Structure(NamedTuple):
    """What a file holds.

    Attributes:
        tensors: by their path in the HDF5 file, such as "layers/conv2d/vars/0".
        texts: what attributes of groups say, by path and name of the attribute.
        description: what tl_keras wrote of where the weights come from, as JSON; "" in others'
            files.
        layers: of the model that a file of others describes; None where it describes none, and in
            our own; or in a few words why its description cannot be understood.
    """

    tensors: dict[str, TensorLocation]
    texts: dict[str, dict[str, list[str]]]
    description: str
    layers: list[Node] | str | None = None


class _FileSlice(RawIOBase):
    """A part of a file, which reads like a file: the HDF5 file inside an archive."""

    def __init__(self, file: BinaryIO, start: int, size: int):
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move, as files do, and return the new place."""
        self._at = max(0, offset + (0, self._at, self._size)[whence])
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the file, as far as the part goes, and return how far that is."""
        view = memoryview(buffer)
        wanted = max(0, min(len(view), self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(wanted)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def read(path: Path, *, trusted: bool = False) -> Structure:
    """Return what a `.h5` or `.keras` file holds, from a process of its own.

    Args:
        path: the file; it has to be there.
        trusted: look at it in this process, which saves a fifth of a second.

    Raises:
        DataError: it is no such file, is damaged, or is not stored as Keras stores weights. What
            it says goes on from the file's name.
    """
    if trusted:
        return inspect(path)
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    # More threads than one would need memory of their own, and are of no use.
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
        raise DataError(f"was not read within {TIMEOUT_SECONDS:.0f} seconds") from None
    except OSError as error:
        raise DataError(f"cannot be looked at: {error.strerror or error}") from error
    if done.returncode:
        raise DataError(f"is damaged, or made to do harm ({_describe_exit(done)}): {REMEDY}")
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
    """Return in a few words how the process that looked at a file came to its end."""
    if done.returncode == -signal.SIGPROF:
        return "looking at its structure takes too long"
    if done.returncode < 0:
        return f"looking at its structure ended with signal {-done.returncode}"
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return ascii(last[:200])


def main() -> None:
    """Print as JSON what the file named by the first argument holds, or why it is refused."""
    path = Path(sys.argv[1])
    _limit(path.stat().st_size)
    try:
        answer: Structure | str = inspect(path)
    except DataError as error:
        answer = str(error)
    print(json.dumps(answer))


def _limit(file_size: int) -> None:
    """Limit what this process may use; what goes beyond ends it at once."""
    import resource  # Unix has it

    # macOS cannot limit memory so.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Of computing, not of the clock's: a busy machine makes no file bad. Python has no part in
    # what the signal does, so it ends the C library's loops too.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    min_seconds, max_seconds = CPU_SECONDS
    seconds = min(min_seconds + file_size / STRUCTURE_BYTES_PER_SECOND, max_seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds + file_size / CHECKSUM_BYTES_PER_SECOND)


def inspect(path: Path) -> Structure:
    """Return what a file holds, in this process; see `read`."""
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
        raise DataError(f"is damaged ({ascii(reason[:200])}): {REMEDY}") from error
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
    """Return the layers that the description of a model in a .h5 file names."""
    if len(config) > model_file.MAX_TEXT_BYTES:
        raise DataError(f"has a {CONFIG} of {len(config):,} bytes")
    try:
        return file_config.read(json.loads(config))
    except ValueError as error:
        return f"its {CONFIG} is no JSON ({ascii(str(error)[:100])})"


class _Walker:
    """A walk through an HDF5 file that follows no link which leads anywhere else."""

    def __init__(self, start: int, size: int):
        """Begin one in a file that lies at `start` of another and is of `size` bytes."""
        self.tensors: dict[str, TensorLocation] = {}
        self.texts: dict[str, dict[str, list[str]]] = {}
        self._start, self._size = start, size
        self._declared = self._name_length = 0

    def visit_all(self, file: h5py.File) -> None:
        """Visit every object once.

        Raises:
            DataError: one is not what Keras writes.
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
                    raise DataError(f"has a link at {path!r}, and links are not followed")
                item = group[name]
                address = h5py.h5o.get_info(item.id).addr
                if address in seen:
                    raise DataError(f"has {path!r} by another name too: {REMEDY}")
                seen.add(address)
                if isinstance(item, h5py.Group):
                    waiting.append((path, item))
                elif isinstance(item, h5py.Dataset):
                    self.tensors[path] = self._locate(item, path)
                else:
                    raise DataError(f"has {path!r}, which is no tensor: {REMEDY}")

    def _count(self, names: list[str], max_length: int = MAX_NAME_LENGTH) -> None:
        """Refuse a file that says more than it holds, by saying the same again and again."""
        self._name_length += sum(map(len, names))
        if self._name_length > self._size or max(map(len, names)) > max_length:
            raise DataError(f"has names that are too long: {REMEDY}")

    def _locate(self, dataset: h5py.Dataset, path: str) -> TensorLocation:
        """Return where a tensor lies; it may neither be packed, nor lie in other files."""
        layout = dataset.id.get_create_plist()
        if layout.get_layout() != h5py.h5d.CONTIGUOUS or layout.get_external_count():
            raise DataError(
                f"has {path!r} in pieces, compressed or in another file, and Keras stores each"
                f" tensor whole: {REMEDY}"
            )
        dtype = dataset.dtype
        # As bytes are read without the library, the file's type must be numpy's, bit for bit.
        plain = dtype.kind in "fiu" and dataset.id.get_type().equal(h5py.h5t.py_create(dtype))
        if not plain or dataset.shape is None:
            raise DataError(f"has {path!r} of {dtype}, and tensors are of plain numbers: {REMEDY}")
        size = math.prod(dataset.shape) * dtype.itemsize
        start = dataset.id.get_offset() if size else 0
        self._declared += size
        if start is None or start + size > self._size or self._declared > self._size:
            raise DataError(
                f"has {path!r} of {size:,} bytes, which the file of {self._size:,} does not hold"
            )
        return TensorLocation(dataset.shape, dtype.str, self._start + start)

    def _read_texts(self, group: h5py.Group, place: str) -> dict[str, list[str]]:
        """Return the attributes that tell of layers: a text, or a list of texts."""
        found: dict[str, list[str]] = {}
        for name in group.attrs:
            if not TEXTS.fullmatch(name) and (place or name != CONFIG):
                continue
            attribute = group.attrs.get_id(name)
            # A list of no names is saved as one of no numbers.
            if not math.prod(attribute.shape):
                found[name] = []
                continue
            is_text = isinstance(attribute.get_type(), h5py.h5t.TypeStringID)
            if not is_text or attribute.get_storage_size() > self._size:
                raise DataError(f"has an attribute {name!r} of '/{place}' that is no text")
            values = np.ravel(group.attrs[name])
            texts = [one.decode() if isinstance(one, bytes) else str(one) for one in values]
            self._count(texts, self._size if name in (OWN, CONFIG) else MAX_NAME_LENGTH)
            found[name] = texts
        return found


if __name__ == "__main__":
    main()
