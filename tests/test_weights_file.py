"""Weights from files of ours and of Keras: what is taken over, and what is refused."""

import concurrent.futures
import io
import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from made import small_model

from tl_keras.errors import DataError
from tl_keras.models import building, model_file, weights
from tl_keras.models.weights import Origin
from tl_keras.models.weights_file import WeightsFile
from tl_keras.storage import files

FLAG = "--source_weights=file"
ORIGIN = Origin("letters", ("a", "b", "c"), "small_cnn", 8, 1)
BODY = ["conv/kernel", "conv/bias", "dense/kernel", "dense/bias"]


def read(path, model, **arguments):
    return WeightsFile(path, FLAG, **arguments).read(model)


def conv4(seed=1):
    return building.build(
        "conv4", 3, image_size=8, input_channels=1, body_channels=1, dense_units=8, seed=seed
    )


def refusal(path, model=None, **arguments) -> str:
    """Return why a file is refused: a line that a user can act on."""
    with pytest.raises(DataError) as caught:
        read(path, model or small_model(), **arguments)
    assert caught.value.exit_code == 65
    assert str(caught.value).startswith(FLAG)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_same(tensors, expected) -> None:
    assert list(tensors) == list(expected)
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, expected[name])
        assert value.dtype == np.float32


def body_of(model) -> dict[str, np.ndarray]:
    tensors = weights.get_tensors(model)
    return {name: value for name, value in tensors.items() if not name.startswith("head/")}


def change(path, **tensors) -> None:
    """Replace tensors of a file, or remove them; "/" is spelled "__"."""
    with h5py.File(path, "a") as file:
        for name, value in tensors.items():
            name = name.replace("__", "/")
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value


@pytest.fixture
def path(tmp_path):
    """A file of our own."""
    weights.save(tmp_path / "own.h5", weights.get_tensors(small_model(seed=7)), ORIGIN)
    return tmp_path / "own.h5"


def test_own_file_gives_body_and_head_and_where_they_come_from(path):
    file = WeightsFile(path, FLAG)
    assert file.origin == ORIGIN
    found = file.read(small_model(seed=1))
    assert found.origin == ORIGIN
    assert_same(found.tensors, weights.get_tensors(small_model(seed=7)))


def test_own_file_keeps_the_head_of_its_own_classes(path, tmp_path):
    target = building.build(
        "small_cnn", 9, image_size=8, input_channels=3, body_channels=1, dense_units=8
    )
    assert read(path, target).tensors["head/kernel"].shape == (8, 3)
    tensors = body_of(small_model(seed=7))
    weights.save(path, tensors, replace(ORIGIN, class_names=()))
    assert_same(read(path, target).tensors, tensors)


def test_own_model_file_gives_body_and_head_and_where_they_come_from(tmp_path):
    model = small_model(seed=7)
    sha256 = model_file.save(tmp_path / "model.keras", model, ORIGIN)
    file = WeightsFile(tmp_path / "model.keras", FLAG)
    assert (file.origin, file.sha256) == (ORIGIN, sha256)
    assert_same(file.read(small_model(seed=1)).tensors, weights.get_tensors(model))


def test_own_model_file_with_dropout_and_statistics(tmp_path):
    model = conv4(7)
    for number, one in enumerate(model.weights):
        one.assign(np.full(one.shape, number))
    model_file.save(tmp_path / "model.keras", model, replace(ORIGIN, model="conv4"))
    assert_same(read(tmp_path / "model.keras", conv4()).tensors, weights.get_tensors(model))


@pytest.mark.parametrize("dtype", ["<f2", "<f8", ">f4"])
def test_numbers_of_another_width_are_converted(dtype, path, caplog):
    kernel = weights.get_tensors(small_model())["conv/kernel"].astype(dtype)
    change(path, conv__kernel=kernel)
    with caplog.at_level(logging.INFO):
        tensor = read(path, small_model()).tensors["conv/kernel"]
    assert f"converted 1 tensors: 'conv/kernel' from {kernel.dtype}" in caplog.text
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor, kernel.astype(np.float32))


def test_what_is_read_can_be_written_to_and_outlives_the_file(path):
    tensors = read(path, small_model()).tensors
    path.unlink()
    tensors["conv/kernel"][...] = 1
    assert np.all(tensors["conv/kernel"] == 1) and np.isfinite(tensors["dense/kernel"]).all()


def test_every_mismatch_is_listed_at_once(path):
    change(path, conv__kernel=None, dense__kernel=np.ones((9, 8)), dense__bias=np.ones(8, int))
    told = refusal(path)
    assert "does not fit --model=small_cnn, in 3 of 6 tensors" in told
    for words in (
        "no 'conv/kernel' of (3, 3, 1, 32)",
        "'dense/kernel' of (9, 8) and not (288, 8)",
        "'dense/bias' of int64 and not float32",
        "It holds 'conv/bias'; 'dense/bias'",
        "--dense_units",
    ):
        assert words in told


def test_a_long_list_of_mismatches_is_shortened(path):
    told = refusal(path, conv4())
    assert "in 25 of 27 tensors" in told and "and 17 more" in told
    assert told.count("; ") == 7 + 5


def test_layer_with_another_number_of_variables_is_refused(tmp_path):
    """Without a scale, the shift would be taken for it: both are of the same shape."""
    network = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Conv2D(32, 3, use_bias=False, name="conv")]
    )
    network.save_weights(tmp_path / "a.weights.h5")
    assert "no 'conv/kernel' of (3, 3, 1, 32)" in refusal(tmp_path / "a.weights.h5")


def test_list_of_layers_that_names_no_tensor_is_refused(tmp_path):
    small_model().save(tmp_path / "a.h5")
    change(tmp_path / "a.h5", model_weights__conv__conv__bias=None)
    assert "it names 'conv/bias', and does not contain it" in refusal(tmp_path / "a.h5")


def test_state_of_an_optimizer_is_passed_over_in_silence(tmp_path, caplog):
    model = small_model()
    model.compile("adam", "mse")
    for name in ("a.h5", "a.keras"):
        model.save(tmp_path / name)
        with caplog.at_level(logging.INFO):
            read(tmp_path / name, small_model())
    assert caplog.text.count("skipped 2 tensors") == 2
    assert "adam" not in caplog.text and "optimizer" not in caplog.text


def test_own_file_with_another_head_than_its_classes_is_refused(path):
    change(path, head__kernel=np.ones((8, 4), np.float32))
    assert "'head/kernel' of (8, 4) and not (8, 3)" in refusal(path)
    change(path, head__kernel=np.ones((8, 3), np.float32), head__bias=None)
    assert "no 'head/bias' of (3,)" in refusal(path)


def test_own_file_with_tensors_that_have_no_place_is_refused(path):
    change(path, extra__kernel=np.ones(3))
    assert "'extra/kernel', which small_cnn does not have" in refusal(path)


def test_own_file_without_classes_has_no_head(path):
    tensors = weights.get_tensors(small_model())
    weights.save(path, tensors, replace(ORIGIN, class_names=()))
    assert "'head/bias'; 'head/kernel', which" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_numbers_that_are_not_finite_are_refused(value, path):
    change(path, conv__bias=np.full(32, value))
    assert "'conv/bias' holds numbers that are not finite" in refusal(path)


@pytest.mark.parametrize(
    "description",
    [
        *("{", "[]", "3", "{}", '{"dataset": "mnist"}', "[" * 100_000, "\x1b[31m"),
        *({"class_names": value} for value in ("abc", {"a": 1}, [1, 2, 3], ["a", "a", "b"], None)),
        *({"image_size": value} for value in ("8", 0, -8, True, 8.5, None)),
        *({"test": value} for value in ([], "good", {"loss": "low"}, {"loss": None})),
        *({"dataset": value} for value in (None, 3, "a\nb", "\x1b[31m")),
        *({"model": 3}, {"model": "small\ncnn"}, {"more": 1}),
    ],
)
def test_damaged_description_is_refused(description, path):
    with h5py.File(path, "a") as file:
        known = json.loads(file.attrs["tl_keras"])
        if isinstance(description, dict):
            description = json.dumps({**known, **description})
        file.attrs["tl_keras"] = description
    assert "description" in refusal(path, sha256=files.sha256(path))


def test_sha256_is_that_of_the_file(path):
    expected = files.sha256(path)
    assert WeightsFile(path, FLAG).sha256 == expected
    assert WeightsFile(path, FLAG, expected.upper()).sha256 == expected
    told = refusal(path, sha256="0" * 64)
    assert f"--source_weights_sha256={'0' * 64}" in told and expected in told


def test_file_of_another_sha256_is_not_even_looked_at(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"anything")
    assert "--source_weights_sha256" in refusal(tmp_path / "a.h5", sha256="0" * 64)


def test_only_a_file_of_a_known_sha256_is_looked_at_in_this_process(path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert "is damaged" in refusal(path)
    WeightsFile(path, FLAG, files.sha256(path))


def test_file_that_changes_between_the_look_and_the_reading_is_refused(path):
    file = WeightsFile(path, FLAG)
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match="has changed"):
        file.read(small_model())
    file = WeightsFile(path, FLAG)
    os.truncate(path, 4000)
    with pytest.raises(DataError, match="cannot be read"):
        file.read(small_model())
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        file.read(small_model())


def test_what_is_no_file_is_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.h5")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe" in refusal(tmp_path / "pipe")
    assert "is a device or a pipe" in refusal(Path("/dev/zero"))
    for address in ("https://keras.io/a.h5", "gs://bucket/a.h5", "hf://model/name"):
        assert "is a URL. Download the file" in refusal(Path(address))


def test_structure_that_is_unsafe_is_refused_with_the_flag(path):
    with h5py.File(path, "a") as file:
        file["link"] = h5py.ExternalLink("/etc/passwd", "/")
    assert f"{FLAG} has a link at 'link'" in refusal(path)


def test_model_with_code_is_refused_and_the_code_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.keras"
    layer = keras.layers.Lambda(lambda x: (__import__("pathlib").Path("trace").touch(), x)[1], (8,))
    keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(2)]).save(path)
    Path("trace").unlink(missing_ok=True)
    assert "has a 'Lambda' of 'keras.layers', which is code" in refusal(path)
    assert not Path("trace").exists()
    keras.models.load_model(path, safe_mode=False)(np.zeros((1, 8)))
    assert Path("trace").exists()


SEEDS = ("keras_3.weights.h5", "keras_2.h5", "own.h5", "model.keras")
CPU_SECONDS = 30.0
MEMORY_BYTES = 2**30


def write_seeds(folder: Path) -> None:
    """Write one good file of each kind."""
    model = small_model(seed=7)
    model.save_weights(folder / SEEDS[0])
    model.save(folder / SEEDS[1])
    weights.save(folder / SEEDS[2], weights.get_tensors(model), ORIGIN)
    model_file.save(folder / SEEDS[3], model, ORIGIN)


def outside_tensors(data: bytes) -> np.ndarray:
    """Return the places of the bytes that are no tensor's: damage there is what matters."""
    outside = np.ones(len(data), bool)
    start = data.index(b"\x89HDF\r\n\x1a\n")

    def mark(_, item):
        if isinstance(item, h5py.Dataset):
            first = start + item.id.get_offset()
            outside[first : first + item.nbytes] = False

    with h5py.File(io.BytesIO(data[start:])) as file:
        file.visititems(mark)
    return np.flatnonzero(outside)


def damaged(data: bytes, places: np.ndarray, random: np.random.Generator) -> bytes:
    """Return `data` with one to three damages, two thirds of them outside the tensors."""
    spoilt = bytearray(data)
    for _ in range(random.integers(1, 4)):
        inside = int(random.integers(len(data)))
        at = min(inside if random.random() < 1 / 3 else int(random.choice(places)), len(spoilt) - 1)
        kind, length = int(random.integers(6)), int(random.integers(1, 64))
        if kind == 0:
            for place in range(at, min(at + 16, len(spoilt)), 3):
                spoilt[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            del spoilt[max(at, 1) :]
        elif kind == 2:
            spoilt[at : at + length] = bytes(min(length, len(spoilt) - at))
        elif kind == 3:
            spoilt[at : at + length] = spoilt[inside : inside + length]
        elif kind == 4:
            spoilt[at:at] = random.bytes(length)
        else:
            width = int(random.choice([1, 2, 4, 8]))
            edge = 1 << int(random.integers(8 * width + 1))
            value = (edge - int(random.integers(2))) % (1 << 8 * width)
            spoilt[at : at + width] = value.to_bytes(width, "little")
    return bytes(spoilt)


class Worker:
    """What a process knows that reads damaged files."""

    folder: Path
    model: keras.Model
    good: dict[str, np.ndarray]
    seeds: list[tuple[str, bytes, np.ndarray]]


def begin_worker(folder: Path) -> None:
    """Make ready, and limit the memory to a little more than is in use."""
    Worker.folder, Worker.model = folder, small_model(seed=1)
    Worker.good = weights.get_tensors(small_model(seed=7))
    contents = [(name, (folder / name).read_bytes()) for name in SEEDS]
    Worker.seeds = [(name, data, outside_tensors(data)) for name, data in contents]
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES,) * 2)


def read_damaged(number: int) -> str:
    """Damage a file and read it: what came of it in a word, "bad" being the first of a bad one.

    The limit is one of computing. By the clock, all files are slow on a busy machine.
    """
    name, data, places = Worker.seeds[number % len(SEEDS)]
    path = Worker.folder / f"{number}.{name}"
    path.write_bytes(damaged(data, places, np.random.default_rng(number)))
    # What does not end ends the process, and the test fails.
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        outcome = judged(name, read(path, Worker.model).tensors)
    except DataError as error:
        sound = str(error).startswith(FLAG) and "\n" not in str(error) and len(str(error)) < 5000
        outcome = "refused" if sound else f"bad: {number}: {error}"
    except BaseException as error:
        outcome = f"bad: {number}: {error!r}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    path.unlink()
    return outcome


def judged(name: str, tensors: dict[str, np.ndarray]) -> str:
    """Return "read" where what was read could be what was written."""
    names = set(Worker.good) if name in SEEDS[2:] else set(BODY)
    # Where the damage hit what makes a file ours, it is one of others.
    if not set(BODY) <= set(tensors) <= set(Worker.good) or len(tensors) > len(names):
        return f"bad: names {sorted(tensors)}"
    for one, value in tensors.items():
        if value.dtype != np.float32 or not np.isfinite(value).all():
            return f"bad: {one} of {value.dtype}"
        if one in BODY and value.shape != Worker.good[one].shape:
            return f"bad: {one} of {value.shape}"
        # An archive has checksums, so that its tensors are right.
        if name == SEEDS[3] and not np.array_equal(value, Worker.good[one]):
            return f"bad: {one} is not as written"
    return "read"


def test_damaged_files_are_refused_or_read_right(tmp_path, rounds, tally):
    write_seeds(tmp_path)
    total = rounds(20, 150, 4000)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with concurrent.futures.ProcessPoolExecutor(
        max_workers=2,
        mp_context=context,
        initializer=begin_worker,
        initargs=(tmp_path,),
    ) as pool:
        outcomes = Counter(pool.map(read_damaged, range(total), chunksize=10))
    good = outcomes["refused"] + outcomes["read"]
    tally("weights files damaged at random, refused or read right", good, total)
    assert good == total, outcomes
    assert outcomes["read"] > total / 20 and outcomes["refused"] > total / 3


def test_good_files_of_the_same_kinds_are_read(tmp_path):
    write_seeds(tmp_path)
    expected = weights.get_tensors(small_model(seed=7))
    for name in SEEDS:
        found = read(tmp_path / name, small_model(seed=1)).tensors
        names = list(expected) if name in SEEDS[2:] else BODY
        assert_same(found, {one: expected[one] for one in names})
    with zipfile.ZipFile(tmp_path / SEEDS[3]) as archive:
        assert archive.testzip() is None
