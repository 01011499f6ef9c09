"""Tests of what the arms of an experiment have in common, and what not; run as the program does."""

import json
import shutil

import keras
import numpy as np
import pytest
from made import QUICK_RUN, sweep
from scipy.special import log_softmax

import tl_keras
from tl_keras.config import Training, from_flat
from tl_keras.data.reading import open_dataset
from tl_keras.errors import UsageError
from tl_keras.experiment import automatic
from tl_keras.models import weights
from tl_keras.storage import files

QUICK = {**QUICK_RUN, "steps": 45, "seeds": (0,)}


def run(workdir, **flags):
    return tl_keras.run(from_flat({**QUICK, "workdir": str(workdir), **flags}))


def arms(record) -> dict[tuple[str, int], dict]:
    return {(one["arm"], one["seed"]): one for one in record["runs"]}


def last_figures(folder) -> dict[str, float]:
    """Return the last figures of training that a run recorded."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/loss" in line][-1]


@pytest.mark.slow
def test_penalties_that_need_no_source_are_of_both_arms(tmp_path, source_file):
    known = {"source_weights": str(source_file)}
    record = run(tmp_path, penalty="l2,bss", **known).record
    for one in record["runs"]:
        figures = last_figures(tmp_path / f"{one['arm']}-{one['seed']}")
        assert {"train/l2", "train/bss"} <= set(figures)
    plain = run(tmp_path / "plain", **known).record
    of_scratch = [arms(one)["scratch", 0]["weights_sha256"] for one in (record, plain)]
    assert of_scratch[0] != of_scratch[1]


@pytest.mark.slow
def test_penalty_that_measures_from_a_source_is_not_of_scratch_nor_any_of_the_pretraining(
    tmp_path, finished_run
):
    record = run(tmp_path / "l2sp", penalty="l2sp,l2").record
    of_scratch = last_figures(tmp_path / "l2sp" / "scratch-0")
    assert "train/l2" in of_scratch and "train/l2sp" not in of_scratch
    plain = json.loads((finished_run / "report.json").read_text())
    assert record["source"]["weights_sha256"] == plain["source"]["weights_sha256"]


def test_scratch_has_training_flags_of_its_own(tmp_path, source_file):
    flags = {"source_weights": str(source_file), "scratch_steps": 90}
    record = run(tmp_path, scratch_learning_rate=0.01, **flags).record
    assert arms(record)["transfer", 0]["steps"] == 45
    assert arms(record)["scratch", 0]["steps"] == 90
    assert last_figures(tmp_path / "scratch-0")["train/learning_rate"] == pytest.approx(0.01)
    assert last_figures(tmp_path / "transfer-0")["train/learning_rate"] == pytest.approx(0.001)


@pytest.mark.slow
def test_few_images_train_for_some_hundred_steps_unless_epochs_say_none(tmp_path):
    flags = {**QUICK, "steps": 0, "source_steps": 0, "source_epochs": 0.0, "baseline": False}
    record = tl_keras.run(from_flat({**flags, "workdir": str(tmp_path / "some")})).record
    assert record["runs"][0]["steps"] == 300 and record["source"]["steps"] == 0
    none = tl_keras.run(from_flat({**flags, "epochs": 0.0, "workdir": str(tmp_path / "none")}))
    assert none.record["runs"][0]["steps"] == 0


@pytest.mark.slow
def test_each_seed_has_a_pretraining_of_its_own_where_they_are_paired(tmp_path):
    record = run(tmp_path / "paired", source_seed="paired", seeds=(0, 3)).record
    assert record["source"] is None
    assert [one["seed"] for one in record["sources"]] == [0, 3]
    first, second = (one["weights_sha256"] for one in record["sources"])
    assert first != second
    assert {one.name for one in (tmp_path / "paired").glob("source*")} == {"source-0", "source-3"}
    zero_shots = [arms(record)["transfer", seed]["zero_shot"]["accuracy"] for seed in (0, 3)]
    # The pretraining of each seed is the one that --source_seed with its number gives.
    for seed, sha256, zero_shot in zip((0, 3), (first, second), zero_shots, strict=True):
        alone = run(tmp_path / str(seed), source_seed=seed, seeds=(seed,)).record
        assert alone["source"]["weights_sha256"] == sha256
        of_seed = arms(alone)["transfer", seed]
        assert of_seed["zero_shot"]["accuracy"] == zero_shot
        assert of_seed["weights_sha256"] == arms(record)["transfer", seed]["weights_sha256"]
    assert run(tmp_path / "paired", source_seed="paired", seeds=(0, 3)).record == record


def evaluated(folder) -> tuple[float, float]:
    """Return accuracy and loss on digits' test images of a run's model.keras, as Keras loads it."""
    test = open_dataset("digits").read("test", 0)
    logits = keras.models.load_model(folder / "model.keras").predict(test.images, verbose=0)
    logits = logits["logits"].astype(np.float64)
    losses = -log_softmax(logits, axis=1)[np.arange(len(test.labels)), test.labels]
    return float(np.mean(logits.argmax(1) == test.labels)), float(losses.mean())


@pytest.mark.parametrize(
    "flags",
    sweep(
        [
            {},
            {"method": "features"},
            {"trainable": "head"},
            {"method": "features:8"},
            {"method": "joint:2"},
            {"ema": 0.9},
            {"model": "conv4", "steps": 8},
            {"model": "conv4", "steps": 8, "batch_norm": "frozen"},
        ],
        fast=[{"method": "features:8"}, {"ema": 0.9}],
    ),
    ids=str,
)
def test_figures_are_of_the_model_that_is_saved(tmp_path, source_file, flags):
    """Also where training computes in bfloat16: the file is in float32."""
    known = {} if "model" in flags else {"source_weights": str(source_file)}
    record = run(tmp_path, precision="bfloat16", **known, **flags).record
    for one in record["runs"]:
        accuracy, loss = evaluated(tmp_path / f"{one['arm']}-{one['seed']}")
        assert one["test"]["accuracy"] == accuracy
        assert one["test"]["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_figures_of_the_source_are_of_the_weights_that_are_saved(tmp_path):
    record = run(tmp_path / "a", precision="bfloat16", baseline=False).record
    again = run(
        tmp_path / "b",
        **{"source": "none", "target": "mnist_5k", "shots": "all", "epochs": 0.0, "steps": 0},
        **{"source_weights": str(tmp_path / "a" / "source" / "source.weights.h5")},
        **{"precision": "float32", "baseline": False, "source_steps": 0},
    ).record
    for name in ("accuracy", "loss"):
        wanted = pytest.approx(record["source"]["test"][name], rel=1e-5)
        assert again["runs"][0]["test"][name] == wanted


@pytest.mark.slow
def test_frozen_statistics_are_the_source_s_to_the_end(tmp_path):
    run(tmp_path, model="conv4", batch_norm="frozen", steps=20)
    source = weights.get_tensors(keras.models.load_model(tmp_path / "source" / "model.keras"))
    models = {
        arm: weights.get_tensors(keras.models.load_model(tmp_path / f"{arm}-0" / "model.keras"))
        for arm in ("transfer", "scratch")
    }
    for name, value in source.items():
        if "moving" in name:
            np.testing.assert_array_equal(models["transfer"][name], value)
            assert not np.array_equal(models["scratch"][name], value)
        elif "gamma" in name:
            assert not np.array_equal(models["transfer"][name], value)


def test_workdir_of_before_is_refused_with_the_reason(tmp_path, source_file):
    flags = {"baseline": False, "source_weights": str(source_file)}
    run(tmp_path, **flags)
    path = tmp_path / "config.json"
    kept = files.read_state(path)
    del kept["results_version"]
    files.write_state(path, kept)
    with pytest.raises(UsageError, match="was begun by another version of tl_keras"):
        run(tmp_path, **flags)


@pytest.mark.slow
def test_report_trains_no_source_for_seeds_of_earlier_calls(tmp_path):
    first = run(tmp_path, source_seed="paired", seeds=(0, 1)).record
    shutil.rmtree(tmp_path / "source-0")
    again = run(tmp_path, source_seed="paired", seeds=(1,)).record
    assert not (tmp_path / "source-0").exists()
    assert [one["seed"] for one in again["sources"]] == [1]
    assert [one["seed"] for one in again["runs"]] == [0, 0, 1, 1]
    assert again["runs"] == first["runs"]


@pytest.mark.slow
def test_one_flag_of_scratch_is_one_difference(tmp_path, source_file):
    flags = {"epochs": 1.0, "source_weights": str(source_file)}
    run(tmp_path, **flags)
    with pytest.raises(UsageError) as refused:
        run(tmp_path, scratch_steps=20, **flags)
    assert str(refused.value).count(" was ") == 1
    run(tmp_path, scratch_steps=20, allow_changed="scratch_steps", seeds=(1,), **flags)


@pytest.mark.slow
def test_both_arms_leave_the_same_images_out_for_validation(tmp_path, source_file):
    known = {"source_weights": str(source_file)}
    run(tmp_path, early_stopping=2, scratch_early_stopping=0, **known)
    log = (tmp_path / "log.txt").read_text()
    assert "finetune with 40 images" in log and "scratch with 40 images" in log


@pytest.mark.slow
def test_weights_that_validated_best_are_kept_with_their_statistics(tmp_path):
    """The best look was before the body thawed: nothing of the body may differ from the source."""
    run(
        tmp_path,
        **{"model": "conv4", "unfreeze": "lp_ft:0.5", "early_stopping": 10, "eval_steps": 2},
        **{"steps": 40, "optimizer": "sgd", "learning_rate": 8.0, "shots": 20, "baseline": False},
        **{"source_learning_rate": 0.001, "precision": "float32"},
    )
    source, kept = (
        weights.get_tensors(keras.models.load_model(tmp_path / name / "model.keras"))
        for name in ("source", "transfer-0")
    )
    body = [name for name in source if not name.startswith("head")]
    assert any(np.array_equal(kept[name], source[name]) for name in body if "kernel" in name)
    for name in body:
        np.testing.assert_array_equal(kept[name], source[name], err_msg=name)


@pytest.mark.parametrize(
    ("model", "kind", "has_weights", "expected"),
    [
        ("mobilenet_v2_035", "auto", True, "frozen"),
        ("mobilenet_v2_035", "auto", False, "recomputed"),
        ("mobilenet_v2_035", "recomputed", True, "recomputed"),
        ("mobilenet_v2_035", "moving", True, "moving"),
        ("conv4", "auto", True, "recomputed"),
        ("conv4", "frozen", True, "frozen"),
        ("conv4", "frozen", False, "recomputed"),
    ],
)
def test_statistics_of_a_transferred_network_of_keras_applications_are_frozen(
    model, kind, has_weights, expected
):
    training = Training(batch_norm=kind)
    found = automatic.choose_batch_norm(training, model, has_weights=has_weights)
    assert found == expected
