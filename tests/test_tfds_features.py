"""Tests of the flags that name features and splits of tensorflow-datasets."""

import json

import made_datasets  # noqa: F401 - registers the datasets
import numpy as np
import pytest

from tl_keras import Config
from tl_keras.cli import console
from tl_keras.config import TfdsSelection, Training, from_flat
from tl_keras.data import reading
from tl_keras.data.dataset import Dataset
from tl_keras.errors import DataError, UsageError
from tl_keras.experiment import experiment, validate


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("tfds"))


@pytest.fixture(autouse=True)
def folders_of_our_own(tmp_path, monkeypatch) -> None:
    """Let no test see or touch what the user has prepared."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


USUAL = {"image_key": "photo/left", "label_key": "about/species", "train_split": "fold1"}


def open_unusual(data_dir: str, **selection: str) -> Dataset:
    return reading.open_dataset(
        "made_unusual", data_dir=data_dir, tfds=TfdsSelection(**{**USUAL, **selection})
    )


def values_of(dataset: Dataset, split: str) -> list[int]:
    """Return the number of each example, which is the value of its left picture."""
    return dataset.read(split, 0).images[:, 0, 0, 0].tolist()


SPECIES = ("o\u00efe", "dog", "cat")


def test_text_of_a_nested_feature_is_a_label_and_its_values_are_the_classes(data_dir) -> None:
    dataset = open_unusual(data_dir, test_split="fold2")
    assert dataset.class_names == ("cat", "dog", "o\u00efe")
    assert (dataset.channels, dataset.size) == (1, 4)
    for split, numbers in (("train", range(20)), ("test", range(20, 30))):
        read = dataset.read(split, 0)
        found = zip(read.images[:, 0, 0, 0].tolist(), read.labels.tolist(), strict=True)
        expected = [(n, dataset.class_names.index(SPECIES[n % 3])) for n in numbers]
        assert sorted(found) == expected
    right = open_unusual(data_dir, image_key="photo/right", test_split="fold2")
    assert sorted(values_of(right, "test")) == list(range(226, 236))


def test_whole_number_is_a_label_with_classes_of_the_dataset_alone(data_dir) -> None:
    dataset = open_unusual(data_dir, label_key="about/year", test_split="fold2[:5]")
    years = (1990, 1997, 2004, 2011)
    assert dataset.class_names == tuple(f"made_unusual/{year}" for year in years)
    read = dataset.read("train", 0)
    assert [n % 4 for n in read.images[:, 0, 0, 0]] == read.labels.tolist()
    signs = open_unusual(data_dir, label_key="about/sign", test_split="fold2")
    assert signs.class_names == ("made_unusual/-1", "made_unusual/1")
    signs.check_test()
    assert np.bincount(signs.read("test", 0).labels).tolist() == [5, 5]
    assert open_unusual(data_dir, label_key="about/coat").class_names == ("short", "long")


def test_splits_may_be_slices_and_sums(data_dir) -> None:
    dataset = open_unusual(data_dir, train_split="fold1[:50%]+fold2", test_split="fold1[50%:]")
    train, test = values_of(dataset, "train"), values_of(dataset, "test")
    assert (len(train), len(test)) == (20, 10)
    assert sorted(train + test) == list(range(30))
    carved = open_unusual(data_dir, train_split="fold1+fold2")
    train, test = values_of(carved, "train"), values_of(carved, "test")
    assert (len(train), len(test)) == (24, 6)
    assert sorted(train + test) == list(range(30))


def test_usual_test_split_is_not_used_if_the_training_split_contains_it(data_dir) -> None:
    name = "made_tall"  # train and validation, 20 each
    for split, counts in (("train[:10]", (10, 20)), ("train+validation", (32, 8))):
        dataset = reading.open_dataset(
            name, data_dir=data_dir, tfds=TfdsSelection(train_split=split)
        )
        assert tuple(len(dataset.read(one, 4).labels) for one in ("train", "test")) == counts


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"image_key": ""}, "no classified images.*--tfds_image_key and --tfds_label_key"),
        ({"image_key": "photo"}, "--tfds_image_key=photo is no feature .*'photo/left', 'photo/r"),
        ({"image_key": "about/year"}, "--tfds_image_key=about/year is int32 and does not"),
        ({"label_key": "label"}, "--tfds_label_key=label is no feature.*'about/species'.*'about/c"),
        ({"label_key": "photo/left"}, "label_key=photo/left is Image and does not"),
        ({"label_key": "about/place"}, r"about/place is float32, shape \(2,\) and does not"),
        ({"label_key": "about/number"}, "label_key=about/number is different for all 20 examples"),
        ({"label_key": "about/note"}, "about/note is empty for 10 of 20 examples of split 'fold1'"),
        ({"train_split": ""}, "no split train.*It has fold1, fold2. .*--tfds_train_split"),
        ({"train_split": "fold3"}, r"--tfds_train_split=fold3 is no split of .*Give one of fold1,"),
        ({"train_split": "fold1[:"}, r"--tfds_train_split=fold1\[: is no split"),
        ({"train_split": "fold1[:999]"}, "incompatible with 20 examples"),
        ({"train_split": "all[:3]"}, "is no split"),
        ({"train_split": "fold1[5:2]"}, "has no examples"),
        ({"train_split": "fold1[3:3]"}, "has no examples"),
        ({"train_split": "fold1+fold1[:1]"}, "has examples of dataset 'made_unusual' twice"),
        ({"test_split": "fold1[19:]"}, r"test_split=fold1\[19:\] shares examples with .*'fold1'"),
        ({"test_split": "fold4"}, "--tfds_test_split=fold4 is no split"),
    ],
)  # fmt: skip
def test_flag_that_names_nothing_useful_is_refused(data_dir, selection, message) -> None:
    with pytest.raises((UsageError, DataError), match=message) as raised:
        open_unusual(data_dir, **selection)
    assert "\n" not in str(raised.value)


def test_test_label_without_a_training_example_is_refused_before_training(data_dir) -> None:
    dataset = open_unusual(data_dir, label_key="about/year", test_split="fold2")
    for check in (dataset.check_test, lambda: dataset.read("test", 0)):
        with pytest.raises(DataError, match="has the label 2077, which no training example has"):
            check()
    dataset = open_unusual(data_dir, train_split="fold2[:2]", test_split="fold1")
    [missing] = set(SPECIES) - set(dataset.class_names)
    with pytest.raises(DataError, match=f"the label '{missing}', which no .*--tfds_train_split$"):
        dataset.check_test()


def test_flags_of_the_source_are_named_in_its_errors(data_dir) -> None:
    config = from_flat({"source": "made_unusual", "data_dir": data_dir})
    with pytest.raises(UsageError, match="--source_tfds_image_key and --source_tfds_label_key"):
        console.check_datasets(config)
    config = from_flat({**config.flat(), "source_tfds_label_key": "nothing"})
    with pytest.raises(UsageError, match="--source_tfds_label_key=nothing is no feature"):
        console.check_datasets(config)


@pytest.mark.parametrize("role", ["target", "source"])
@pytest.mark.parametrize("dataset", ["digits", "folder:/x", "imagenet"])
def test_flag_for_another_kind_of_dataset_is_refused(role, dataset) -> None:
    name = "tfds_test_split" if role == "target" else "source_tfds_test_split"
    model = {"model": "resnet50"} if dataset == "imagenet" else {}
    config = from_flat({role: dataset, name: "fold1", **model})
    with pytest.raises(UsageError, match=f"--{name}=fold1 is for datasets of tensorflow-datasets"):
        validate.check(config)


@pytest.mark.slow
def test_halves_of_a_dataset_are_source_and_target_of_an_experiment(data_dir, tmp_path) -> None:
    training = Training(steps=2, batch_size=4)
    config = Config(
        source="made_unusual",
        target="made_unusual",
        source_tfds=TfdsSelection(**{**USUAL, "label_key": "about/coat"}),
        tfds=TfdsSelection(**{**USUAL, "train_split": "fold1[:15]", "test_split": "fold1[15:]"}),
        model="small_cnn",
        dense_units=4,
        image_size=8,
        data_dir=data_dir,
        workdir=str(tmp_path / "work"),
        training=training,
        source_training=training,
        baseline=False,
    )
    record = experiment.run(config).record
    [run] = record["runs"]
    assert sum(row["count"] for row in run["test"]["per_class"].values()) == 5
    assert set(run["test"]["per_class"]) == set(SPECIES)
    # Each half has fingerprints of its own.
    names = list(json.loads((tmp_path / "work" / "data.json").read_text()))
    assert sum(name.startswith("made_unusual (") for name in names) == 4
    assert sum("label_key=about/coat" in name for name in names) == 2
