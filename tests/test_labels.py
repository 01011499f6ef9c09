"""Labels of tensorflow-datasets: class names that say nothing, labels that are missing or stray."""

import dataclasses
import logging

import made_datasets  # noqa: F401 - registers the datasets
import numpy as np
import pytest

from tl_keras.config import Config, Training
from tl_keras.data import catalog, reading, tfds_splits
from tl_keras.errors import DataError
from tl_keras.experiment import experiment
from tl_keras.models import building, weights
from tl_keras.models.weights import Origin, Weights


@pytest.fixture(autouse=True)
def log(monkeypatch, caplog):
    """What is logged."""
    monkeypatch.setattr(logging.getLogger("tl_keras"), "propagate", True)
    caplog.set_level(logging.INFO)
    return caplog


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> str:
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return str(tmp_path / "data")


@pytest.fixture
def passes(monkeypatch) -> list[str]:
    """The splits of which the labels were read without the pictures."""
    found: list[str] = []
    read_labels = tfds_splits.read_labels

    def counted(source, split):
        found.append(split)
        return read_labels(source, split)

    monkeypatch.setattr(tfds_splits, "read_labels", counted)
    return found


def config(tmp_path, **settings) -> Config:
    training = Training(steps=4, batch_size=4)
    return Config(
        **{"source": "none", "model": "small_cnn", "dense_units": 4, "image_size": 8, **settings},
        data_dir=str(tmp_path / "data"),
        workdir=str(tmp_path / "work"),
        training=training,
        source_training=training,
    )


def test_automatic_class_names_are_those_of_the_dataset_alone(data_dir) -> None:
    found = reading.open_dataset("made_nameless", data_dir=data_dir).class_names
    assert found == ("made_nameless/0", "made_nameless/1")
    # The same of every version: a dataset as source and as target has the same classes.
    again = reading.open_dataset("made_nameless:1.0.0", data_dir=data_dir).class_names
    assert again == found
    assert reading.open_dataset("made_tall", data_dir=data_dir).class_names == ("cat", "dog")


def test_digits_lend_no_row_of_the_head_to_classes_without_names(data_dir) -> None:
    names = reading.open_dataset("made_nameless", data_dir=data_dir).class_names

    def model(classes, seed):
        return building.build(
            "small_cnn", classes, image_size=8, input_channels=1, body_channels=1, dense_units=4,
            seed=seed,
        )  # fmt: skip

    origin = Origin("mnist", catalog.DIGITS, "small_cnn", 8, 1)
    source, target = Weights(weights.get_tensors(model(10, 1)), origin), model(2, 2)
    head = weights.get_tensors(target)["head/kernel"]
    account = weights.copy(source, target, names, "match", "--source=mnist")
    np.testing.assert_array_equal(weights.get_tensors(target)["head/kernel"], head)
    assert (account.matched, account.fresh, account.skipped) == ((), names, catalog.DIGITS)
    lines = str(account).splitlines()
    assert lines[1].split() == ["matched", "0"]
    assert lines[2].split() == ["skipped", "10", *(f"{name}," for name in range(9)), "9"]
    assert lines[3].split() == ["fresh", "2", "made_nameless/0,", "made_nameless/1"]
    own = Weights(weights.get_tensors(model(2, 3)), dataclasses.replace(origin, class_names=names))
    assert weights.copy(own, target, names, "match", "--source=x").matched == names


def test_digits_are_not_tested_on_classes_without_names_before_training(tmp_path, data_dir) -> None:
    given = config(tmp_path, source="mnist_5k", target="made_nameless", framing="none")
    found = experiment.run(dataclasses.replace(given, image_size=28)).record
    assert [run["zero_shot"] for run in found["runs"] if run["arm"] == "transfer"] == [None]


def test_validation_split_stands_in_for_a_test_split_without_labels(
    tmp_path, data_dir, log, passes
) -> None:
    dataset = reading.open_dataset("made_unjudged", data_dir=data_dir)
    assert np.bincount(dataset.read("test", 8).labels).tolist() == [10, 10]
    told = "made_unjudged: tested on 'validation', because 'test' has no labels"
    assert told in log.text
    del passes[:]
    log.clear()
    given = config(tmp_path, target="made_unjudged")
    per_class = experiment.run(given).record["runs"][0]["test"]["per_class"]
    assert [row["count"] for row in per_class.values()] == [10, 10]
    # Once each, and before the training.
    assert passes == ["test", "validation"]
    logged = (tmp_path / "work" / "log.txt").read_text()
    assert logged.index(told) < logged.index("scratch, seed 0")


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("made_untestable", "has no labels in its split 'test' (all are -1). Choose another"),
        ("made_stray", "has the label -1, outside its 2 classes (1 of 20 examples of split 'test'"),
        ("made_unlabelled", "has no labels in its split 'train' (all are -1). Choose another"),
    ],
)
@pytest.mark.parametrize("flag", ["source", "target"])
def test_missing_labels_are_refused_before_anything_trains(
    tmp_path, data_dir, flag, target, told
) -> None:
    given = {"source": "made_tall", "target": "made_tall", "baseline": False, flag: target}
    with pytest.raises(DataError) as caught:
        experiment.run(config(tmp_path, **given))
    assert not [*tmp_path.glob("work/*/metrics.jsonl"), *tmp_path.glob("work/*/checkpoints")]
    assert str(caught.value).startswith(f"dataset '{target}' in ") and told in str(caught.value)
    assert "Choose another dataset" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "looked_at"),
    [
        pytest.param("made_tall", ["validation"], marks=pytest.mark.slow),
        ("made_unjudged", ["test", "validation"]),
    ],
)
def test_labels_are_looked_at_once_and_not_again_where_the_test_split_is_known(
    tmp_path, data_dir, passes, monkeypatch, target, looked_at
) -> None:
    given = config(tmp_path, source=target, target=target)
    experiment.run(given)
    assert passes == looked_at
    del passes[:]
    experiment.run(given)
    assert not passes
    # Further seeds train before the test split is looked at again.
    run_arm = experiment.run_arm

    def noted(*arguments):
        assert not passes
        return run_arm(*arguments)

    monkeypatch.setattr(experiment, "list_arms", lambda *_: [("transfer", "finetune")])
    monkeypatch.setattr(experiment, "run_arm", noted)
    experiment.run(dataclasses.replace(given, seeds=(0, 1)))


def test_source_that_only_rides_along_is_not_tested(tmp_path, data_dir, passes) -> None:
    experiment.run(config(tmp_path, source="made_untestable", target="made_tall", method="scratch"))
    assert passes == ["validation"]
