"""Tests of the tables and the picture of a comparison."""

import io

import numpy as np
from PIL import Image

from tl_keras.report import curves

IMAGES = 5000


def right(*accuracies):
    """Return seed -> which test images are right, one seed an accuracy; the last ones are wrong."""
    return {
        seed: np.arange(IMAGES) < round(accuracy * IMAGES)
        for seed, accuracy in enumerate(accuracies)
    }


FOUND = {
    "scratch": {5: right(0.50, 0.52, 0.54), None: right(0.90, 0.91, 0.92)},
    "finetune": {5: right(0.80, 0.82, 0.84), None: right(0.90, 0.92, 0.91)},
    "l2sp": {5: right(0.70, 0.72, 0.74), None: right(0.95, 0.96, 0.971)},
}


def test_table_has_a_row_a_method_and_a_column_a_number_of_labels():
    text = curves.format_markdown("a -> b", FOUND, (5, None), 0.4321)
    lines = text.splitlines()
    assert lines[0] == "### a -> b"
    assert "Before any training on the target: 43.21 %." in lines
    assert "| labels a class | 5                   | all                 |" in lines
    assert "| finetune       | 82.00 ± 2.00 (0.53) | 91.00 ± 1.00 (0.39) |" in lines
    assert "| scratch        | 52.00 ± 2.00 (0.69) | 91.00 ± 1.00 (0.39) |" in lines


def test_tables_beside_finetune_and_scratch_mark_what_is_sure_and_name_the_losers():
    text = curves.format_markdown("", FOUND, (5, None), None)
    assert "Before any training" not in text
    beside, scratch = text.split("Difference from ")[1:]
    assert beside.startswith("finetune") and scratch.startswith("scratch")
    assert "-10.00 (-10.75 to -9.25) ▼" in beside
    assert "Worse than finetune: scratch at 5, l2sp at 5." in beside
    assert "+0.00 (" in scratch, "finetune equals scratch in the mean where all labels are known"
    assert "Worse than scratch: none." in scratch


def test_one_seed_has_neither_deviation_nor_interval():
    text = curves.format_markdown("", {"l2": {1: right(0.5)}}, (1,), None)
    assert "| l2             | 50.00 (0.71) |" in text
    assert "Difference" not in text


def test_missing_runs_are_told_by_a_dash():
    found = {**FOUND, "bss": {5: right(0.7, 0.7, 0.7)}}
    text = curves.format_markdown("", found, (5, None), None)
    assert "| bss            | 70.00 ± 0.00 (0.65) | -                   |" in text


def test_table_of_uneven_classes_is_followed_by_the_balanced_accuracies():
    balanced = {"scratch": {5: {0: 0.4, 1: 0.5}}, "l2": {5: {0: 0.625}, None: {0: 0.75}}}
    text = curves.format_markdown("", FOUND, (5, None), None, balanced)
    accuracies, table = text.split("Difference from")[0].split("Balanced accuracy in %")
    assert "| finetune " in accuracies
    assert table.splitlines()[2:] == [
        "| labels a class | 5            | all   |",
        "| -------------- | ------------ | ----- |",
        "| scratch        | 45.00 ± 7.07 | -     |",
        "| l2             | 62.50        | 75.00 |",
        "",
    ]
    assert "Balanced" not in curves.format_markdown("", FOUND, (5, None), None)


def counts_of(train, test):
    return {
        f"c|{number}": {"train": count, "validation": 0, "test": test[number]}
        for number, count in enumerate(train)
    }


def test_classes_are_a_sentence_a_table_or_a_list():
    assert curves.format_classes(counts_of([5, 5], [20, 21]), 5) == (
        "Images of a class, with 5 labels a class: 2 classes, each with 5 train, 0 validation and"
        " 20-21 test images.\n"
    )
    assert curves.format_classes(counts_of([1, 40], [0, 12]), None).split("\n") == [
        "Images of a class, with all labels:",
        "",
        "| train | validation | test | class |",
        "| ----- | ---------- | ---- | ----- |",
        "| 1     | 0          | 0    | c\\|0  |",
        "| 40    | 0          | 12   | c\\|1  |",
        "",
        "Fewer than 5 test images: c|0 (none).",
        "",
    ]
    many = curves.format_classes(counts_of([1] * 21, range(5, 26)), 1)
    assert many == (
        "Images of a class, with 1 label a class, 21 classes:\n\n- train: 1 each\n"
        "- validation: none\n- test: 5 (c|0) to 25 (c|20), median 15\n"
    )


def test_difference_of_seeds_that_agree_is_not_sure_on_a_few_images():
    found = {
        name: {5: {seed: np.arange(20) < number for seed in range(3)}}
        for name, number in (("scratch", 18), ("finetune", 19))
    }
    text = curves.format_markdown("", found, (5,), None)
    assert "+5.00 (" in text and "▲ |" not in text
    assert "Worse than finetune: none." in text


def test_plot_is_a_picture_with_a_line_for_each_method():
    content = curves.plot("a -> b", FOUND, (5, None), 600.0, 0.43)
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 300_000
    # The first two of tab20 for the methods, black for scratch, grey for the source.
    for colour in ((31, 119, 180), (174, 199, 232), (0, 0, 0), (128, 128, 128)):
        assert (pixels == colour).all(axis=1).sum() > 20


def test_plot_takes_a_folder_s_name_as_it_is():
    title = "$a -> folder:/\\frac$/数字"
    picture = curves.plot(title, FOUND, (5, None), 20.0, None)
    assert picture.startswith(b"\x89PNG")
