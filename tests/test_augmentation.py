"""The language of `--augment`: what it reads, and what it says of mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_keras.config.augmentation import OPERATIONS, Augmentation, parse
from tl_keras.data.catalog import DATASETS


def test_parse_reads_every_operation():
    text = " shift:0.08, rotate:0.04,zoom:1e-1,flip,crop:4,color:1,randaugment:2:0.25 "
    text += ",mixup:0.2,cutmix:10,resized_crop:0.35"
    assert parse(text) == Augmentation(0.35, 0.08, 0.04, 0.1, True, 4, 1.0, 2, 0.25, 0.2, 10.0)
    assert parse("randaugment:2").magnitude == 0.5
    assert parse("none") == Augmentation()


@pytest.mark.parametrize(("text", "enlargement"), [("resized_crop:0.64", 1.25), ("flip", 1)])
def test_enlargement_gives_the_smallest_window_the_pixels_of_the_model(text, enlargement):
    assert parse(text).enlargement == enlargement
    assert parse("resized_crop:0.08").enlargement == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not known"),
        ("rotat:0.1", "'rotat' is not known. Allowed: none, auto, or a comma list of flip"),
        ("shift:0.1,", "'' is not known"),
        ("shift", "shift takes one value, as in shift:P (fractions of the side, 0 to 1)"),
        ("shift:", "'' is not a number"),
        ("shift:1.01", "out of range. Allowed: shift:P (fractions of the side, 0 to 1)"),
        ("shift:-0.1", "out of range"),
        ("shift:nan", "out of range"),
        ("rotate:0.6", "rotate:P (turns, 0 to 0.5)"),
        ("zoom:inf", "zoom:P (fractions of the side, 0 to 0.9)"),
        ("zoom:0.1:0.2", "zoom takes one value"),
        ("crop:4.5", "'4.5' is not a whole number. Allowed: crop:N (whole pixels, 1 to 64)"),
        ("crop:0", "out of range"),
        ("color:red", "'red' is not a number"),
        ("randaugment:11", "randaugment:N (whole operations per image, 1 to 10)"),
        ("randaugment:2:2", "magnitude, 0 to 1"),
        ("randaugment:2:0.1:3", "randaugment takes one value"),
        ("mixup", "mixup takes one value, as in mixup:A (alpha of Beta(alpha, alpha), 0.01 to 10)"),
        ("mixup:0", "'0' is out of range. Allowed: mixup:A"),
        ("flip,mixup:10.1", "'10.1' is out of range"),
        ("cutmix:nan", "'nan' is out of range. Allowed: cutmix:A"),
        ("cutmix:1:2", "cutmix takes one value"),
        ("cutmix:much", "'much' is not a number"),
        ("mixup:1,mixup:1", "'mixup' is given twice"),
        ("flip:1", "flip takes no value"),
        ("flip,flip", "'flip' is given twice"),
        ("none,flip", "'none' is a list of its own"),
        ("flip,auto", "'auto' is a list of its own"),
    ],
)
def test_parse_says_what_is_wrong_and_what_is_allowed(text, told):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert told in str(error.value)


@given(st.text() | st.text(alphabet="shiftcropnaudgme:,.0159-", max_size=30))
def test_parse_refuses_only_with_a_value_error(text):
    try:
        augmentation = parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert 0 <= augmentation.shift <= 1
        assert 0 <= augmentation.crop <= 64


@given(st.sampled_from(["shift", "rotate", "zoom", "color", "mixup", "cutmix"]), st.floats())
def test_parse_keeps_to_the_range_of_each_value(name, value):
    if OPERATIONS[name].low <= value <= OPERATIONS[name].high:
        assert getattr(parse(f"{name}:{value}"), name) == value
    else:
        with pytest.raises(ValueError):
            parse(f"{name}:{value}")


def test_augmentation_is_false_where_nothing_changes():
    assert not parse("none")
    assert parse("shift:0,color:0").is_identity
    assert all(parse(text) for text in ("flip", "crop:1", "color:0.1", "randaugment:1:0"))
    assert all(parse(text).mixes for text in ("mixup:0.01", "cutmix:1", "flip,mixup:1,cutmix:1"))
    assert not any(parse(text).mixes for text in ("none", "flip,color:1"))


def test_augmentation_is_a_key_of_dicts():
    assert len({parse("flip,crop:4"), parse("crop:4,flip"), parse("flip")}) == 2


def test_parse_reads_the_default_of_every_dataset():
    assert all(
        entry.augment and parse(str(entry.augment)) == entry.augment for entry in DATASETS.values()
    )


def test_parser_does_not_import_tensorflow():
    code = "import sys, tl_keras.config.augmentation; sys.exit('tensorflow' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
