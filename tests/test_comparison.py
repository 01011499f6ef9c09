"""Tests of the comparison: what runs, where it lies, and that nothing is done twice."""

import json
import shutil

import pytest

from tl_keras.cli import comparison_flags
from tl_keras.distributed import cluster
from tl_keras.errors import DataError, UsageError
from tl_keras.experiment import comparison, experiment, train_and_test

WORDS = (
    "--source=mnist_5k --target=digits --dense_units=8 --source_steps=20 --steps=4"
    " --methods=finetune,features --shots=2,all --seeds=0,1"
)


def compare(root, words=""):
    comparison_config = comparison_flags.parse(
        ["compare", f"--workdir={root}", *WORDS.split(), *words.split()]
    )
    return comparison.run(comparison_config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison that is done, with its text."""
    root = tmp_path_factory.mktemp("comparison")
    return root, compare(root)


def trained(monkeypatch):
    """Return a list to which each run that trains from here on adds its folder."""
    folders = []
    train = train_and_test.train_and_test

    def noted(setting, prepared, images, folder, *rest):
        folders.append(folder)
        return train(setting, prepared, images, folder, *rest)

    monkeypatch.setattr(train_and_test, "train_and_test", noted)
    return folders


def test_comparison_leaves_table_plot_and_record(finished):
    root, text = finished
    report = json.loads((root / "comparison.json").read_text())
    found = {(run["method"], run["shots"], run["seed"]) for run in report["runs"]}
    methods = ("scratch", "finetune", "features")
    assert found == {(m, k, s) for m in methods for k in (2, "all") for s in (0, 1)}
    table = (root / "comparison.md").read_text()
    assert table in text
    assert (
        f"Before any training on the target: {100 * report['zero_shot']['accuracy']:.2f}" in table
    )
    assert (root / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_comparison_reports_the_images_of_each_class_for_each_number_of_labels(finished):
    root, text = finished
    report = json.loads((root / "comparison.json").read_text())
    counts = report["class_counts"]
    assert list(counts) == ["2", "all"]
    assert [images["train"] for images in counts["2"].values()] == [2] * 10
    assert sum(images["train"] + images["validation"] for images in counts["all"].values()) == 1000
    for of in counts.values():
        assert sum(images["test"] for images in of.values()) == 797
    assert all(0 < run["test"]["balanced_accuracy"] < 1 for run in report["runs"])
    # The digits are even: no table.
    assert "Images of a class, with all labels: 10 classes, each with " in text
    assert "Balanced" not in text


def test_source_is_trained_once_and_each_run_lies_by_its_name(finished):
    root, _ = finished
    assert len(list(root.glob("**/source.weights.h5"))) == 1
    for path in ("scratch/2/scratch-0", "finetune/all/transfer-1", "features/2/transfer-0"):
        assert (root / path / "model.keras").is_file()


@pytest.mark.slow
def test_run_of_a_comparison_equals_the_program_s_own(finished, tmp_path):
    root, _ = finished
    config = comparison_flags.parse(["compare", *WORDS.split()]).compared_methods[0].config
    words = {"shots": 2, "seeds": (1,), "baseline": True, "workdir": str(tmp_path / "alone")}
    report = experiment.run(config.__class__(**{**vars(config), **words})).record
    for arm, folder in (("transfer", "finetune"), ("scratch", "scratch")):
        alone = next(run for run in report["runs"] if run["arm"] == arm)
        same = json.loads((root / folder / "2" / f"{arm}-1" / "result.json").read_text())
        assert same["weights_sha256"] == alone["weights_sha256"]


def test_finished_comparison_trains_nothing_and_says_the_same(finished, monkeypatch):
    root, text = finished
    folders = trained(monkeypatch)
    assert compare(root) == text
    assert folders == []


@pytest.mark.slow
def test_stopped_comparison_goes_on_where_it_was(finished, tmp_path, monkeypatch):
    stop = tmp_path / "stopped"
    train = train_and_test.train_and_test

    def killed(setting, prepared, images, folder, *rest):
        if folder.parent.parent.name == "features":
            raise KeyboardInterrupt
        return train(setting, prepared, images, folder, *rest)

    monkeypatch.setattr(train_and_test, "train_and_test", killed)
    with pytest.raises(KeyboardInterrupt):
        compare(stop)
    monkeypatch.setattr(train_and_test, "train_and_test", train)
    folders = trained(monkeypatch)
    compare(stop)
    assert stop / "scratch" / "2" / "scratch-0" not in folders
    assert len(folders) == 8
    root, _ = finished
    assert (stop / "comparison.md").read_text() == (root / "comparison.md").read_text()


def test_more_methods_shots_and_seeds_can_be_asked_for_later(finished, monkeypatch):
    root, _ = finished
    folders = trained(monkeypatch)
    text = compare(root, "--methods=finetune,l2 --shots=2 --seeds=0")
    assert folders == [root / "l2" / "2" / "transfer-0"]
    assert "features" not in text


def test_comparison_reports_all_seeds_of_each_cell(finished, tmp_path):
    root, _ = finished
    copy = shutil.copytree(root, tmp_path / "copy")
    text = compare(copy, "--methods=finetune --shots=2 --seeds=3")
    report = json.loads((copy / "comparison.json").read_text())
    found = [(run["method"], run["seed"]) for run in report["runs"]]
    assert found == [(method, seed) for method in ("scratch", "finetune") for seed in (0, 1, 3)]
    assert "over seeds 0, 1, 3; in brackets" in text
    kept = json.loads((root / "comparison.json").read_text())["runs"]
    assert report["runs"][0] == next(run for run in kept if run["method"] == "scratch")
    (copy / "finetune" / "2" / "transfer-1" / "model.keras").write_bytes(b"damaged")
    compare(copy, "--methods=finetune --shots=2 --seeds=0")
    runs_left = json.loads((copy / "comparison.json").read_text())["runs"]
    assert [(r["method"], r["seed"]) for r in runs_left if r["method"] == "finetune"] == [
        ("finetune", 0), ("finetune", 3),
    ]  # fmt: skip
    assert "transfer, seed 1: " in (copy / "log.txt").read_text()


@pytest.mark.slow
def test_methods_asked_for_later_may_need_more_of_the_source_or_come_in_any_order(finished):
    root, _ = finished
    for methods in ("features,finetune", "joint", "l2,features"):
        assert "| scratch" in compare(root, f"--methods={methods} --shots=2 --seeds=0")


def test_default_workdir_is_the_same_whatever_is_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = set()
    for methods in ("features", "joint,l2"):
        comparison_config = comparison_flags.parse(
            ["compare", *WORDS.split(), f"--methods={methods}"]
        )
        names.add(comparison._default_name(comparison_config.common))
    assert len(names) == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--shots=2,100000", "--shots=100000 is more than class"),
        ("--trainable=head --methods=finetune,gradual", "no layer for --unfreeze=gradual"),
    ],
)
def test_what_cannot_be_in_one_of_the_runs_is_told_before_the_source_trains(tmp_path, words, told):
    with pytest.raises(UsageError, match=told):
        compare(tmp_path, words)
    assert not (tmp_path / "source").exists()
    assert not (tmp_path / "config.json").exists()


@pytest.mark.slow
def test_weights_without_a_head_are_refused_before_any_run_that_needs_one(tmp_path):
    flags = "--methods=finetune --shots=2 --seeds=0"
    compare(tmp_path / "first", f"--pretrain=autoencoder --source_steps=2 {flags}")
    path = tmp_path / "first" / "source" / "source.weights.h5"
    with pytest.raises(UsageError, match="distill continues with the source's head"):
        compare(tmp_path / "no", f"{flags} --methods=finetune,distill --source_weights={path}")
    assert not (tmp_path / "no" / "scratch").exists()
    text = compare(tmp_path / "again", f"{flags} --source=usps --source_weights={path}")
    assert text.startswith(f"### mnist_5k ({path}) -> digits, small_cnn")


@pytest.mark.parametrize("words", ["--steps=5", "--methods=finetune(steps=5)"])
def test_other_settings_need_another_workdir(finished, words):
    root, _ = finished
    with pytest.raises(UsageError, match="--steps was 4, is 5"):
        compare(root, words)


@pytest.mark.parametrize(
    "words",
    [
        "--shots=all,2",
        "--methods=features,finetune",
        "--methods=finetune(learning_rate=1),features",
    ],
)
def test_processes_have_to_compare_the_same_in_the_same_order(finished, monkeypatch, words):
    root, _ = finished
    asked = {}

    def keep(self, what, value):
        asked[what] = json.dumps(value)
        if what.startswith("--"):
            raise DataError(what)

    monkeypatch.setattr(cluster.Cluster, "check_same", keep)
    found = []
    for more in ("", "", words):
        with pytest.raises(DataError, match="--methods or --shots"):
            compare(root, more)
        found.append(asked.pop("--methods or --shots"))
    assert found[0] == found[1] != found[2]
