"""Random changes of pictures: what they do, how far they go, and that the key alone decides."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tl_keras.data import augment as augment_module
from tl_keras.data.augment import augment, draw
from tl_keras.data.augment_spec import OPERATIONS, Augmentation, parse
from tl_keras.data.catalog import DATASETS
from tl_keras.errors import UsageError

EVERYTHING = "shift:0.1,rotate:0.1,zoom:0.2,flip,crop:2,color:0.3"
ALL_TEXTS = ("shift:0.2", "rotate:0.5", "zoom:0.5", "flip,crop:3", "color:0.5", "randaugment:3")


def make_keys(count, seed=0, epoch=0):
    return np.stack([np.full(count, seed), np.full(count, epoch), np.arange(count)], axis=1)


def make_pictures(count, height=12, width=12, channels=3):
    return np.random.default_rng(0).integers(
        0, 256, (count, height, width, channels), dtype=np.uint8
    )


def run(pictures, text, keys=None):
    keys = make_keys(len(pictures)) if keys is None else keys
    return augment(tf.constant(pictures), tf.constant(keys), parse(text)).numpy()


def fix_draws(monkeypatch, **columns):
    """Make every draw 0 (the middle of its range) but those named, which are parts of it."""
    row = np.zeros(10 + 3 * 10, np.int64)
    for name, part in columns.items():
        row[getattr(augment_module, name)] = int(part * 2**31)
    monkeypatch.setattr(augment_module, "draw", lambda keys, _: tf.constant([row] * len(keys)))


def test_parse_reads_every_operation():
    text = " shift:0.08, rotate:0.04,zoom:1e-1,flip,crop:4,color:1,randaugment:2:0.25 "
    assert parse(text) == Augmentation(0.08, 0.04, 0.1, True, 4, 1.0, 2, 0.25)
    assert parse("randaugment:2").magnitude == 0.5
    assert parse("none") == Augmentation()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not known"),
        ("rotat:0.1", "'rotat' is not known; allowed are none, auto, or a comma list of flip"),
        ("shift:0.1,", "'' is not known"),
        ("shift", "shift takes one value, as in shift:P (parts of the side, 0 to 1)"),
        ("shift:", "'' is not a number"),
        ("shift:1.01", "out of range; allowed is shift:P (parts of the side, 0 to 1)"),
        ("shift:-0.1", "out of range"),
        ("shift:nan", "out of range"),
        ("rotate:0.6", "rotate:P (turns, 0 to 0.5)"),
        ("zoom:inf", "zoom:P (parts of the side, 0 to 0.9)"),
        ("zoom:0.1:0.2", "zoom takes one value"),
        ("crop:4.5", "'4.5' is not a whole number; allowed is crop:N (whole pixels, 1 to 64)"),
        ("crop:0", "out of range"),
        ("color:red", "'red' is not a number"),
        ("randaugment:11", "randaugment:N (whole operations a picture, 1 to 10)"),
        ("randaugment:2:2", "magnitude, 0 to 1"),
        ("randaugment:2:0.1:3", "randaugment takes one value"),
        ("flip:1", "flip takes no value"),
        ("flip,flip", "'flip' is named twice"),
        ("none,flip", "'none' stands for a whole list"),
        ("flip,auto", "'auto' stands for a whole list"),
    ],
)
def test_parse_says_what_is_wrong_and_what_is_allowed(text, told):
    with pytest.raises(UsageError) as error:
        parse(text, flag="source_augment")
    assert str(error.value).startswith(f"--source_augment={text}: ")
    assert told in str(error.value)


@given(st.text() | st.text(alphabet="shiftcropnaudgme:,.0159-", max_size=30))
def test_parse_refuses_only_with_a_usage_error(text):
    try:
        augmentation = parse(text)
    except UsageError as error:
        assert text in str(error)
    else:
        assert 0 <= augmentation.shift <= 1
        assert 0 <= augmentation.crop <= 64


@given(st.sampled_from(["shift", "rotate", "zoom", "color"]), st.floats())
def test_parse_keeps_to_the_range_of_each_value(name, value):
    if OPERATIONS[name].low <= value <= OPERATIONS[name].high:
        assert getattr(parse(f"{name}:{value}"), name) == value
    else:
        with pytest.raises(UsageError):
            parse(f"{name}:{value}")


def test_parse_reads_the_default_of_every_dataset():
    assert all(parse(entry.augment) for entry in DATASETS.values())


def test_parser_does_not_import_tensorflow():
    code = "import sys, tl_keras.data.augment_spec; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def splitmix64(key, count):
    """Write the generator of `draw` in Python's whole numbers."""

    def mix(z):
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    state = 0
    for number in key:
        gammas = 1 if number is key[0] else 0
        state = mix((state + 0x9E3779B97F4A7C15 * (gammas or number) + gammas * number) % 2**64)
    steps = [(state + 0x9E3779B97F4A7C15 * step) % 2**64 for step in range(1, count + 1)]
    return [(mix(step) >> 32) - 2**31 for step in steps]
