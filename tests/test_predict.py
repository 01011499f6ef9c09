"""Tests of trained models: which file a path means, what it predicts, and the command."""

import io
import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tl_keras
from tl_keras import main, predict
from tl_keras.errors import DataError, UsageError
from tl_keras.inference import predict_files
from tl_keras.inference.find_model import find_model
from tl_keras.inference.picture_files import PictureFiles, list_files
from tl_keras.models import model_file
from tl_keras.pictures import picture_format
from tl_keras.pictures.picture_format import PictureFormat, Rendering
from tl_keras.storage import predictions, results


def write(path: Path, values: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)


def photo(label: int, index: int, height: int = 14, width: int = 20) -> np.ndarray:
    """A picture that is brighter at the top or at the bottom."""
    values = np.random.default_rng((label, index)).integers(0, 90, (height, width, 3))
    values[: height // 2 if label else height, :] += 60
    values[height // 2 :] += 80 * (1 - label)
    return values.astype(np.uint8)


def make_set(root: Path, kind: str) -> str:
    """Make a dataset of 2 classes, and return its name."""
    for split, count in (("train", 8), ("test", 6)):
        for label, name in enumerate(("low", "top")):
            for index in range(count):
                values = photo(label, index + (100 if split == "test" else 0))
                stem = root / split / name / f"{index}"
                if kind == "colour":
                    write(stem.with_suffix(".jpg"), values)
                elif kind == "deep":
                    deep = values[..., 0].astype(np.uint16) * 10  # 12 bits at most
                    write(stem.with_suffix(".png"), deep)
                else:
                    write(stem.with_suffix(".png"), values[..., 0])
    if kind != "csv":
        return f"folder:{root}"
    files = sorted(root.glob("*/*/*.png"))
    rows = [f"{path.relative_to(root)},{path.parts[-2]},{path.parts[-3]}" for path in files]
    (root / "l.csv").write_text("\n".join(["file,label,split", *rows]))
    return f"csv:{root / 'l.csv'}"


FLAGS = ("--source=none", "--steps=4", "--min_steps=0", "--batch_size=8", "--image_size=12")


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A workdir for each kind of dataset."""
    found = {}
    for kind in ("grey", "colour", "deep", "csv", "framed"):
        root = tmp_path_factory.mktemp(kind)
        words = [*FLAGS, f"--target={make_set(root / 'set', kind)}", f"--workdir={root / 'work'}"]
        words += ["--framing=mnist", "--image_size=28"] if kind == "framed" else []
        words += ["--fit=pad"] if kind == "colour" else []
        assert main.main(["tl_keras", *words]) == 0
        found[kind] = root / "work"
    return found


@pytest.mark.parametrize("kind", ["grey", "colour", "deep", "csv", "framed"])
def test_model_predicts_its_test_files_as_the_report_does(
    workdirs: dict[str, Path], kind: str
) -> None:
    workdir = workdirs[kind]
    model = tl_keras.load(workdir)
    assert model.class_names == ("low", "top")
    files = sorted((workdir.parent / "set" / "test").glob("*/*"), key=lambda p: os.fsencode(p))
    probabilities = model.predict(files)
    assert probabilities.shape == (12, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    stored = predictions.read(workdir / "scratch-0")
    np.testing.assert_array_equal(probabilities.argmax(axis=1), stored.predicted)
    test = results.read(workdir / "scratch-0")["test"]
    labels = np.array([path.parent.name == "top" for path in files]).astype(int)
    assert (probabilities.argmax(axis=1) == labels).mean() == test["accuracy"]
    loss = -np.log(probabilities[np.arange(12), labels]).mean()
    np.testing.assert_allclose(loss, test["loss"], rtol=1e-4)


def test_model_says_which_pictures_it_takes(workdirs: dict[str, Path]) -> None:
    forms = {kind: tl_keras.load(path).form for kind, path in workdirs.items()}
    assert forms["grey"] == forms["csv"] == PictureFormat(12)
    assert forms["colour"].fit == "pad" and forms["framed"].framed
    assert forms["deep"].rendering == Rendering(0, 4095)
    text = tl_keras.load(workdirs["colour"]).summary()
    assert "2 classes: 'low', 'top'" in text and "12 pixels in colour, fit: pad" in text


def test_model_takes_arrays_as_files(workdirs: dict[str, Path]) -> None:
    model = tl_keras.load(workdirs["grey"])
    files = sorted((workdirs["grey"].parent / "set" / "test").glob("*/*"))
    arrays = np.stack([np.asarray(Image.open(path)) for path in files])[..., None]
    np.testing.assert_array_equal(model.predict(arrays), model.predict(files))
    np.testing.assert_array_equal(
        model.predict(np.repeat(arrays, 3, axis=-1)), model.predict(files)
    )
    for wrong in (arrays[..., 0], arrays.astype(float), np.zeros((1, 4, 4, 2), np.uint8)):
        with pytest.raises(UsageError, match=r"pictures are \(n, height, width, 1 or 3\) uint8"):
            model.predict(wrong)
    with pytest.raises(UsageError, match="no picture"):
        model.predict(arrays[:0])
    with pytest.raises(DataError, match="cannot be decoded: No such file"):
        model.predict([files[0], "gone.png"])


def test_find_model_takes_what_validates_best_and_never_looks_at_the_test(tmp_path: Path) -> None:
    for name, validation, test in (
        ("transfer-3", 0.7, 0.1), ("transfer-1", 0.7, 0.2), ("transfer-0", 0.6, 0.9),
        ("scratch-0", 0.9, 0.9),
    ):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.keras").write_bytes(b"")
        measured = {"validation": {"accuracy": validation}, "test": {"accuracy": test}}
        results.write(folder, {**measured, "files": {}})
    (tmp_path / "transfer-9").mkdir()
    (tmp_path / "transfer-9" / "model.keras").write_bytes(b"")  # unfinished
    assert find_model(str(tmp_path)) == tmp_path / "transfer-1" / "model.keras"
    assert find_model(str(tmp_path / "scratch-0")).parent.name == "scratch-0"
    for name in ("transfer-0", "transfer-1", "transfer-3"):
        shutil.rmtree(tmp_path / name)
    assert find_model(str(tmp_path)).parent.name == "scratch-0"
    with pytest.raises(DataError, match="there is no model .*gone"):
        find_model(str(tmp_path / "gone"))
    shutil.rmtree(tmp_path / "scratch-0")
    with pytest.raises(DataError, match="has no finished run"):
        find_model(str(tmp_path))


def run(capfd: pytest.CaptureFixture, *words: str) -> list[str]:
    assert predict.main(["predict", *words]) == 0
    return capfd.readouterr().out.splitlines()


def test_command_prints_a_line_for_each_picture(
    workdirs: dict[str, Path], capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    workdir = workdirs["grey"]
    test = workdir.parent / "set" / "test"
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / "bad.png").write_text("none")
    words = (f"--model={workdir}", str(test / "top" / "0.png"), str(test / "low"), str(tmp_path))
    lines = run(capfd, *words, "--top=1", f"--csv={tmp_path / 'out.csv'}")
    model = tl_keras.load(workdir)
    files = [test / "top" / "0.png", *sorted((test / "low").glob("*"))]
    probabilities = model.predict(files)
    expected = [
        f"{path}  {model.class_names[row.argmax()]} {row.max():.1%}"
        for path, row in zip(files, probabilities, strict=True)
    ]
    assert lines == expected
    table = (tmp_path / "out.csv").read_text().splitlines()
    assert table[0] == "file,class,low,top" and len(table) == 8
    rows = [json.loads(line) for line in run(capfd, *words, "--json", "--top=2")]
    assert [row["file"] for row in rows] == list(map(str, files))
    assert [one["class"] for one in rows[0]["predictions"]] in (["low", "top"], ["top", "low"])


def test_command_measures_folders_that_are_named_after_classes(
    workdirs: dict[str, Path], capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    workdir = workdirs["colour"]
    test = results.read(workdir / "scratch-0")["test"]
    words = (f"--model={workdir}", "--true", str(workdir.parent / "set" / "test"))
    right = round(12 * test["accuracy"])
    last = run(capfd, *words, f"--embeddings={tmp_path / 'e.npz'}")[-1]
    assert last.startswith(f"accuracy {test['accuracy']:.2%} ({right} of 12 pictures), balanced")
    with np.load(tmp_path / "e.npz") as stored:
        assert stored["embeddings"].shape[0] == len(stored["files"]) == 12
    found = json.loads(run(capfd, *words, "--json")[-1])
    assert found["accuracy"] == test["accuracy"]


def test_folders_are_classes_also_with_accents_of_two_characters(tmp_path: Path) -> None:
    paths = [
        str(tmp_path / unicodedata.normalize("NFD", "café") / "0.png"),
        str(tmp_path / "tea/1"),
    ]
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1]], np.float32)
    names = (unicodedata.normalize("NFC", "café"), "tea")
    [line] = predict_files.compare_with_folders(paths, probabilities, names, as_json=False)
    assert line == "accuracy 50.00% (1 of 2 pictures), balanced 50.00%"


def test_command_averages_models_and_reads_paths_from_the_standard_input(
    workdirs: dict[str, Path], capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey, deep = workdirs["grey"], workdirs["deep"]
    file = next((grey.parent / "set" / "test" / "low").glob("*"))
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{file}\n\n"))
    [line] = run(capfd, f"--model={grey},{deep}", "-", "--json")
    mean = np.mean([tl_keras.load(path).predict(file)[0] for path in (grey, deep)], axis=0)
    found = {one["class"]: one["probability"] for one in json.loads(line)["predictions"]}
    np.testing.assert_allclose([found["low"], found["top"]], mean, atol=1e-6)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["a.png"], 2, "--model is missing"),
        (["--model=x"], 2, "there is nothing to predict"),
        (["--model=x", "--tp=3", "a.png"], 2, "--tp is not a flag: did you mean --top?"),
        (["--model=x", "--top=0", "a.png"], 2, "top"),
        (["--model=gone", "a.png"], 65, "there is no model gone"),
        (["--model={work}", "gone.png"], 65, "there is no file or folder 'gone.png'"),
        (["--model={work}", "{work}/log.txt"], 65, "none of the 1 files is a picture"),
        (["--model={work}/log.txt", "a.png"], 65, "is damaged, or no file of Keras"),
        (["--model={work}", "--max_pixels=99", "{work}/../set/test"], 65, "none of the 12 files"),
    ],
)
def test_command_refuses_in_one_line(
    workdirs: dict[str, Path], capfd: pytest.CaptureFixture, words, code: int, message: str
) -> None:
    words = [word.format(work=workdirs["grey"]) for word in words]
    assert predict.main(["predict", *words]) == code
    shown = capfd.readouterr().err.strip().splitlines()
    assert message in shown[-1] and shown[-1].startswith("tl_keras: ")


def test_file_that_does_not_say_its_pictures_is_refused(
    workdirs: dict[str, Path], tmp_path: Path
) -> None:
    model = tl_keras.load(workdirs["grey"])
    model_file.save(tmp_path / "foreign.keras", model.keras_model)
    with pytest.raises(DataError, match="does not say which pictures it takes"):
        tl_keras.load(tmp_path / "foreign.keras")


def test_files_of_folders_are_in_order_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.png", "a/x/1.png", ".git/c.png", "b/.d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = list_files([str(tmp_path)])
    assert [os.path.relpath(path, tmp_path) for path in found] == [
        "a/x/1.png",
        "b/10.png",
        "b/2.png",
    ]
    os.mkfifo(tmp_path / "pipe")
    files = PictureFiles([str(tmp_path / "pipe")], PictureFormat(4), 1)
    assert not files[0].any() and files.problems == {0: "it is no regular file"}


@pytest.mark.parametrize(
    "changed",
    [
        {"size": 0}, {"size": 2**70}, {"size": 8.0}, {"size": True}, {"fit": "x"}, {"fit": None},
        {"framed": 1}, {"rendering": None}, {"rendering": {"low": 3, "high": 3, "background": 0}},
        {"rendering": {"low": 0, "high": 2**40, "background": 0}}, {"other": 1},
        {"rendering": {"low": 0, "high": 9, "background": 256}},
    ],
)  # fmt: skip
def test_format_of_pictures_is_read_within_its_bounds(changed: dict) -> None:
    form = PictureFormat(28, "pad", True, Rendering(-5, 4095, 0))
    assert picture_format.parse(json.loads(json.dumps(form.describe()))) == form
    for wrong in ({**form.describe(), **changed}, None, [], "x", {}):
        with pytest.raises(ValueError, match="no format of pictures"):
            picture_format.parse(wrong)
