"""The map of pixels that a network expects: as a flag, in our files, and composed."""

import dataclasses
import json

import pytest

from tl_keras.cli import flags
from tl_keras.config.preprocessing import NAMED, Preprocessing, parse
from tl_keras.errors import DataError, UsageError
from tl_keras.models import weights
from tl_keras.models.weights import Origin

RGB = Preprocessing((1.0, 2.0, 3.0), (-0.5, 0.0, 0.5))


@pytest.mark.parametrize(
    "text, expected",
    [
        *NAMED.items(),
        ("0.5:-1", Preprocessing((0.5,), (-1.0,))),
        ("2,2,2:1", Preprocessing((2.0,), (1.0,))),
        ("1,2,3:-0.5,0,0.5", RGB),
        ("2:1,2,3:bgr", Preprocessing((2.0,) * 3, (1.0, 2.0, 3.0), bgr=True)),
    ],
)
def test_parse_reads_what_it_writes(text, expected):
    assert parse(text) == expected
    assert parse(str(expected)).is_equivalent(expected)


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", ":", "1:", ":0", "1:0:rgb", "1:0:bgr:", "1,2:0", "1,2,3,4:0", "a:0", "keras"),
        *("nan:0", "inf:0", "1:nan", "0:0", "1e300:0", "1e-300:0", "1:1e300", "TF"),
    ],
)
def test_parse_refuses_other_texts_and_says_what_is_allowed(text):
    with pytest.raises(ValueError, match="is none of auto, tf, torch, caffe, none, SCALE:OFFSET"):
        parse(text)
    with pytest.raises(UsageError, match="^--source_preprocessing=.* is none of") as caught:
        flags.parse(["tl_keras", "--source_weights=a.h5", f"--source_preprocessing={text}"])
    assert "\n" not in str(caught.value)


def test_flag_needs_a_file_and_makes_another_experiment():
    with pytest.raises(UsageError, match="--source_weights names none"):
        flags.parse(["tl_keras", "--source_preprocessing=tf"])
    known = [
        flags.parse(["tl_keras", "--source_weights=a.h5", f"--source_preprocessing={one}"])
        for one in ("auto", "tf")
    ]
    assert known[0].experiment() != known[1].experiment()


def in_three_channels(one: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and offset of each channel, where one may stand for all."""
    return one.scale * (3 // len(one.scale)), one.offset * (3 // len(one.offset))


def test_before_gives_what_both_together_do():
    for wanted in (*NAMED.values(), RGB):
        for inside in (NAMED["tf"], NAMED["torch"]):
            first = wanted.without(inside)
            scales, offsets = in_three_channels(first)
            scales_in, offsets_in = in_three_channels(inside)
            both = Preprocessing(
                tuple(a * b for a, b in zip(scales, scales_in, strict=True)),
                tuple(b * o + p for b, o, p in zip(scales_in, offsets, offsets_in, strict=True)),
                first.bgr,
            )
            assert both.is_equivalent(wanted)


def test_same_tells_one_part_in_ten_thousand_and_the_order_of_channels():
    for one in (*NAMED.values(), RGB):
        assert one.is_equivalent(one)
        scale = tuple(value * 1.0001 for value in one.scale)
        assert not one.is_equivalent(dataclasses.replace(one, scale=scale))
        assert not one.is_equivalent(dataclasses.replace(one, bgr=not one.bgr))


def described(**changes) -> str:
    origin = Origin("letters", ("a", "b"), "mobilenet", 32, 3, preprocessing=RGB)
    fields = dataclasses.asdict(origin)
    fields["preprocessing"] |= changes
    return json.dumps(fields)


def test_origin_keeps_its_preprocessing_and_old_files_have_none():
    assert weights.parse_origin(described()).preprocessing == RGB
    old = json.loads(described())
    del old["preprocessing"]
    assert weights.parse_origin(json.dumps(old)).preprocessing is None


@pytest.mark.parametrize(
    "changes",
    [
        *({"scale": value} for value in ("abc", [], [1, 2], [1, 2, "3"], [True] * 3, None, 3)),
        *({"scale": value} for value in ([0, 1, 1], [1e300, 1, 1], [float("nan"), 1, 1])),
        *({"scale": [10**400, 1, 1]},),
        *({"scale": [1]}, {"scale": [1, 1, 1], "offset": [0]}, {"more": 1}),
        *({"offset": value} for value in ([float("inf"), 0, 0], [-1e300, 0, 0], {"a": 1})),
        *({"bgr": value} for value in (1, None, "yes")),
    ],
)
def test_damaged_preprocessing_of_our_own_file_is_refused(changes):
    with pytest.raises(DataError, match="its description cannot be read") as caught:
        weights.parse_origin(described(**changes))
    assert "\n" not in str(caught.value)
