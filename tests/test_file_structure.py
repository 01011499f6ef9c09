"""What is found out about files of others, and which are refused, before any tensor is read."""

import dataclasses
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest

from tl_keras.errors import DataError
from tl_keras.models import file_structure, weights
from tl_keras.models.weights import Origin

ORIGIN = Origin("letters", ("a", "b"), "small_cnn", 8, 1)
TENSORS = {"conv/kernel": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "conv/bias": np.ones(4)}


@pytest.fixture
def path(tmp_path):
    """Where the test may write a file."""
    return tmp_path / "a.weights.h5"


def write(path, **attributes) -> None:
    """Write two tensors, as weights files have them, and attributes of the file."""
    with h5py.File(path, "w") as file:
        for name, value in TENSORS.items():
            file[name] = value
        file.attrs.update(attributes)


def test_read_says_where_each_tensor_lies_and_what_is_said_of_layers(path):
    write(path, layer_names=["conv", "dense"], name="model", other=3)
    found = file_structure.read(path)
    assert set(found.tensors) == set(TENSORS)
    for name, stored in found.tensors.items():
        count = TENSORS[name].size
        value = np.fromfile(path, stored.dtype, count, offset=stored.start).reshape(stored.shape)
        np.testing.assert_array_equal(value, TENSORS[name])
    assert found.texts[""] == {"layer_names": ["conv", "dense"], "name": ["model"]}
    assert found.texts["conv"] == {}
    assert found.description == ""
    assert file_structure.read(path, trusted=True) == found


def test_read_needs_no_process_for_a_file_that_is_trusted(path, monkeypatch):
    write(path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert set(file_structure.read(path, trusted=True).tensors) == set(TENSORS)


def test_read_gives_our_own_description(path):
    weights.save(path, TENSORS, ORIGIN)
    assert '"dataset": "letters"' in file_structure.read(path).description
    assert set(dataclasses.asdict(ORIGIN)) <= set(file_structure.read(path).description.split('"'))


def test_texts_may_be_of_fixed_length_as_keras_2_wrote_them(path):
    write(path, layer_names=np.array([b"conv", b"conv2d_1"]), weight_names=np.zeros(0))
    texts = file_structure.inspect(path).texts[""]
    assert texts == {"layer_names": ["conv", "conv2d_1"], "weight_names": []}


def _soft_link(file):
    file["a"] = h5py.SoftLink("/conv/kernel")


def _dangling_link(file):
    file["a"] = h5py.SoftLink("/nothing")


def _external_link(file):
    file["a"] = h5py.ExternalLink("/etc/passwd", "/")


def _two_names(file):
    file["a"] = file["conv/kernel"]


def _circle(file):
    file["conv/a"] = file["conv"]


def _circle_of_the_root(file):
    file["conv/a"] = file["/"]


def _virtual(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", (4,))
    file.create_virtual_dataset("a", layout)


def _in_another_file(file):
    file.create_dataset("a", (4,), "f4", external=[("/etc/passwd", 0, 16)])


def _never_written(file):
    file.create_dataset("a", (750_000_000,), "f4")


def _compressed(file):
    file.create_dataset("a", (750_000_000,), "f4", compression="gzip")


def _in_pieces(file):
    file.create_dataset("a", data=np.ones((4, 4)), chunks=(2, 2))


def _in_the_header(file):
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((4,))
    h5py.h5d.create(file.id, b"a", h5py.h5t.NATIVE_FLOAT, space, dcpl=layout)


def _texts(file):
    file["a"] = ["one", "two"]


def _lists(file):
    file.create_dataset("a", (4,), h5py.vlen_dtype(np.float32))


def _references(file):
    file.create_dataset("a", data=[file["conv"].ref], dtype=h5py.ref_dtype)


def _fields(file):
    file["a"] = np.zeros(4, [("x", "f4"), ("y", "i4")])


def _truths(file):
    file["a"] = np.ones(4, bool)


def _complex(file):
    file["a"] = np.ones(4, np.complex64)


def _arrays(file):
    file.create_dataset("a", (4,), np.dtype(("f4", (2,))))


def _odd_floats(file):
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 22, 9, 0, 22)
    kind.set_ebias(255)
    h5py.h5d.create(file.id, b"a", kind, h5py.h5s.create_simple((4,)))


def _nothing(file):
    file["a"] = h5py.Empty("f4")


def _type(file):
    file["a"] = np.dtype("f4")


def _numbers_for_names(file):
    file.attrs["layer_names"] = [1, 2]


def _lists_for_names(file):
    kind = h5py.h5t.vlen_create(h5py.h5t.NATIVE_INT32)
    h5py.h5a.create(file.id, b"layer_names", kind, h5py.h5s.create_simple((2,)))


def _reference_for_name(file):
    file["conv"].attrs["name"] = file["conv"].ref


def _no_utf8(file):
    file.attrs["layer_names"] = np.array([b"\xff\xfe"])


@pytest.mark.parametrize(
    "add, words",
    [
        (_soft_link, "a link at 'a'"),
        (_dangling_link, "a link at 'a'"),
        (_external_link, "a link at 'a'"),
        (_two_names, "under two names"),
        (_circle, "'conv/a' under two names"),
        (_circle_of_the_root, "'conv/a' under two names"),
        (_virtual, "'a' in chunks, compressed or in another file"),
        (_in_another_file, "'a' in chunks, compressed or in another file"),
        (_never_written, "'a' of 3,000,000,000 bytes, more than the file of"),
        (_compressed, "'a' in chunks, compressed or in another file"),
        (_in_pieces, "'a' in chunks, compressed or in another file"),
        (_in_the_header, "'a' in chunks, compressed or in another file"),
        (_texts, "'a' of object"),
        (_lists, "'a' of object"),
        (_references, "'a' of object"),
        (_fields, "plain numbers"),
        (_truths, "'a' of bool"),
        (_complex, "'a' of complex64"),
        (_arrays, "plain numbers"),
        (_odd_floats, "plain numbers"),
        (_nothing, "plain numbers"),
        (_type, "'a', which is no tensor"),
        (_numbers_for_names, "an attribute 'layer_names' of '/' that is not text"),
        (_lists_for_names, "an attribute 'layer_names' of '/' that is not text"),
        (_reference_for_name, "an attribute 'name' of '/conv' that is not text"),
        (_no_utf8, "is damaged"),
    ],
)
def test_look_refuses_what_keras_never_writes(path, add, words):
    write(path)
    file_structure.inspect(path)
    with h5py.File(path, "a") as file:
        add(file)
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError) as caught:
        file_structure.inspect(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_look_refuses_tensors_that_lie_in_the_same_place(path):
    with h5py.File(path, "w") as file:
        for number in range(3):
            file[str(number)] = np.ones(500)
    data = path.read_bytes()
    starts = [stored.start for stored in file_structure.inspect(path).tensors.values()]
    length = (len(data) - min(starts)) // 8
    replaced = {start: min(starts) for start in starts} | {500: length, 4000: 8 * length}
    for old, new in replaced.items():
        data = data.replace(old.to_bytes(8, "little"), new.to_bytes(8, "little"))
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"of {8 * length:,} bytes, more than the file of"):
        file_structure.inspect(path)


def test_look_refuses_to_say_more_than_the_file_holds(path):
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(200):
            group = group.create_group("nnnn")
    with h5py.File(path, "a") as file:
        # As many names as there are letters in a path: 200 groups have 100,000 in all.
        assert path.stat().st_size > 100_000
    file_structure.inspect(path)
    walk = file_structure._Walker(0, 90_000)
    with h5py.File(path) as file, pytest.raises(DataError, match="names that are too long"):
        walk.visit_all(file)


def test_look_refuses_long_names(path):
    write(path, layer_names=["n" * 1001])
    with pytest.raises(DataError, match="names that are too long"):
        file_structure.inspect(path)
    write(path, layer_names=["n" * 1000])
    file_structure.inspect(path)


class Harm:
    """What pickle would call when it reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        """Return a call that leaves a trace."""
        return (self.path.write_text, ("harm",))


def test_look_refuses_a_pickle_and_runs_nothing(path):
    trace = path.with_name("trace")
    path.write_bytes(pickle.dumps(Harm(trace)))
    with pytest.raises(DataError, match="is a pickle. It may contain code, which is not executed"):
        file_structure.inspect(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.h5", b"", "is empty"),
        ("a.h5", b"\x89HDF\r\n\x1a", "neither HDF5 nor a .keras archive"),
        ("a.txt", b"0.1 0.2 0.3\n", "neither HDF5 nor a .keras archive"),
        ("variables.index", b"\0\0\1\2", "part of a TensorFlow checkpoint"),
        ("variables.data-00000-of-00001", b"\0\0\1\2", "part of a TensorFlow checkpoint"),
        ("a.h5", b"\x89HDF\r\n\x1a\n", "is damaged"),
        ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(5000), "is damaged"),
        ("a.keras", b"PK\x03\x04" + bytes(5000), "is damaged"),
    ],
)
def test_look_refuses_what_is_no_weights_file(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words):
        file_structure.inspect(tmp_path / name)


def test_read_stops_a_library_that_computes_for_ever(path):
    weights.save(path, TENSORS, ORIGIN)
    data = bytearray(path.read_bytes())
    # The heap of texts is read from its first entry to the next, and this one has no length.
    first = data.index(b"GCOL") + 16
    data[first : first + 16] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(DataError, match="takes too long"):
        file_structure.read(path)


def test_read_tells_of_a_process_that_came_to_a_bad_end(path, monkeypatch):
    write(path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DataError, match="is damaged"):
        file_structure.read(path)
    monkeypatch.setattr(sys, "executable", str(path))
    with pytest.raises(DataError, match="cannot be parsed: Permission denied"):
        file_structure.read(path)


def test_read_takes_no_module_from_the_folder_it_is_called_in(path, monkeypatch):
    write(path)
    path.with_name("h5py.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(path.parent)
    assert set(file_structure.read(path).tensors) == set(TENSORS)


def test_module_is_imported_quickly_by_its_process():
    code = "import sys, tl_keras.models.file_structure; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=file_structure.__file__.partition("/tl_keras/models")[0],
    )
    assert not {"keras", "tensorflow"} & set(done.stdout.split())
