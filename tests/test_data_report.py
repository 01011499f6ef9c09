"""Tests of the look at all pictures, and of what is done about copies."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_duplicates import made_photos, save_again

from tl_keras.errors import DataError
from tl_keras.pictures.analysis import analyse
from tl_keras.pictures.data_report import KINDS, DataReport, make_report, resolve

CLASSES = ("cat", "dog", "owl")


def small_report(rows: list[tuple[int, str, int]], photos: np.ndarray | None = None) -> DataReport:
    """Look at pictures given by (number of the photo, split, label); number -1 is blank."""
    photos = made_photos(20, size=32) if photos is None else photos
    images = np.stack(
        [photos[number] if number >= 0 else np.full_like(photos[0], 90) for number, _, _ in rows]
    )
    labels = np.array([label for _, _, label in rows], np.int64)
    names = [f"{split}/{place}.png" for place, (_, split, _) in enumerate(rows)]
    return make_report(
        analyse(images), labels, np.array([split for _, split, _ in rows]), names, CLASSES
    )


def counts_of(report: DataReport) -> dict[str, int]:
    return {kind: finding.count for kind, finding in report.findings.items() if finding.count}


def kept(report: DataReport, mode: str = "drop") -> list[int]:
    mask = resolve(report, mode)
    assert mask.dtype == bool
    return np.flatnonzero(mask).tolist()


def test_look_finds_nothing_where_all_differ() -> None:
    report = small_report([(0, "train", 0), (1, "train", 1), (2, "validation", 0), (3, "test", 1)])
    assert counts_of(report) == {}
    assert list(report.findings) == list(KINDS)
    assert report.log_lines() == []
    for mode in ("warn", "drop", "error"):
        assert kept(report, mode) == [0, 1, 2, 3]


def test_look_finds_blank_pictures_of_one_colour_or_little_range() -> None:
    images = np.zeros((5, 8, 8, 3), np.uint8)
    images[0] = (250, 10, 40)
    images[1, 3, 3] = 25
    images[2, 3, 3] = 26
    images[3, :, 4:] = 255
    images[4] = np.arange(64).reshape(8, 8, 1)
    report = make_report(
        analyse(images), np.zeros(5, int), np.array(["train"] * 5), list("abcde"), CLASSES
    )
    assert report.findings["blank"].examples == [(0,), (1,)]
    assert report.log_lines() == ["2 pictures are blank: 'a', 'b'"]


def test_look_counts_each_kind_and_tells_exact_from_near() -> None:
    photos = made_photos(30)
    photos[20:24] = [save_again(photo, 80) for photo in photos[:4]]
    report = small_report(
        [
            *((0, "train", 0), (0, "train", 0), (20, "train", 0)),  # 0 1 2: exact, near
            *((1, "train", 1), (1, "test", 1), (21, "validation", 1)),  # 3 4 5: leaks
            *((2, "train", 0), (2, "train", 1), (22, "train", 2)),  # 6 7 8: conflicts
            *((3, "test", 0), (23, "test", 0)),  # 9 10: near, within the test split
            *((number, "train", number % 3) for number in range(5, 19)),
        ],
        photos,
    )
    findings = {kind: finding.examples for kind, finding in report.findings.items()}
    assert findings == {
        "blank": [],
        "exact_duplicate": [(1, 0), (7, 6)],
        "near_duplicate": [(2, 0), (8, 6), (10, 9)],
        "exact_leak": [(3, 4)],
        "near_leak": [(5, 4)],
        "exact_conflict": [(6, 7), (7, 6)],
        "near_conflict": [(8, 6)],
    }
    assert counts_of(report) == {kind: len(pairs) for kind, pairs in findings.items() if pairs}
    # Near copies in the training split stay, and the test split is as it was.
    gone = set(range(25)) - set(kept(report))
    assert gone == {1, 3, 5, 6, 7}
    assert kept(report, "warn") == list(range(25))


def test_look_without_near_finds_exact_copies_alone() -> None:
    photos = made_photos(3)
    images = np.concatenate([photos, [save_again(photos[0], 90)], photos[1:2]])
    report = make_report(
        analyse(images, exact_only=True),
        np.zeros(5, int),
        np.array(["train"] * 5),
        list("abcde"),
        CLASSES,
    )
    assert counts_of(report) == {"exact_duplicate": 1}


def test_report_as_json_has_the_form_that_is_documented() -> None:
    rows = [(0, "test", 0), *((0, "train", 1) for _ in range(30)), (-1, "train", 2)]
    report = small_report(rows)
    found = json.loads(json.dumps(report.as_json()))
    assert list(found) == ["version", "pictures", "findings"]
    assert found["version"] == 1
    assert found["pictures"] == {"test": 1, "train": 31}
    assert list(found["findings"]) == list(KINDS)
    leaks = found["findings"]["exact_leak"]
    assert leaks["count"] == 30
    assert len(leaks["examples"]) == 20
    assert leaks["examples"][0] == [
        {"name": "train/1.png", "split": "train", "class": "dog"},
        {"name": "test/0.png", "split": "test", "class": "cat"},
    ]
    assert found["findings"]["blank"] == {
        "count": 1, "examples": [[{"name": "train/31.png", "split": "train", "class": "owl"}]],
    }  # fmt: skip


def test_report_takes_names_of_any_bytes() -> None:
    names = ["a\udcff\n.png", "b'\u2028.png"]
    images = np.repeat(made_photos(1, size=32), 2, axis=0)
    report = make_report(analyse(images), np.zeros(2, int), np.array(["train"] * 2), names, CLASSES)
    [line] = report.log_lines()
    line.encode()
    assert len(line.splitlines()) == 1
    [[first, second]] = report.as_json()["findings"]["exact_duplicate"]["examples"]
    assert second["name"] == "a\\xff\n.png"
    json.dumps(report.as_json(), ensure_ascii=False).encode()
    with pytest.raises(DataError) as caught:
        resolve(report, "error")
    assert len(str(caught.value).splitlines()) == 1


def test_log_lines_name_three_examples_and_say_that_there_are_more() -> None:
    report = small_report([(0, "train", 0) for _ in range(6)])
    assert report.log_lines() == [
        "5 pictures are copies of another in the same split: 'train/1.png' and 'train/0.png',"
        " 'train/2.png' and 'train/0.png', 'train/3.png' and 'train/0.png', ..."
    ]


def test_resolve_error_names_counts_files_and_the_ways_out() -> None:
    report = small_report([(0, "train", 0), (0, "test", 0), (1, "train", 1), (1, "train", 1)])
    with pytest.raises(DataError) as caught:
        resolve(report, "error")
    for part in (
        "1 training or validation pictures are copies of a test picture: 'train/0.png' and"
        " 'test/1.png'",
        "1 pictures are copies of another in the same split: 'train/3.png' and 'train/2.png'",
        "--on_duplicates=drop",
        "--on_duplicates=warn",
    ):
        assert part in str(caught.value)


def test_resolve_error_accepts_near_duplicates_within_a_split_but_no_near_leak() -> None:
    photos = made_photos(30)
    photos[20] = save_again(photos[0], 80)
    rows = [(number, "train", 0) for number in range(21)]
    report = small_report(rows, photos)
    assert counts_of(report) == {"near_duplicate": 1}
    assert resolve(report, "error").all()
    rows[0] = (0, "test", 0)
    with pytest.raises(DataError, match="1 training .* nearly the same as a test picture"):
        resolve(small_report(rows, photos), "error")


def test_resolve_drop_refuses_to_leave_a_class_without_training_pictures() -> None:
    rows = [(0, "test", 0), (0, "train", 0), (1, "train", 1), (2, "train", 1)]
    with pytest.raises(DataError, match=r"no training picture of 1 of the classes: 'cat'"):
        resolve(small_report(rows), "drop")
    assert kept(small_report([*rows, (3, "train", 0)])) == [0, 2, 3, 4]


def test_resolve_refuses_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="on_duplicates is one of warn, drop, error, not 'no'"):
        resolve(small_report([(0, "train", 0)]), "no")


def test_look_refuses_columns_of_different_lengths() -> None:
    with pytest.raises(ValueError, match="1 images, 2 labels"):
        make_report(analyse(made_photos(1)), np.zeros(2, int), np.array(["train"]), ["a"], CLASSES)


ROWS = st.lists(
    st.tuples(
        st.integers(0, 6), st.sampled_from(["train", "validation", "test"]), st.integers(0, 2)
    ),
    max_size=20,
)
PHOTOS = made_photos(10, size=16)


@given(ROWS)
def test_resolve_drop_leaves_no_leak_copy_or_conflict_outside_the_test_split(rows) -> None:
    # A last picture of each class that nothing is a copy of.
    rows = [*rows, (7, "train", 0), (8, "train", 1), (9, "train", 2)]
    keep = resolve(small_report(rows, PHOTOS), "drop")
    tests = {number for number, split, _ in rows if split == "test"}
    labels: dict[int, set[int]] = {}
    first: dict[int, int] = {}
    for place, (number, split, label) in enumerate(rows):
        if split != "test":
            labels.setdefault(number, set()).add(label)
            first.setdefault(number, place)
    for place, (number, split, _) in enumerate(rows):
        wanted = split == "test" or (
            number not in tests and len(labels[number]) == 1 and first[number] == place
        )
        assert keep[place] == wanted
