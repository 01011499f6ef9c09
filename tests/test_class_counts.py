"""The images of each class: how they are counted, and what is said about them."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import tl_keras
from tl_keras.cli import comparison_flags
from tl_keras.config import from_flat
from tl_keras.experiment import comparison, target_classes
from tl_keras.report import class_counts
from tl_keras.storage import files, predictions
from tl_keras.storage.finished_runs import FinishedRuns


def counts_of(test, train=5, validation=0):
    """Return counts of classes c0, c1, ... with these test images."""
    return {
        f"c{number}": {"train": train, "validation": validation, "test": count}
        for number, count in enumerate(test)
    }


def test_count_has_each_class_in_the_order_of_the_labels():
    labels = {
        "train": np.array([2, 0, 2, 2]),
        "validation": np.empty(0, np.int64),
        "test": np.array([0, 0, 1]),
    }
    found = class_counts.count(labels, ("z", "b", "a"))
    assert list(found) == ["z", "b", "a"]
    assert found == {
        "z": {"train": 1, "validation": 0, "test": 2},
        "b": {"train": 0, "validation": 0, "test": 1},
        "a": {"train": 3, "validation": 0, "test": 0},
    }
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("test", "uneven"),
    [
        ((10, 15), False),
        ((10, 16), True),
        ((0, 10, 15), False),
        ((1, 2), True),
        ((7,), False),
        ((0, 0), False),
        ((), False),
    ],
)
def test_classes_are_uneven_above_a_ratio_of_one_and_a_half_of_those_that_have_images(test, uneven):
    assert class_counts.is_uneven(counts_of(test)) == uneven
    assert not class_counts.is_uneven(counts_of(test), "train")


@pytest.mark.parametrize(
    ("test", "text"),
    [
        ((0, 0), "none"),
        ((5, 5, 5), "5 each"),
        ((5, 0, 5, 0), "5 each; absent: c1, c3"),
        ((40, 0, 7), "c0: 40, c1: 0, c2: 7"),
        (range(20), ", ".join(f"c{n}: {n}" for n in range(20))),
        (range(21), "1 (c1) to 20 (c20), median 10.5; absent: c0"),
        (
            (0,) * 7 + (3, 9, 9) * 5,
            "3 (c7) to 9 (c8), median 9; absent: c0, c1, c2, c3, c4 and 2 more",
        ),
    ],
)
def test_split_is_told_in_one_line(test, text):
    assert class_counts.format_split(counts_of(test), "test") == text


def test_even_counts_are_one_line():
    counts = counts_of((20, 30, 25), train=4, validation=1)
    assert class_counts.format_counts(counts) == [
        "3 classes, each with 4 train, 1 validation and 20-30 test images"
    ]
    counts = counts_of((4, 3), train=4)
    assert class_counts.format_counts(counts) == [
        "2 classes, each with 4 train, 0 validation and 3-4 test images",
        "Fewer than 5 test images: c1 (3), c0 (4).",
    ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_counts_with_an_absent_class_are_a_table(split):
    counts = counts_of((20, 20))
    counts["c1"][split] = 0
    assert class_counts.format_counts(counts)[1].split() == [*class_counts.SPLITS, "class"]


def test_uneven_counts_are_a_table_whose_numbers_end_under_their_headings():
    counts = {
        "黒猫": {"train": 4000, "validation": 400, "test": 1000},
        "two\nlines\x1b[1m": {"train": 3, "validation": 0, "test": 4},
        "absent": {"train": 9, "validation": 1, "test": 0},
    }
    assert class_counts.format_counts(counts) == [
        "",
        "train   validation   test   class",
        " 4000          400   1000   黒猫",
        "    3            0      4   'two\\nlines\\x1b[1m'",
        "    9            1      0   absent",
        "Fewer than 5 test images: absent (none), 'two\\nlines\\x1b[1m' (4).",
    ]


def test_counts_of_many_classes_are_a_line_a_split_and_name_five_with_few_images():
    lines = class_counts.format_counts(counts_of(range(30), train=7))
    assert lines == [
        "",
        "30 classes; images of a class:",
        "train        7 each",
        "validation   none",
        "test         1 (c1) to 29 (c29), median 15; absent: c0",
        "Fewer than 5 test images: c0 (none), c1 (1), c2 (2), c3 (3), c4 (4).",
    ]
    few = class_counts.format_few(counts_of((4, 5, 3, 0, 2, 2, 1, 4)))
    assert few == (
        "Fewer than 5 test images: c3 (none), c6 (1), c4 (2), c5 (2), c2 (3) and 2 more."
    )
    long = {"a name of some length " + name: of for name, of in counts_of([0] * 9 + [1]).items()}
    assert max(map(len, class_counts.format_counts(long))) <= 100


def test_balanced_accuracy_is_added_beside_the_accuracy_and_the_records_are_kept():
    record = {"arm": "scratch", "seed": 3, "test": {"accuracy": 0.75, "loss": 1.0}}
    found = predictions.Predictions(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2]))
    runs = FinishedRuns([record], {"scratch": {3: found}})
    [added] = target_classes.add_balanced_accuracy(runs)
    assert list(added["test"]) == ["accuracy", "balanced_accuracy", "loss"]
    assert added["test"]["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert added["test"]["accuracy"] == 0.75 and list(record["test"]) == ["accuracy", "loss"]
    assert target_classes.get_test_labels(runs).tolist() == [0, 0, 0, 2]


TRAIN, TEST = {"ant": 30, "bee": 10, "cow": 12}, {"ant": 12, "bee": 3}


@pytest.fixture(scope="module")
def uneven_folder(tmp_path_factory):
    """A folder of noise with uneven classes, one of them without test pictures."""
    root = tmp_path_factory.mktemp("uneven")
    generator = np.random.default_rng(0)
    for split, counts in (("train", TRAIN), ("test", TEST)):
        for name, count in counts.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


WORDS = {"model": "small_cnn", "dense_units": 4, "steps": 3, "image_size": 8, "validation": 0.1}


def test_experiment_on_uneven_classes_shows_the_table_and_the_column(uneven_folder, tmp_path):
    flags = {**WORDS, "target": f"folder:{uneven_folder}", "source": "none"}
    config = from_flat({**flags, "workdir": str(tmp_path / "run"), "seeds": (4, 2)})
    report, text = tl_keras.run(config)
    assert report["class_counts"] == {
        "ant": {"train": 27, "validation": 3, "test": 12},
        "bee": {"train": 9, "validation": 1, "test": 3},
        "cow": {"train": 11, "validation": 1, "test": 0},
    }
    assert "\n\ntrain   validation   test   class\n   27            3     12   ant\n" in text
    assert "\nFewer than 5 test images: cow (none), bee (3).\n" in text
    values = []
    for run in report["runs"]:
        with np.load(tmp_path / f"run/scratch-{run['seed']}/predictions.npz") as kept:
            right = kept["labels"] == kept["predicted"]
            values.append(
                (right[kept["labels"] == 0].mean() + right[kept["labels"] == 1].mean()) / 2
            )
        assert run["test"]["balanced_accuracy"] == pytest.approx(values[-1], abs=1e-12)
    [row] = [line for line in text.splitlines() if line.startswith("scratch ") and " % " in line]
    assert f"  {100 * np.mean(values):.2f} %  " in row
    log = (tmp_path / "run/log.txt").read_text()
    before, after = log.split("scratch, seed 4: scratch with 47 images")
    assert "images of a class, train, seed 2: ant: 27, bee: 9, cow: 11\n" in before
    assert "images of a class, validation, seed 2: ant: 3, bee: 1, cow: 1\n" in before
    assert after.count("images of a class, test: ant: 12, bee: 3, cow: 0\n") == 1
    # A second call reports the same, and adds nothing to the results of the runs.
    results = files.sha256(tmp_path / "run/scratch-2/result.json")
    again = tl_keras.run(dataclasses.replace(config, seeds=(2,)))
    assert again.record["class_counts"] == report["class_counts"]
    assert (again.text, again.record["runs"]) == (text, report["runs"])
    assert files.sha256(tmp_path / "run/scratch-2/result.json") == results


@pytest.mark.slow
def test_comparison_on_uneven_classes_shows_the_tables(uneven_folder, tmp_path):
    words = [f"--{name}={value}" for name, value in WORDS.items()]
    words += [f"--target=folder:{uneven_folder}", "--source=mnist_5k", "--source_steps=2"]
    words += ["--methods=finetune", "--shots=3,all", "--seeds=0", f"--workdir={tmp_path / 'run'}"]
    text = comparison.run(comparison_flags.parse(["compare", *words]))
    assert "\nBalanced accuracy in %, " in text
    assert "| 27    | 3          | 12   | ant   |\n" in text
    assert "\n\nFewer than 5 test images: cow (none), bee (3).\n" in text
    report = json.loads((tmp_path / "run/comparison.json").read_text())
    assert report["class_counts"]["3"]["ant"] == {"train": 3, "validation": 0, "test": 12}
    for run in report["runs"]:
        assert f"{100 * run['test']['balanced_accuracy']:.2f}" in text
