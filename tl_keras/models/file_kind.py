"""What a file is that Keras does not write weights to, by its first bytes and its name."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tl_keras.errors import DataError

REMEDY = "write it anew with Keras, by model.save_weights('name.weights.h5')"

URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)

PICKLE_START = b"\x80"
PROTOCOLS = (b"\x02", b"\x03", b"\x04", b"\x05")
NUMPY_START = b"\x93NUMPY"
# The number that PyTorch put in front of its files before it wrote archives, as a pickle.
TORCH_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
TORCH_ENDINGS = (".pt", ".pth", ".bin")
START_BYTES = 16

TORCH = "a PyTorch file, which is a pickle, which is code, and we run none"


def check_path(path: Path) -> None:
    """Raise DataError where there is no file at a path. What it says goes on from the path."""
    if not path.exists() and URL.match(str(path)):
        raise DataError("is an address: download it, and give the file")
    if path.is_dir():
        raise DataError("is a folder: give a file of weights, such as model.weights.h5 in it")
    if not path.exists():
        raise DataError("cannot be read: there is no such file")
    if not path.is_file():
        raise DataError("is no file, but a device or a pipe")


def describe_other_file(start: bytes, path: Path) -> str:
    """Return why a file is refused that is neither HDF5 nor an archive.

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
        kind = "a pickle, which is code, and we run none"
    elif start.startswith(NUMPY_START):
        kind = "a numpy file, which does not say whose tensors it has"
    elif start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        kind = "a safetensors file, whose tensors are not named and laid out as Keras does"
    elif ".data-" in path.name or path.suffix in (".index", ".ckpt", ".pb", ".meta"):
        kind = "part of a TensorFlow checkpoint or SavedModel"
    return f"is {kind}. Load it with what wrote it, and {REMEDY}"


def describe_other_archive(names: Sequence[str]) -> str:
    """Return why a zip file is refused that another library wrote, by its members; or ""."""
    if any(PurePosixPath(name).name == "data.pkl" for name in names):
        kind = TORCH
    elif names and all(name.endswith(".npy") for name in names):
        kind = "an archive of numpy, which does not say whose tensors it has"
    else:
        return ""
    return f"is {kind}. Load it with what wrote it, and {REMEDY}"
