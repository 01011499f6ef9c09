"""Recognize files that are no Keras weights, by their first bytes and their name."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tl_keras.errors import DataError

REMEDY = "save it with Keras, by model.save_weights('name.weights.h5')"

URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)

PICKLE_START = b"\x80"
PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
NUMPY_START = b"\x93NUMPY"
# The pickled magic number of PyTorch's old file format.
TORCH_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
TORCH_ENDINGS = (".pt", ".pth", ".bin")
START_BYTES = 16

TORCH = "a PyTorch file. It is a pickle and may contain code, which is not executed"


def check_path(path: Path) -> None:
    """Raise DataError if there is no file at a path. The message continues the path."""
    if not path.exists() and URL.match(str(path)):
        raise DataError("is a URL. Download the file, and give its path")
    if path.is_dir():
        raise DataError("is a folder. Give a weights file, such as model.weights.h5 in it")
    if not path.exists():
        raise DataError("cannot be read: there is no such file")
    if not path.is_file():
        raise DataError("is a device or a pipe. Give a weights file")


def describe_other_file(start: bytes, path: Path) -> str:
    """Return why a file is refused that is neither HDF5 nor a zip archive.

    Args:
        start: its first `START_BYTES` bytes.
        path: of the file.
    """
    if not start:
        return "is empty"
    is_pickle = start.startswith(PICKLE_START) and start[1:2] in PROTOCOLS
    kind = "neither HDF5 nor a .keras archive"
    if start.startswith(TORCH_START) or (is_pickle and path.suffix in TORCH_ENDINGS):
        kind = TORCH
    elif is_pickle:
        kind = "a pickle. It may contain code, which is not executed"
    elif start.startswith(NUMPY_START):
        kind = "a numpy file, which has no layer names"
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        kind = "a safetensors file, whose tensors have other names and layouts than in Keras"
    elif ".data-" in path.name or path.suffix in (".index", ".ckpt", ".pb", ".meta"):
        kind = "part of a TensorFlow checkpoint or SavedModel"
    return f"is {kind}. Load it with the library that wrote it, and {REMEDY}"


def describe_other_archive(names: Sequence[str]) -> str:
    """Return why a zip file of another library is refused, or "", by its members."""
    if any(PurePosixPath(name).name == "data.pkl" for name in names):
        kind = TORCH
    elif names and all(name.endswith(".npy") for name in names):
        kind = "a numpy archive, which has no layer names"
    else:
        return ""
    return f"is {kind}. Load it with the library that wrote it, and {REMEDY}"
