"""Files of other libraries are named as what they are."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

from tl_keras.errors import DataError
from tl_keras.models import file_structure

TORCH = "is a PyTorch file. It is a pickle and may contain code, which is not executed"


def archive(*names: str, compression: int = zipfile.ZIP_STORED) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as file:
        for name in names:
            file.writestr(name, b"anything")
    return content.getvalue()


def numpy_file(save) -> bytes:
    content = io.BytesIO()
    save(content, np.ones(3))
    return content.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


# Before PyTorch wrote archives, a file began with this number as a pickle of its own.
OLD_TORCH = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.pth", archive("a/data.pkl", "a/data/0", "a/version"), TORCH),
        ("a.h5", archive("archive/data.pkl", compression=zipfile.ZIP_DEFLATED), TORCH),
        ("a.h5", OLD_TORCH, TORCH),
        ("a.pt", pickle.dumps({"a": 1}, protocol=2), TORCH),
        ("a.h5", pickle.dumps({"a": 1}), "is a pickle. It may contain code, which is not executed"),
        ("a.safetensors", safetensors(), "is a safetensors file"),
        ("a.npy", numpy_file(np.save), "is a numpy file"),
        ("a.npz", numpy_file(np.savez), "is a numpy archive"),
        ("a.npz", numpy_file(np.savez_compressed), "is a numpy archive"),
    ],
)
def test_file_of_another_library_is_named(name, content, words, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        file_structure.read(tmp_path / name)
    assert str(caught.value).startswith(words)
    assert "model.save_weights('name.weights.h5')" in str(caught.value)


def test_zip_file_of_anything_else_is_no_archive_of_keras(tmp_path):
    (tmp_path / "a.zip").write_bytes(archive("a.txt"))
    with pytest.raises(DataError, match=r"is a zip file without config\.json"):
        file_structure.read(tmp_path / "a.zip")
