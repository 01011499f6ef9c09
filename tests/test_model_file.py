"""The `.keras` archive: the same bytes for the same model, and looked into without trust."""

import json
import os
import re
import resource
import struct
import subprocess
import sys
import tempfile
import zipfile

import keras
import numpy as np
import pytest
from made import ROOT, small_model

from tl_keras.errors import DataError, WriteError
from tl_keras.models import building, file_structure, model_file
from tl_keras.models.weights import Origin

ORIGIN = Origin("bands", ("a", "b", "c"), "small_cnn", 8, 1, {"accuracy": 0.5, "loss": 1.25})

# Saves a model with dropout and one with operations, after others that take the first numbers.
SAVE = """
import pathlib, sys
from tl_keras.models import building, model_file
def model(name, channels):
    return building.build(name, 3, image_size=8, input_channels=channels, body_channels=1,
                          dense_units=8, seed=1)
[model("conv4", 3) for _ in range(int(sys.argv[1]))]
for name, channels in (("conv4", 1), ("small_cnn", 3)):
    path = pathlib.Path(sys.argv[2], f"{name}.keras")
    print(name, model_file.save(path, model(name, channels)))
"""


@pytest.fixture
def path(tmp_path):
    """Where the test may write an archive."""
    return tmp_path / "model.keras"


def built(name: str, channels: int) -> keras.Model:
    return building.build(
        name, 3, image_size=8, input_channels=channels, body_channels=1, dense_units=8, seed=1
    )


def test_save_writes_what_keras_loads(path):
    model, images = small_model(), np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1)
    model_file.save(path, model, ORIGIN)
    loaded = keras.models.load_model(path)
    for name, value in loaded(images).items():
        np.testing.assert_array_equal(value, model(images)[name])
    assert [one.name for one in path.parent.iterdir()] == ["model.keras"]


def test_save_tells_where_the_weights_come_from(path):
    model_file.save(path, small_model(), ORIGIN)
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata == {
        "keras_version": keras.__version__,
        "tl_keras": {
            **{"dataset": "bands", "class_names": ["a", "b", "c"], "model": "small_cnn"},
            **{"image_size": 8, "body_channels": 1, "test": {"accuracy": 0.5, "loss": 1.25}},
            **{"preprocessing": None, "form": None},
        },
    }
    model_file.save(path, small_model())
    with zipfile.ZipFile(path) as archive:
        assert "tl_keras" not in json.loads(archive.read("metadata.json"))


def test_save_gives_the_same_bytes_in_every_process(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SAVE, "2", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    for line in done.stdout.splitlines():
        name, sha256 = line.split()
        model = built(name, 1 if name == "conv4" else 3)
        assert model_file.save(tmp_path / "here.keras", model) == sha256
        there = (tmp_path / f"{name}.keras").read_bytes()
        assert (tmp_path / "here.keras").read_bytes() == there
    assert len(done.stdout.splitlines()) == 2


def test_save_numbers_shared_objects_from_one(path):
    model_file.save(path, small_model())
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json").decode()
    numbers = re.findall(r'"shared_object_id": (\d+)', config)
    assert len(numbers) > 3
    assert set(numbers) == {str(number) for number in range(1, len(set(numbers)) + 1)}


@pytest.mark.parametrize("room", [0, 2000, 20_000, 40_000])
def test_save_keeps_the_old_file_where_the_disk_is_full(room, path):
    model_file.save(path, small_model(), ORIGIN)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"model\.keras cannot be written: File too large"):
            model_file.save(path, small_model(seed=2), ORIGIN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["model.keras"]


def test_save_says_in_one_line_that_there_is_no_temporary_folder(path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(path.parent / "none"))
    with pytest.raises(WriteError, match=r"model\.keras cannot be written"):
        model_file.save(path, small_model())
    assert not list(path.parent.iterdir())


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """What a good archive holds, by name."""
    path = tmp_path_factory.mktemp("good") / "model.keras"
    model_file.save(path, small_model(), ORIGIN)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path, members, compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def refusal(path) -> str:
    with pytest.raises(DataError) as caught:
        file_structure.inspect(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    return str(caught.value)


def test_find_weights_finds_them_wherever_they_lie(path, members):
    # Written piece by piece, a member has more in front of it.
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"assets/a.txt": b"a", **dict(reversed(members.items()))}.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    with path.open("rb") as file:
        found = model_file.find_weights(file, path.stat().st_size)
    data = path.read_bytes()[found.start : found.start + found.size]
    assert data == members["model.weights.h5"]
    assert json.loads(found.description)["dataset"] == "bands"


@pytest.mark.parametrize("missing", ["config.json", "metadata.json", "model.weights.h5"])
def test_find_weights_refuses_another_zip_file(path, members, missing):
    write(path, {name: content for name, content in members.items() if name != missing})
    assert refusal(path) == f"is a zip file without {missing}, and not a .keras archive"


def test_find_weights_refuses_a_few_bytes_that_unpack_to_gigabytes(path, members):
    write(path, {**members, "assets/zeros": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)
    # The same, said to be stored as it is.
    write(path, members)
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.rindex(signature) + place
        data[at : at + 4] = (3_000_000_000).to_bytes(4, "little")
    path.write_bytes(data)
    assert "of 3,000,000,000 bytes in" in refusal(path)


def test_find_weights_refuses_members_that_lie_in_the_same_place(path, members):
    write(path, members | {f"assets/{number}": b"" for number in range(3)})
    with zipfile.ZipFile(path) as archive:
        first = archive.getinfo("model.weights.h5")
    data = bytearray(path.read_bytes())
    entries = [at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"]
    for at in entries[-3:]:
        struct.pack_into("<II", data, at + 20, first.file_size, first.file_size)
        struct.pack_into("<I", data, at + 42, first.header_offset)
    path.write_bytes(data)
    assert refusal(path) == "has members that are larger than the archive"


def test_find_weights_refuses_an_encrypted_archive(path, members):
    write(path, members)
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(signature) + place] |= 1
    path.write_bytes(data)
    assert refusal(path).startswith("is encrypted")


def test_find_weights_refuses_a_member_that_is_there_twice(path, members):
    write(path, members)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    assert refusal(path) == "has 'config.json' twice"


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "assets/../../x", "..\\x", "\\x"])
def test_find_weights_refuses_members_that_lie_elsewhere(path, members, name):
    write(path, {**members, name: b""})
    assert "leads out of the archive" in refusal(path)


def test_find_weights_refuses_a_symbolic_link(path, members):
    write(path, members)
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert refusal(path) == "has 'assets/link', which leads out of the archive"


@pytest.mark.parametrize(
    "config, words",
    [
        (b"{", "that is not JSON"),
        (b"\xff\xfe", "that is not JSON"),
        (b"[]", "describes no model"),
        (b"{}", "describes no model"),
        (b'"text"', "describes no model"),
        (b'{"class_name": ' + b"9" * 5000 + b"}", "that is not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "damaged ('maximum recursion depth exceeded"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "damaged ('maximum recursion depth exceeded"),
    ],
)
def test_find_weights_refuses_a_damaged_description_of_the_model(path, members, config, words):
    write(path, {**members, "config.json": config})
    assert words in refusal(path)


def test_find_weights_refuses_a_description_of_gigabytes(path, members, monkeypatch):
    monkeypatch.setattr(model_file, "MAX_TEXT_BYTES", 1000)
    write(path, members)
    assert refusal(path).startswith("has a config.json of")


def layer(class_name="Dense", module="keras.layers", registered_name=None, **config):
    known = {"class_name": class_name, "module": module, "registered_name": registered_name}
    return {**known, "config": config}


@pytest.mark.parametrize(
    "part, words",
    [
        (layer("Lambda", function={"class_name": "__lambda__"}), "a 'Lambda' of 'keras.layers'"),
        (layer("Mine", "mine.layers", "Mine"), "a 'Mine' of 'mine.layers'"),
        (layer("Mine", "keras_of_mine"), "a 'Mine' of 'keras_of_mine'"),
        (layer("Mine", None, "package>Mine"), "a 'Mine' of None"),
        (layer("TimeDistributed", layer=layer("Mine", "mine")), "a 'Mine' of 'mine'"),
        (layer("Functional", "keras", layers=[layer("Lambda")]), "a 'Lambda'"),
        (layer(activation=layer("function", "builtins", "function")), "a 'function' of 'builtins'"),
        (layer(activation={"class_name": "__lambda__", "config": {}}), "a '__lambda__' of None"),
        (layer("M" * 10_000, "mine"), "a 'MMM"),
    ],
)
def test_find_weights_refuses_a_model_with_code_of_others(path, members, part, words):
    config = json.loads(members["config.json"])
    config["config"]["layers"].append(part)
    write(path, {**members, "config.json": json.dumps(config)})
    assert words in refusal(path)
    # What the model was trained with is no part of it.
    config["config"]["layers"].pop()
    config["compile_config"] = {"loss": part}
    write(path, {**members, "config.json": json.dumps(config)})
    file_structure.inspect(path)


def test_find_weights_compares_the_checksum_of_the_tensors(path, members):
    write(path, members)
    data = bytearray(path.read_bytes())
    data[file_structure.inspect(path).tensors["layers/dense/vars/0"].start + 7] ^= 1
    path.write_bytes(data)
    assert "Bad CRC-32" in refusal(path)


def test_find_weights_refuses_an_archive_that_is_cut_off(path, members):
    write(path, members)
    whole = path.read_bytes()
    for size in (5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "is damaged" in refusal(path)
    os.truncate(path, 4)
    assert "is damaged" in refusal(path)
