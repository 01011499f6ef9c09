import json
import math

import numpy as np
import pytest

from tl_keras.report import looks, summary

CONFIG = {
    "source": "mnist_5k",
    "source_weights": "",
    "target": "digits",
    "method": "finetune",
    "model": "small_cnn",
    "shots": 10,
    "seeds": (0, 1, 2),
}
SOURCE = {
    "dataset": "mnist_5k",
    "test": {"accuracy": 0.98314, "loss": 0.06},
    "weights_sha256": "ab",
}


def run(arm, seed, accuracy, steps=120, zero_shot=None, rate=21034.2):
    return {
        "arm": arm,
        "seed": seed,
        "zero_shot": zero_shot and {"accuracy": zero_shot},
        "test": {"accuracy": accuracy, "loss": 0.1, "per_class": {}},
        "steps": steps,
        "seconds": 12.34,
        "images_per_second": rate,
        "weights_sha256": "cd",
    }


def arms(transfer, scratch):
    return [run("transfer", seed, value, zero_shot=0.9412) for seed, value in transfer.items()] + [
        run("scratch", seed, value) for seed, value in scratch.items()
    ]


def correct_of(runs, images=2000):
    """Return arm -> seed -> which images are right; the last ones are the wrong ones."""
    found = {}
    for one in runs:
        rights = np.arange(images) < round(one["test"]["accuracy"] * images)
        found.setdefault(one["arm"], {})[one["seed"]] = rights
    return found


def told(runs, source=SOURCE, images=2000, more=None, config=None, **settings):
    config = {**CONFIG, **settings, **(config or {})}
    report = {
        "config": config,
        "source": source,
        "runs": runs,
        "summary": summary.summarise(
            runs, correct_of(runs, images), summary.describe_coverage(config)
        ),
        **(more or {}),
    }
    return summary.format_table(report)


def verdict_of(text):
    """Return the last paragraph in one line."""
    return " ".join(text.split("\n\n")[-1].split())


BETTER = arms({0: 0.97, 1: 0.975, 2: 0.98}, {0: 0.93, 1: 0.93, 2: 0.93})
LEVEL = arms({0: 0.93, 1: 0.95}, {0: 0.94, 1: 0.94})
ONE = arms({0: 0.97}, {0: 0.93})


def line_of(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(name) and "%" in line]
    return line


def test_summary_pairs_the_arms_by_seed():
    found = summary.summarise(BETTER, correct_of(BETTER), "of this one pretrained source")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    transfer, scratch, gain = found["transfer"], found["scratch"], found["gain"]
    assert transfer.pop("se_images") == pytest.approx(math.sqrt(0.975 * 0.025 / 2000), rel=0.05)
    assert scratch.pop("se_images") == pytest.approx(math.sqrt(0.93 * 0.07 / 2000), rel=0.05)
    assert transfer == pytest.approx({"mean": 0.975, "std": 0.005, "n": 3})
    assert scratch == pytest.approx({"mean": 0.93, "std": 0, "n": 3})
    of_seeds = 4.302653 * 0.005 / math.sqrt(3)
    assert gain["mean"] == pytest.approx(0.045)
    assert gain["margin_seeds"] == pytest.approx(of_seeds)
    reach = math.hypot(of_seeds, gain["margin_images"])
    assert gain["ci95"] == pytest.approx([0.045 - reach, 0.045 + reach])
    assert (gain["seeds"], gain["images"]) == (3, 2000)
    assert (found["verdict"], found["covers"]) == ("positive", "of this one pretrained source")


def test_summary_of_a_single_arm_has_no_gain():
    runs = [run("scratch", 3, 0.5)]
    found = summary.summarise(runs, correct_of(runs))
    assert found.pop("scratch") == {
        "mean": 0.5, "std": None, "n": 1, "se_images": pytest.approx(0.5 / 2001**0.5),
    }  # fmt: skip
    assert found == {"transfer": None, "gain": None, "verdict": None, "covers": ""}


def test_summary_of_one_seed_is_inconclusive():
    found = summary.summarise(ONE, correct_of(ONE))
    assert found["gain"]["mean"] == pytest.approx(0.04)
    assert found["gain"]["ci95"] is None and found["gain"]["margin_images"] > 0
    assert found["verdict"] == "inconclusive"


def test_table_says_what_was_done():
    first, second = told(BETTER).splitlines()[:2]
    assert first == "mnist_5k -> digits"
    assert second == "finetune of small_cnn, 10 labelled images a class, seeds 0, 1, 2"
    assert "1 labelled image a class, seed 0" in told(ONE, shots=1)
    assert "all labelled images" in told(ONE, shots="all")


def test_table_names_the_weights_file_that_was_given():
    source = {"dataset": "emnist/letters", "test": None, "weights_sha256": "ab"}
    text = told(ONE, source=source, source_weights="a.weights.h5")
    assert text.startswith("emnist/letters (a.weights.h5) -> digits\n")
    assert "on the test images of emnist" not in text


def test_table_has_accuracies_in_percent_and_the_gain_in_points():
    text = told(BETTER)
    assert line_of(text, "transfer").split() == [
        "transfer", "97.50", "%", "0.50", "0.34", "-", "120", "12.3", "s", "21,034"
    ]  # fmt: skip
    # Seeds that agree are no certainty: the test set has its part.
    assert line_of(text, "scratch").split()[1:5] == ["93.00", "%", "0.00", "0.57"]
    gain = text.split("\n\n")[2].splitlines()[3:]
    assert gain == [
        "gain         +4.50  points; 95 % interval +2.97 to +6.03 (3 seeds and 2000 test images)",
        "            ±1.24 by seeds, ±0.90 by images",
    ]


def test_table_of_one_pair_has_the_margin_of_the_images_and_none_of_the_seeds():
    text = told(ONE)
    assert "gain         +4.00  points (1 seed and 2000 test images)\n" in text
    assert "            ± unknown by seeds, ±0.87 by images\n" in text


def test_table_columns_end_under_their_headings():
    text = told(BETTER + [run("transfer", 3, 1.0, steps=1_000_000), run("scratch", 3, 0.05)])
    lines = text.splitlines()
    heading = next(line for line in lines if line.startswith("test "))
    rows = [line_of(text, arm) for arm in summary.ARMS]
    assert {len(heading)} == {len(row) for row in rows}
    end = heading.index("accuracy") + len("accuracy")
    assert all(row[end - 1] == "%" and row[end] == " " for row in rows)
    seeds = lines.index(next(line for line in lines if line.startswith("seed ")))
    assert len({len(line) for line in lines[seeds : seeds + 4]}) == 1


def test_table_shows_what_was_known_before_training():
    text = told(BETTER)
    assert "source       98.31 %  on the test images of mnist_5k" in text
    assert "zero-shot    94.12 %  on the test images of digits" in text
    assert "zero-shot" not in told([run("transfer", 0, 0.9), run("scratch", 0, 0.9)])


@pytest.mark.parametrize(
    ("test", "line"),
    [
        (
            {"contrastive_accuracy": 0.9312, "loss": 1.2},
            "source       93.12 %  contrastive accuracy on the test images of usps",
        ),
        (
            {"mean_squared_error": 0.01234, "loss": 0.01234},
            "source        0.0123  mean squared error on the test images of usps",
        ),
    ],
)
def test_table_shows_what_pretraining_without_labels_came_to(test, line):
    text = told(ONE, {"dataset": "usps", "test": test}, pretrain="simclr")
    assert line in text.splitlines()
    assert text.startswith("usps (simclr, without labels) -> digits\n")


def test_table_lists_every_seed_and_marks_a_missing_run():
    runs = arms({seed: 0.5 + seed / 100 for seed in range(11)}, dict.fromkeys(range(10), 0.5))
    lines = told(runs).splitlines()
    blocks = [number for number, line in enumerate(lines) if line.startswith("seed ")]
    assert [lines[number].split()[1:] for number in blocks] == [
        list("01234567"), ["8", "9", "10"]
    ]  # fmt: skip
    second = blocks[1]
    assert lines[second + 1].split() == ["transfer", "58.00", "59.00", "60.00"]
    assert lines[second + 2].split() == ["scratch", "50.00", "50.00", "-"]
    assert lines[second + 3].split() == ["gain", "+8.00", "+9.00", "-"]


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (
            BETTER,
            "Verdict: positive. Transfer beats training from scratch over 3 seeds and 2000 test"
            " images, of this one pretrained source: the whole interval is above zero.",
        ),
        (
            arms({0: 0.5, 1: 0.51}, {0: 0.9, 1: 0.9}),
            "Verdict: negative. Transfer does worse than training from scratch over 2 seeds and"
            " 2000 test images, of this one pretrained source: the whole interval is below zero.",
        ),
        (
            LEVEL,
            "Verdict: inconclusive. Transfer does not differ clearly from training from scratch"
            " over 2 seeds and 2000 test images, of this one pretrained source: the interval"
            " contains zero.",
        ),
        (ONE, "Verdict: inconclusive. One pair of runs has no interval"),
        ([run("scratch", 0, 0.9)], "Verdict: none. There are only scratch runs"),
        ([run("transfer", 0, 0.9)], "Verdict: none. There are only transfer runs"),
        (arms({0: 0.9}, {1: 0.9}), "Verdict: none. No seed has both runs"),
    ],
)
def test_table_ends_with_what_the_verdict_means(runs, words):
    assert verdict_of(told(runs)).startswith(words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "of this one pretrained source"),
        ({"source_weights": "a.h5"}, "of this one weights file"),
        ({"source": "imagenet"}, "of ImageNet's weights"),
        ({"source_seed": 3}, "of this one pretrained source"),
        ({"source_seed": "paired"}, "with one pretraining for each seed"),
    ],
)
def test_verdict_says_of_what_source_it_speaks(settings, words):
    for runs in (BETTER, LEVEL, arms({0: 0.5, 1: 0.51}, {0: 0.9, 1: 0.9})):
        assert f" seeds and 2000 test images, {words}: " in verdict_of(told(runs, config=settings))


def test_verdict_needs_more_than_a_few_test_images():
    assert summary.summarise(BETTER, correct_of(BETTER, 2000))["verdict"] == "positive"
    assert summary.summarise(BETTER, correct_of(BETTER, 20))["verdict"] == "inconclusive"


def with_convergence(runs, transfer, scratch):
    told_by_arm = {"transfer": iter(transfer), "scratch": iter(scratch)}
    return [{**one, "converged": next(told_by_arm[one["arm"]])} for one in runs]


@pytest.mark.parametrize(
    ("transfer", "scratch", "cells", "words"),
    [
        ((True,) * 3, (True,) * 3, ["yes", "yes"], "Transfer beats training from scratch over"),
        ((None,) * 3, (None,) * 3, ["-", "-"], "Transfer beats training from scratch over"),
        (
            (True,) * 3,
            (False, True, False),
            ["yes", "1 of 3"],
            "Transfer beats training from scratch, which had not converged (2 of 3 runs), over 3",
        ),
        (
            (False,) * 3,
            (None, True, True),
            ["no", "yes"],
            "Transfer, which had not converged (3 of 3 runs), beats training from scratch over 3",
        ),
    ],
)
def test_table_and_verdict_tell_which_arm_had_not_converged(transfer, scratch, cells, words):
    text = told(with_convergence(BETTER, transfer, scratch))
    for arm, cell in zip(summary.ARMS, cells, strict=True):
        assert f"   {cell}   " in line_of(text, arm)
    assert f"Verdict: positive. {words}" in verdict_of(text)
    level = with_convergence(LEVEL, transfer[:2], scratch[:2])
    assert (" had not converged (" in verdict_of(told(level))) == (False in transfer + scratch)


def test_verdict_warns_from_the_second_look_on():
    warning = f"up to {looks.FALSE_VERDICTS} % of the verdicts are false"
    assert "look" not in verdict_of(told(BETTER, more={"looks": [[0, 1, 2]]}))
    second = verdict_of(told(BETTER, more={"looks": [[0, 1], [0, 1, 2]]}))
    assert "This is look 2 at the comparison" in second and warning in second
    assert "look" not in verdict_of(told(ONE, more={"looks": [[0, 1], [0, 1, 2]]}))


def test_table_has_the_spread_of_the_sources_where_each_seed_has_its_own():
    sources = [
        {"seed": seed, "dataset": "mnist_5k", "test": {"accuracy": accuracy, "loss": 0.1}}
        for seed, accuracy in enumerate((0.97, 0.98, 0.99))
    ]
    runs = [
        {**one, "zero_shot": {"accuracy": (0.6, 0.7, 0.8)[one["seed"]]}}
        if one["arm"] == "transfer"
        else one
        for one in BETTER
    ]
    more = {"source": None, "sources": sources}
    text = told(runs, more=more, source_seed="paired")
    assert text.startswith("mnist_5k -> digits\n")
    assert "source       98.00 ± 1.00 %  on the test images of mnist_5k" in text
    assert "zero-shot    70.00 ± 10.00 %  on the test images of digits" in text


def test_table_of_one_seed_has_a_dash_for_its_spread_and_no_interval():
    text = told(ONE)
    assert line_of(text, "transfer").split()[3:5] == ["-", "0.38"]
    assert "95 % interval" not in text
    assert "\nseed " not in text


def test_table_of_scratch_alone_names_no_source():
    assert told([run("scratch", 0, 0.9)], source=None).startswith("digits\nsmall_cnn, ")


def test_table_has_a_dash_for_the_speed_of_no_steps():
    text = told([run("transfer", 0, 0.9, steps=0, rate=0.0), run("scratch", 0, 0.5, rate=0.0)])
    assert line_of(text, "transfer").split()[-1] == "-"


def test_table_shows_a_range_of_steps_where_runs_stopped_early():
    text = told([run("transfer", 0, 0.9, steps=90), run("transfer", 1, 0.9, steps=120)])
    assert "  90-120  " in text


def test_table_fits_a_terminal():
    runs = with_convergence(BETTER, (False, True, True), (True, False, True))
    more = {"looks": [[0, 1], [0, 1, 2]]}
    for text in (told(runs, images=10_000, more=more), told(ONE), told(LEVEL, more=more)):
        assert max(map(len, text.splitlines())) <= 100


UNEVEN = {
    "cat": {"train": 40, "validation": 10, "test": 1900},
    "dog": {"train": 5, "validation": 1, "test": 100},
}
EVEN = {name: {"train": 5, "validation": 0, "test": n} for name, n in (("a", 900), ("b", 1100))}


def with_balanced(runs, values):
    return [
        {**one, "test": {**one["test"], "balanced_accuracy": value}}
        for one, value in zip(runs, values, strict=True)
    ]


def test_table_of_uneven_classes_has_the_mean_balanced_accuracy_of_each_arm():
    runs = with_balanced(BETTER, (0.7, 0.8, 0.87, 0.5, 0.5, 0.5))
    text = told(runs, images=10_000, more={"class_counts": UNEVEN})
    heading = next(line for line in text.splitlines() if line.startswith("test "))
    end = heading.index("balanced") + len("balanced")
    for arm, cell in (("transfer", "79.00 %"), ("scratch", "50.00 %")):
        row = line_of(text, arm)
        assert row[:end].endswith(f" {cell}") and len(row) == len(heading)
    assert max(map(len, text.splitlines())) <= 100
    # The gain stands under the accuracy, whose difference it is.
    plus = next(line for line in text.splitlines() if line.startswith("gain "))
    assert plus.index("+4.50") + 5 == heading.index("accuracy") + len("accuracy %") - 4
    assert text.splitlines()[2:6] == [
        "",
        "train   validation   test   class",
        "   40           10   1900   cat",
        "    5            1    100   dog",
    ]
    assert verdict_of(text) == verdict_of(told(BETTER, images=10_000))


def test_table_of_even_classes_has_one_line_more_and_no_column():
    lines = told(with_balanced(BETTER, (0.9,) * 6), more={"class_counts": EVEN}).splitlines()
    wanted = "2 classes, each with 5 train, 0 validation and 900-1100 test images"
    assert lines[2] == wanted
    assert lines[:2] + lines[3:] == told(BETTER).splitlines()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (125, "2 min 05 s"), (7325, "2 h 02 min")],
)
def test_table_writes_times_as_people_say_them(seconds, words):
    assert f"  {words}  " in told([{**run("scratch", 0, 0.9), "seconds": seconds}])
