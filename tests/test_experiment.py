"""The whole way: source, transfer, scratch, report, on data that come inside the dependencies."""

import gc
import json
import shutil
import types

import keras
import made
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tl_keras
from tl_keras.config import from_flat
from tl_keras.data.reading import open_dataset
from tl_keras.distributed import distribution
from tl_keras.errors import DataError, UsageError
from tl_keras.experiment.train_and_test import RunLog
from tl_keras.models import weights
from tl_keras.storage import files, predictions


def run(workdir, **flags):
    return tl_keras.run(from_flat({**made.QUICK_RUN, "workdir": str(workdir), **flags})).record


@pytest.fixture(scope="module")
def finished(finished_run, tmp_path_factory):
    """A finished experiment: its folder, a copy of the shared one, and its report."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    shutil.copytree(finished_run, workdir)
    report = run(workdir)
    # The report names its workdir.
    first = json.loads((finished_run / "report.json").read_text())
    first["config"]["workdir"] = str(workdir)
    assert json.loads(json.dumps(report)) == first, "the second call reports something else"
    return workdir, report


def test_experiment_reports_source_runs_and_summary(finished):
    workdir, report = finished
    assert json.loads((workdir / "report.json").read_text()) == json.loads(json.dumps(report))
    assert report["config"]["target"] == "digits" and report["config"]["steps"] == 30
    assert report["source"]["dataset"] == "mnist_5k"
    assert report["source"]["test"]["accuracy"] > 0.6
    assert [(one["arm"], one["seed"]) for one in report["runs"]] == [
        ("transfer", 0), ("scratch", 0), ("transfer", 1), ("scratch", 1),
    ]  # fmt: skip
    for one in report["runs"]:
        assert one["steps"] == 30 and one["seconds"] > 0 and one["images_per_second"] > 0
        assert sum(row["count"] for row in one["test"]["per_class"].values()) == 797
        assert len(one["weights_sha256"]) == 64
        assert (one["zero_shot"] is None) == (one["arm"] == "scratch")
    summary = report["summary"]
    gains = [
        report["runs"][i]["test"]["accuracy"] - report["runs"][i + 1]["test"]["accuracy"]
        for i in (0, 2)
    ]
    assert summary["gain"]["mean"] == pytest.approx(np.mean(gains))
    assert summary["transfer"]["n"] == summary["scratch"]["n"] == 2
    assert summary["verdict"] in ("positive", "negative", "inconclusive")
    assert (summary["gain"]["seeds"], summary["gain"]["images"]) == (2, 797)
    assert summary["covers"] == "of this one pretrained source"
    assert "2 seeds and 797 test images, of this one pretrained source: " in " ".join(
        (workdir / "report.txt").read_text().split()
    )
    assert report["looks"] == [[0, 1]]


def test_experiment_reports_the_images_of_each_class_and_the_balanced_accuracy(finished):
    workdir, report = finished
    test = np.bincount(open_dataset("digits").read("test", 28).labels, minlength=10)
    assert report["class_counts"] == {
        str(digit): {"train": 5, "validation": 0, "test": count}
        for digit, count in enumerate(test.tolist())
    }
    for one in report["runs"]:
        recalls = [row["accuracy"] for row in one["test"]["per_class"].values()]
        assert one["test"]["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-12)
        folder = workdir / f"{one['arm']}-{one['seed']}"
        stored = files.read_state(folder / "result.json")
        assert "balanced_accuracy" not in stored["test"], "it would change finished runs"
    text = (workdir / "report.txt").read_text()
    sizes = f"{test.min()}-{test.max()}"
    assert f"10 classes, each with 5 train, 0 validation and {sizes} test images\n" in text
    assert " balanced " not in text
    log = (workdir / "log.txt").read_text()
    # The log is of two calls.
    for line in ("train, seed 0: 5 each", "validation, seed 0: none", f"test: 0: {test[0]}, 1: "):
        assert log.count(f"images of a class, {line}") == 2


def test_experiment_leaves_models_that_say_what_the_report_says(finished):
    workdir, report = finished
    digits = open_dataset("digits").read("test", 28)
    model = keras.models.load_model(workdir / "transfer-0" / "model.keras")
    logits = np.asarray(model(digits.images)["logits"])
    accuracy = np.mean(logits.argmax(1) == digits.labels)
    assert accuracy == pytest.approx(report["runs"][0]["test"]["accuracy"], abs=0.002)
    assert weights.hash_tensors(weights.get_tensors(model)) == report["runs"][0]["weights_sha256"]


def test_experiment_leaves_the_predictions_of_each_run(finished):
    workdir, report = finished
    labels = open_dataset("digits").read("test", 28).labels
    for one in report["runs"]:
        folder = workdir / f"{one['arm']}-{one['seed']}"
        assert one["files"]["predictions.npz"] == files.sha256(folder / "predictions.npz")
        assert predictions.read(folder).correct.mean() == pytest.approx(one["test"]["accuracy"])
        with np.load(folder / "predictions.npz") as kept:
            np.testing.assert_array_equal(kept["labels"], labels)
    assert (workdir / "source" / "predictions.npz").is_file()


def test_experiment_leaves_figures_under_one_name_everywhere(finished):
    workdir, _ = finished
    for folder in ("source", "transfer-0", "scratch-1"):
        lines = (workdir / folder / "metrics.jsonl").read_text().splitlines()
        names = {name for line in lines for name in json.loads(line)} - {"step"}
        assert {"train/loss", "train/accuracy", "train/learning_rate", "test/accuracy"} <= names
        events = EventAccumulator(str(workdir / folder)).Reload()
        assert names <= {tag.partition("_1")[0] for tag in events.Tags()["tensors"]}


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"clip_norm": 1.0, "penalty": "l2sp", "ema": 0.9},
    ],
    ids=["plain", "with all that keeps weights"],
)
@pytest.mark.slow
def test_experiment_leaves_no_graph_and_no_weights_in_memory(tmp_path, flags):
    def graphs():
        gc.collect()
        return sum(type(one).__name__ == "FuncGraph" for one in gc.get_objects())

    before = graphs()
    run(tmp_path, steps=2, source_steps=2, shots=2, seeds=(0,), **flags)
    assert graphs() == before


def test_experiment_does_nothing_twice(finished):
    workdir, report = finished
    kept = [*workdir.glob("*/model.keras"), *workdir.glob("*/*.weights.h5")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert run(workdir) == report
    assert len(before) == 6 and before == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.slow
def test_experiment_keeps_no_more_features_than_the_flag_says_and_finds_the_same(
    tmp_path, source_file
):
    flags = {"method": "features", "shots": 5, "steps": 10, "baseline": False}
    flags["source_weights"] = str(source_file)
    wanted = run(tmp_path / "large", seeds=(0, 1, 2), **flags)
    limit = 12_000
    # By two commands: the second adds seeds to what the first has left.
    for seeds in ((0,), (0, 1, 2)):
        found = run(tmp_path / "small", seeds=seeds, cache_gb=limit / 1e9, **flags)
        kept = [p.stat().st_size for p in (tmp_path / "small/features").rglob("*") if p.is_file()]
        assert 0 < sum(kept) <= limit
    for one, other in zip(found["runs"], wanted["runs"], strict=True):
        assert one["test"] == other["test"]
        assert one["files"] == other["files"]


def test_experiment_reports_all_seeds_of_the_workdir(finished, tmp_path):
    workdir, report = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    more = run(copy, seeds=(2,))
    arms = ("transfer", "scratch")
    assert [(one["arm"], one["seed"]) for one in more["runs"]] == [
        (arm, seed) for seed in (0, 1, 2) for arm in arms
    ]
    assert more["runs"][:4] == report["runs"]
    assert more["source"] == report["source"]
    assert more["summary"]["transfer"]["n"] == more["summary"]["gain"]["seeds"] == 3
    assert more["looks"] == [[0, 1], [0, 1, 2]]
    text = (copy / "report.txt").read_text()
    assert "seeds 0, 1, 2\n" in text and "This is look 2" in text
    # The order of the calls and of the seeds makes no difference to what is reported.
    again = run(copy, seeds=(1, 0))
    assert (again["runs"], again["looks"]) == (more["runs"], more["looks"])
    assert (copy / "report.txt").read_text() == text


def test_experiment_leaves_out_a_damaged_run_of_an_earlier_call(finished, tmp_path):
    workdir, report = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "scratch-0" / "predictions.npz").write_bytes(b"damaged")
    before = (copy / "scratch-0" / "checkpoints").stat().st_mtime_ns
    less = run(copy, seeds=(1,))
    kept = [("transfer", 0), ("transfer", 1), ("scratch", 1)]
    assert [(one["arm"], one["seed"]) for one in less["runs"]] == kept
    assert less["summary"]["gain"]["seeds"] == 1 and less["looks"] == [[0, 1]]
    assert (copy / "scratch-0" / "checkpoints").stat().st_mtime_ns == before
    log = (copy / "log.txt").read_text()
    assert f"scratch, seed 0: {copy / 'scratch-0'} of an earlier call is left out" in log
    whole = run(copy, seeds=(0,))
    assert whole["summary"] == report["summary"] and whole["looks"] == report["looks"]
    name = "scratch-0/predictions.npz"
    assert (copy / name).read_bytes() == (workdir / name).read_bytes()


def test_experiment_makes_the_predictions_of_a_run_that_has_none(finished, tmp_path):
    workdir, report = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    folder = copy / "transfer-1"
    record = files.read_state(folder / "result.json")
    del record["files"]["predictions.npz"]
    files.write_state(folder / "result.json", record)
    (folder / "predictions.npz").unlink()
    again = run(copy)
    assert again["summary"] == report["summary"]
    name = "transfer-1/predictions.npz"
    assert (copy / name).read_bytes() == (workdir / name).read_bytes()


def test_experiment_killed_while_it_reports_counts_one_look(finished, tmp_path, monkeypatch):
    workdir, report = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "looks.json").unlink()
    write_json = files.write_json

    def dying(path, value):
        if path.name == "report.json":
            raise KeyboardInterrupt
        write_json(path, value)

    monkeypatch.setattr(files, "write_json", dying)
    with pytest.raises(KeyboardInterrupt):
        run(copy)
    monkeypatch.setattr(files, "write_json", write_json)
    assert run(copy)["looks"] == report["looks"]
    for name in ("looks.json", "report.txt"):
        assert (copy / name).read_bytes() == (workdir / name).read_bytes()


@pytest.mark.slow
def test_experiment_gives_the_same_weights_in_another_workdir(finished, tmp_path):
    _, report = finished
    again = run(tmp_path / "again", seeds=(1,))
    assert again["source"]["weights_sha256"] == report["source"]["weights_sha256"]
    wanted = [one["weights_sha256"] for one in report["runs"] if one["seed"] == 1]
    assert [one["weights_sha256"] for one in again["runs"]] == wanted


def test_experiment_refuses_a_workdir_with_other_settings(finished):
    workdir, _ = finished
    with pytest.raises(UsageError, match="--shots was 5, is 6"):
        run(workdir, shots=6)


def test_experiment_takes_a_finished_source_from_another_workdir(finished, tmp_path):
    workdir, report = finished
    path = workdir / "source" / "source.weights.h5"
    again = run(tmp_path / "w", source_weights=str(path), seeds=(0,))
    assert again["source"]["weights_sha256"] == report["source"]["weights_sha256"]
    assert again["source"]["dataset"] == "mnist_5k"
    assert again["runs"][0]["weights_sha256"] == report["runs"][0]["weights_sha256"]
    assert not (tmp_path / "w" / "source" / "checkpoints").exists()


def test_experiment_takes_over_a_saved_model_with_its_head(finished, tmp_path):
    workdir, report = finished
    path = workdir / "source" / "model.keras"
    again = run(tmp_path / "w", source_weights=str(path), seeds=(0,))
    assert again["source"]["files"] == {"model.keras": files.sha256(path)}
    assert again["source"]["test"] == report["source"]["test"]
    assert again["runs"][0]["weights_sha256"] == report["runs"][0]["weights_sha256"]


@pytest.mark.slow
def test_experiment_takes_over_the_body_of_a_model_of_others(finished, tmp_path):
    """Weights as Keras itself saves them: without names of classes, so that the head is fresh."""
    workdir, report = finished
    path = tmp_path / "theirs.weights.h5"
    keras.models.load_model(workdir / "source" / "model.keras").save_weights(path)
    theirs = run(tmp_path / "w", source_weights=str(path), seeds=(0,))
    ours = workdir / "source" / "source.weights.h5"
    fresh = run(tmp_path / "v", source_weights=str(ours), seeds=(0,), head="new")
    assert theirs["runs"][0]["weights_sha256"] == fresh["runs"][0]["weights_sha256"]
    assert theirs["source"]["dataset"] == "theirs.weights.h5"
    assert theirs["runs"][0]["zero_shot"] is None
    with pytest.raises(UsageError, match="joint continues with the source's head"):
        run(tmp_path / "u", source_weights=str(path), method="joint")


def test_experiment_holds_the_source_weights_to_their_sha256(finished, tmp_path):
    path = finished[0] / "source" / "source.weights.h5"
    flags = {"source_weights": str(path), "seeds": (0,), "steps": 1, "baseline": False}
    with pytest.raises(DataError, match="source_weights_sha256"):
        run(tmp_path / "w", **flags, source_weights_sha256="0" * 64)
    run(tmp_path / "w", **flags, source_weights_sha256=files.sha256(path))
    kept = json.loads((tmp_path / "w" / "config.json").read_text())
    assert kept["source_weights_found"] == kept["source_weights_sha256"] == files.sha256(path)


def test_experiment_heals_what_was_damaged_after_the_end(finished, tmp_path):
    workdir, report = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "source" / "source.weights.h5").write_bytes(b"damaged")
    (copy / "transfer-0" / "model.keras").unlink()
    (copy / "scratch-1" / "result.json").write_text("{}")
    (copy / "zero_shot.json").write_text('{"accuracy": 1.0}')
    again = run(copy)
    for one, wanted in zip(again["runs"], report["runs"], strict=True):
        assert {**one, "seconds": 0, "images_per_second": 0} == {
            **wanted, "seconds": 0, "images_per_second": 0,
        }  # fmt: skip
    for name in ("source/source.weights.h5", "transfer-0/model.keras", "scratch-1/metrics.jsonl"):
        assert (copy / name).read_bytes() == (workdir / name).read_bytes()


def test_experiment_refuses_a_folder_whose_pictures_changed(tmp_path):
    def picture(split, label, number, shade):
        path = tmp_path / "set" / split / label / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), shade).save(path)

    for split in ("train", "test"):
        for number in range(6):
            picture(split, "dark", number, number)
            picture(split, "light", number, 255 - number)
    flags = {
        "source": "none", "method": "scratch", "target": f"folder:{tmp_path / 'set'}",
        "image_size": 8, "steps": 2, "shots": "all",
    }  # fmt: skip
    run(tmp_path / "w", **flags, seeds=(0,))
    picture("test", "dark", 0, 9)
    with pytest.raises(DataError, match="the test images of 'folder:.*' are not those"):
        run(tmp_path / "w", **flags, seeds=(1,))
    picture("test", "dark", 0, 0)
    picture("train", "dark", 7, 0)
    with pytest.raises(DataError, match=r"the train images .* \(12 then, 13 now\)"):
        run(tmp_path / "w", **flags, seeds=(1,))


def test_experiment_goes_on_with_changed_settings_that_the_user_names(tmp_path):
    flags = {"source": "none", "method": "scratch", "seeds": (0,)}
    run(tmp_path, **flags, steps=4)
    (tmp_path / "scratch-0" / "result.json").unlink()
    longer = run(tmp_path, **flags, steps=9, allow_changed="steps")
    assert longer["changes"] == ["--steps was 4, is 9"]
    assert "changed on the way: --steps was 4, is 9" in (tmp_path / "report.txt").read_text()
    assert longer["runs"][0]["steps"] == 9


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"dense_units": 20}, ["dense/kernel", "(5408, 16)", "(5408, 20)"]),
        ({"model": "mobilenet_025", "image_size": 32}, ["small_cnn", "mobilenet_025"]),
        ({"image_size": 20}, ["dense/kernel", "(5408, 16)", "(2592, 16)"]),
    ],
)
def test_experiment_refuses_weights_that_do_not_fit(finished, tmp_path, flags, words):
    path = finished[0] / "source" / "source.weights.h5"
    with pytest.raises(DataError) as caught:
        run(tmp_path / "w", source_weights=str(path), **flags)
    assert all(word in str(caught.value) for word in ["--source_weights=", *words])
    assert not list((tmp_path / "w").glob("*/checkpoints"))
    # The advice can be followed in the same folder.
    assert not (tmp_path / "w" / "config.json").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"shots": 200}, "--shots=200 is more than class '8' has"),
        ({"trainable": "conv9"}, "--trainable=conv9"),
        ({"unfreeze": "gradual:0.1:0.1:0.1"}, "--unfreeze=gradual:0.1:0.1:0.1"),
        ({"unfreeze": "lp_ft", "trainable": "head"}, "--trainable=head"),
        ({"target": "digitz"}, "digitz"),
        ({"image_size": 3}, "--image_size=3"),
    ],
)
def test_experiment_says_what_cannot_be_before_any_training(tmp_path, flags, words):
    with pytest.raises(UsageError) as caught:
        run(tmp_path / "w", **flags)
    assert words in str(caught.value)
    assert not list((tmp_path / "w").glob("*/checkpoints"))


def test_experiment_refuses_source_images_that_the_given_head_does_not_know(finished, tmp_path):
    path = finished[0] / "source" / "source.weights.h5"
    for name in ("3", "7"):
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.new("L", (28, 28), number).save(folder / f"{number}.png")
    shutil.copytree(tmp_path / "data" / "train", tmp_path / "data" / "test")
    flags = {"method": "joint", "source": f"folder:{tmp_path / 'data'}"}
    with pytest.raises(UsageError, match="--source=folder:.* has others"):
        run(tmp_path / "w", source_weights=str(path), **flags)


def test_experiment_refuses_other_weights_under_the_same_name(finished, tmp_path):
    path = tmp_path / "w.h5"
    known = made.kept(finished[0] / "source" / "source.weights.h5")
    weights.save(path, known.tensors, known.origin)
    flags = {"source_weights": str(path), "baseline": False}
    report = run(tmp_path / "w", seeds=(0,), **flags)
    assert report["source"]["test"] == finished[1]["source"]["test"]
    weights.save(path, {name: 2 * v for name, v in known.tensors.items()}, known.origin)
    with pytest.raises(UsageError, match="not the file that --workdir="):
        run(tmp_path / "w", seeds=(0, 1), **flags)


def test_experiment_takes_weights_of_grey_images_to_a_target_in_colour(finished, tmp_path):
    path = finished[0] / "source" / "source.weights.h5"
    for split in ("train", "test"):
        for number, name in enumerate(("red", "blue")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for shade in (90, 150, 210):
                colour = [(shade, 0, 0), (0, 0, shade)][number]
                Image.new("RGB", (28, 28), colour).save(folder / f"{shade}.png")
    flags = {"target": f"folder:{tmp_path / 'data'}", "shots": "all", "seeds": (0,)}
    report = run(tmp_path / "w", source_weights=str(path), baseline=False, **flags)
    assert report["runs"][0]["steps"] == 30


@pytest.mark.parametrize("flags", [{"source": "none"}, {"method": "scratch"}])
def test_experiment_without_a_source_trains_from_scratch_alone(tmp_path, flags, finished):
    report = run(tmp_path, seeds=(0,), **flags)
    assert report["source"] is None and not (tmp_path / "source").exists()
    assert [one["arm"] for one in report["runs"]] == ["scratch"]
    assert report["summary"]["transfer"] is None and report["summary"]["gain"] is None
    assert report["runs"][0]["weights_sha256"] == finished[1]["runs"][1]["weights_sha256"]


def test_experiment_without_a_baseline_has_no_verdict_to_give(tmp_path):
    report = run(tmp_path, seeds=(3,), baseline=False, head="new")
    assert [one["arm"] for one in report["runs"]] == ["transfer"]
    assert report["runs"][0]["zero_shot"] is None
    assert report["summary"]["gain"] is None and report["summary"]["verdict"] is None


@pytest.mark.parametrize("method", ["features", "joint", "l2sp"])
def test_experiment_carries_out_each_method(tmp_path, method, finished):
    path = finished[0] / "source" / "source.weights.h5"
    flags = {"source_weights": str(path), "method": method, "seeds": (0,), "baseline": False}
    report = run(tmp_path, **flags)
    assert report["runs"][0]["test"]["accuracy"] > 0.5
    assert bool(list(tmp_path.glob("features/*/manifest.json"))) == (method == "features")


UNLABELLED = {"source": "digits", "target": "digits", "source_steps": 30, "source_eval_steps": 10,
              "source_batch_size": 64, "source_augment": "auto", "steps": 10,
              "seeds": (0,), "baseline": False}  # fmt: skip


@pytest.fixture(scope="module", params=made.sweep(["autoencoder", "simclr"], fast=["simclr"]))
def unlabelled(request, tmp_path_factory):
    """A finished experiment whose source was trained without labels: its folder and report."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    return workdir, run(workdir, pretrain=request.param, **UNLABELLED), request.param


def test_pretraining_without_labels_gives_a_body_and_claims_no_accuracy(unlabelled):
    workdir, report, name = unlabelled
    known = made.kept(workdir / "source" / "source.weights.h5")
    assert {tensor.split("/")[0] for tensor in known.tensors} == {"conv", "dense"}
    assert known.origin.class_names == () and known.origin.dataset == "digits"
    assert weights.hash_tensors(known.tensors) == report["source"]["weights_sha256"]
    figure = {"autoencoder": "mean_squared_error", "simclr": "contrastive_accuracy"}[name]
    assert set(report["source"]["test"]) == {figure, "loss"} and report["source"]["steps"] == 30
    assert known.origin.test == report["source"]["test"]
    assert report["runs"][0]["zero_shot"] is None
    assert not (workdir / "source" / "model.keras").exists()
    text = (workdir / "report.txt").read_text()
    assert f"digits ({name}, without labels) -> digits" in text
    assert f"  {figure.replace('_', ' ')} on the test images of digits" in text


def test_pretraining_without_labels_starts_the_transfer(unlabelled, tmp_path):
    workdir, report, name = unlabelled
    path = workdir / "source" / "source.weights.h5"
    flags = {**UNLABELLED, "source_weights": str(path)}
    again = run(tmp_path / "again", **flags)
    assert again["runs"][0]["weights_sha256"] == report["runs"][0]["weights_sha256"]
    assert again["source"]["test"] == report["source"]["test"]
    still = run(tmp_path / "still", **{**flags, "method": "features", "epochs": 0, "steps": 0})
    assert still["runs"][0]["steps"] == 0
    model = keras.models.load_model(tmp_path / "still" / "transfer-0" / "model.keras")
    kept = made.kept(path).tensors
    for tensor, value in weights.get_tensors(model).items():
        if tensor in kept:
            np.testing.assert_array_equal(value, kept[tensor])
    with pytest.raises(
        UsageError, match="distill continues with the source's head, and --source_w"
    ):
        run(tmp_path / "no", **{**flags, "method": "distill"})


def test_pretraining_without_labels_is_seen_in_tensorboard(unlabelled):
    workdir, _, name = unlabelled
    lines = (workdir / "source" / "metrics.jsonl").read_text().splitlines()
    names = {name for line in lines for name in json.loads(line)} - {"step"}
    assert {"train/loss", "train/learning_rate", "test/loss"} <= names
    assert ("train/contrastive_accuracy" in names) == (name == "simclr")
    assert not [one for one in names if one.endswith(("/accuracy", "validation/loss"))]
    tags = set(EventAccumulator(str(workdir / "source")).Reload().Tags()["tensors"])
    assert names | {"visuals/batch", "weights/conv/kernel"} <= tags
    assert ("visuals/rebuilt" in tags) == (name == "autoencoder")
    assert not tags & {"visuals/confusion", "visuals/misclassified", "weights/head/kernel"}


@pytest.mark.slow
def test_pretraining_without_labels_continues_where_it_was_killed(
    unlabelled, tmp_path, monkeypatch
):
    workdir, report, name = unlabelled
    write = RunLog.write
    deaths = [25, 14]

    def dying(self, step, values):
        if deaths and step >= deaths[-1]:
            deaths.pop()
            raise KeyboardInterrupt
        write(self, step, values)

    monkeypatch.setattr(RunLog, "write", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, pretrain=name, **UNLABELLED)
    again = run(tmp_path, pretrain=name, **UNLABELLED)
    assert again["source"]["weights_sha256"] == report["source"]["weights_sha256"]
    assert again["source"]["test"] == report["source"]["test"]
    lines = (tmp_path / "source" / "metrics.jsonl").read_text()
    assert lines == (workdir / "source" / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_experiment_continues_a_run_that_was_killed(finished, tmp_path, monkeypatch):
    _, report = finished
    write = RunLog.write
    deaths = iter([20, 45, 10, 30])
    dies_at = next(deaths)

    def dying(self, step, values):
        nonlocal dies_at
        if dies_at is not None and step >= dies_at:
            dies_at = None
            raise KeyboardInterrupt
        write(self, step, values)

    monkeypatch.setattr(RunLog, "write", dying)
    killed = 0
    while True:
        try:
            again = run(tmp_path, seeds=(0,))
            break
        except KeyboardInterrupt:
            killed += 1
            dies_at = next(deaths, None)
    assert killed == 4
    wanted = [one["weights_sha256"] for one in report["runs"] if one["seed"] == 0]
    assert [one["weights_sha256"] for one in again["runs"]] == wanted
    (tmp_path / "transfer-0" / "result.json").unlink()
    assert run(tmp_path, seeds=(0,)) == again
    for folder in ("source", "transfer-0", "scratch-0"):
        lines = (tmp_path / folder / "metrics.jsonl").read_text()
        assert lines == (finished[0] / folder / "metrics.jsonl").read_text()


def test_experiment_keeps_head_rows_of_a_target_with_fewer_classes(tmp_path, finished):
    # Two classes of the source's ten, in another order than the source has them.
    digits = open_dataset("mnist_5k").read("test", 28)
    for split, chosen in (("train", slice(0, 6)), ("test", slice(6, 30))):
        for name in ("7", "3"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            rows = digits.images[digits.labels == int(name)][chosen]
            for number, image in enumerate(rows):
                Image.fromarray(image[..., 0]).save(folder / f"{number}.png")
    path = finished[0] / "source" / "source.weights.h5"
    report = run(
        tmp_path / "w", target=f"folder:{tmp_path / 'data'}", source_weights=str(path), shots="all",
        seeds=(0,), validation=0.0,
    )  # fmt: skip
    assert report["runs"][0]["zero_shot"]["accuracy"] > 0.85
    assert set(report["runs"][0]["test"]["per_class"]) == {"3", "7"}


def test_batch_too_small_for_the_replicas_is_told_before_the_source_trains(tmp_path, monkeypatch):
    """As with two hosts of eight GPUs each: ten classes with one label make a batch of ten."""
    scope = tf.distribute.get_strategy().scope
    many = types.SimpleNamespace(num_replicas_in_sync=16, scope=scope)
    monkeypatch.setattr(distribution, "make_strategy", lambda *_: many)
    with pytest.raises(UsageError, match="a batch of 10 images is too small for 16 replicas"):
        run(tmp_path, shots=1)
    assert not (tmp_path / "source").exists()
