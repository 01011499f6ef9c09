import json
import math

import pytest

from tl_keras.report import summary

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


def told(runs, source=SOURCE, **settings):
    report = {
        "config": {**CONFIG, **settings},
        "source": source,
        "runs": runs,
        "summary": summary.summarise(runs),
    }
    return summary.table(report)


BETTER = arms({0: 0.97, 1: 0.975, 2: 0.98}, {0: 0.93, 1: 0.93, 2: 0.93})
LEVEL = arms({0: 0.93, 1: 0.95}, {0: 0.94, 1: 0.94})
ONE = arms({0: 0.97}, {0: 0.93})


def line_of(text, name):
    (line,) = [line for line in text.splitlines() if line.startswith(name) and "%" in line]
    return line


def test_summary_pairs_the_arms_by_seed():
    found = summary.summarise(BETTER)
    assert found["transfer"] == pytest.approx({"mean": 0.975, "std": 0.005, "n": 3})
    assert found["scratch"] == pytest.approx({"mean": 0.93, "std": 0, "n": 3})
    reach = 4.302653 * 0.005 / math.sqrt(3)
    assert found["gain"]["mean"] == pytest.approx(0.045)
    assert found["gain"]["ci95"] == pytest.approx([0.045 - reach, 0.045 + reach])
    assert found["verdict"] == "positive"
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_summary_of_a_single_arm_has_no_gain():
    found = summary.summarise([run("scratch", 3, 0.5)])
    assert found == {
        "transfer": None,
        "scratch": {"mean": 0.5, "std": None, "n": 1},
        "gain": None,
        "verdict": None,
    }


def test_summary_of_one_seed_is_inconclusive():
    found = summary.summarise(ONE)
    assert found["gain"] == {"mean": pytest.approx(0.04), "ci95": None}
    assert found["verdict"] == "inconclusive"


def test_table_says_what_was_done():
    first, second = told(BETTER).splitlines()[:2]
    assert first == "mnist_5k -> digits"
    assert second == "finetune of small_cnn, 10 labelled images a class, seeds 0, 1, 2"
    assert "1 labelled image a class, seed 0" in told(ONE, shots=1)
    assert "all labelled images" in told(ONE, shots=0)


def test_table_names_the_weights_file_that_was_given():
    source = {"dataset": "emnist/letters", "test": None, "weights_sha256": "ab"}
    text = told(ONE, source=source, source_weights="a.weights.h5")
    assert text.startswith("emnist/letters (a.weights.h5) -> digits\n")
    assert "on the test images of emnist" not in text


def test_table_has_accuracies_in_percent_and_the_gain_in_points():
    text = told(BETTER)
    assert line_of(text, "transfer").split() == [
        "transfer", "97.50", "%", "0.50", "120", "12.3", "s", "21,034"
    ]  # fmt: skip
    assert line_of(text, "scratch").split()[1:4] == ["93.00", "%", "0.00"]
    assert "gain         +4.50  points; 95 % interval +3.26 to +5.74" in text
    assert "3 pairs of runs" in text


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
        (BETTER, "Verdict: positive. Transfer beats training from scratch over 3 seeds"),
        (arms({0: 0.5, 1: 0.51}, {0: 0.9, 1: 0.9}), "Verdict: negative. Transfer does harm"),
        (LEVEL, "Verdict: inconclusive. The interval over 2 seeds holds zero"),
        (ONE, "Verdict: inconclusive. One pair of runs has no interval"),
        ([run("scratch", 0, 0.9)], "Verdict: none. There are only scratch runs"),
        ([run("transfer", 0, 0.9)], "Verdict: none. There are only transfer runs"),
        (arms({0: 0.9}, {1: 0.9}), "Verdict: none. No seed has both runs"),
    ],
)
def test_table_ends_with_what_the_verdict_means(runs, words):
    assert told(runs).split("\n\n")[-1].startswith(words)


def test_table_of_one_seed_has_a_dash_for_its_spread_and_no_interval():
    text = told(ONE)
    assert line_of(text, "transfer").split()[3] == "-"
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
    assert max(map(len, told(BETTER).splitlines())) <= 100


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (99.9, "99.9 s"), (125, "2 min 05 s"), (7325, "2 h 02 min")],
)
def test_table_writes_times_as_people_say_them(seconds, words):
    assert f"  {words}  " in told([{**run("scratch", 0, 0.9), "seconds": seconds}])
