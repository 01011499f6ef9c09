import warnings

import numpy as np
import pytest

from tl_keras.report import pictures

DIGITS = tuple("0123456789")


def count(pixels, color):
    return int((pixels == np.array(color)).all(axis=-1).sum())


def test_batch_draws_each_picture_in_its_own_colours():
    colors = [(200, 30, 60), (10, 220, 90), (40, 50, 250)]
    images = np.array([np.full((8, 8, 3), color) for color in colors], np.uint8)
    drawn = pictures.draw_batch(images, np.array([0, 1, 2]), DIGITS)
    assert drawn.dtype == np.uint8
    areas = [count(drawn, color) for color in colors]
    assert min(areas) > 100 * 100
    assert max(areas) - min(areas) < 0.05 * max(areas)


def test_batch_draws_no_more_than_32():
    images = np.full((33, 4, 4, 1), 77, np.uint8)
    labels = np.zeros(33, int)
    one = count(pictures.draw_batch(images[:1], labels[:1], DIGITS), (77, 77, 77))
    all_of_them = count(pictures.draw_batch(images, labels, DIGITS), (77, 77, 77))
    assert all_of_them / one == pytest.approx(32, rel=0.03)
    thirty_two = pictures.draw_batch(images[:32], labels[:32], DIGITS)
    assert pictures.draw_batch(images, labels, DIGITS).shape == thirty_two.shape


@pytest.mark.parametrize(("number", "rows"), [(1, 2), (8, 2), (9, 4), (16, 4), (40, 4)])
def test_pairs_stand_one_above_the_other(number, rows):
    above = np.full((number, 4, 4, 3), (200, 30, 60), np.uint8)
    below = np.full((number + 2, 4, 4, 3), (10, 220, 90), np.float32)
    drawn = pictures.draw_pairs(above, below, ("image", "rebuilt"))
    areas = [count(drawn, color) for color in ((200, 30, 60), (10, 220, 90))]
    one = count(pictures.draw_pairs(above[:1], below[:1], ("", "")), (200, 30, 60))
    assert areas == pytest.approx([one * min(number, 16)] * 2, rel=0.03)
    # From top to bottom the rows take turns, and each pair fills the same columns.
    turns = [(drawn == np.array(color)).all(axis=-1) for color in ((200, 30, 60), (10, 220, 90))]
    order = [side.any(axis=1) for side in turns]
    changes = np.flatnonzero(np.diff(order[0].astype(int) - order[1].astype(int)))
    assert len(changes) == 2 * rows
    assert np.flatnonzero(turns[0].any(axis=0)).tolist() == pytest.approx(
        np.flatnonzero(turns[1].any(axis=0)).tolist()
    )


def test_batch_keeps_the_shape_of_a_wide_picture():
    color = np.array([200, 30, 60], np.uint8)
    drawn = pictures.draw_batch(np.tile(color, (1, 10, 20, 1)), np.array([0]), DIGITS)
    rows, columns = np.nonzero((drawn == color).all(axis=-1))
    ratio = (np.ptp(columns) + 1) / (np.ptp(rows) + 1)
    assert ratio == pytest.approx(2, rel=0.05)
    assert np.ptp(columns) < drawn.shape[1] / pictures.COLUMNS


def test_batch_draws_floats_as_the_bytes_they_stand_for():
    images = np.full((2, 4, 4, 1), 76.6, np.float32)
    images[1] = 300
    drawn = pictures.draw_batch(images, np.array([0, 1]), DIGITS)
    assert count(drawn, (77, 77, 77)) > 10000
    assert count(drawn, (300 - 256,) * 3) < 50


def test_titles_may_hold_any_text():
    names = ("$\\frac{$", "\u65e5\u672c", "x" * 300)
    images = np.zeros((3, 4, 4, 1), np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn = pictures.draw_batch(images, np.array([0, 1, 2]), names)
        pictures.draw_confusion(np.eye(3, dtype=int), names)
    assert drawn.shape == pictures.draw_batch(images, np.array([0, 1, 2]), DIGITS).shape


def test_mistaken_puts_the_surest_first():
    labels = np.array([0, 1, 2, 3, 4])
    predictions = np.array([0, 2, 1, 4, 4])
    confidences = np.array([0.99, 0.4, 0.9, 0.6, 1.0])
    assert pictures.find_mistakes(labels, predictions, confidences).tolist() == [2, 3, 1]
    assert pictures.find_mistakes(labels, predictions).tolist() == [1, 2, 3]


def test_mistakes_draws_the_wrong_pictures_only():
    images = np.full((4, 4, 4, 1), 10, np.uint8)
    images[2] = 99
    drawn = pictures.draw_mistakes(images, np.array([0, 1, 2, 3]), np.array([0, 1, 9, 3]), DIGITS)
    assert count(drawn, (99, 99, 99)) > 10000
    assert count(drawn, (10, 10, 10)) < 50


def test_mistakes_draws_the_surest_where_there_are_too_many():
    images = np.full((40, 4, 4, 1), 10, np.uint8)
    images[39] = 99
    labels, predictions = np.zeros(40, int), np.ones(40, int)
    assert count(pictures.draw_mistakes(images, labels, predictions, DIGITS), (99, 99, 99)) < 50
    confidences = np.linspace(0.5, 0.9, 40)
    drawn = pictures.draw_mistakes(images, labels, predictions, DIGITS, confidences)
    assert count(drawn, (99, 99, 99)) > 10000


def test_mistakes_of_a_perfect_model_is_a_heading():
    drawn = pictures.draw_mistakes(
        np.zeros((3, 4, 4, 1), np.uint8), np.arange(3), np.arange(3), DIGITS
    )
    assert 0 < drawn.shape[0] < 60
    assert count(drawn, (0, 0, 0)) > 0


def blue(drawn):
    return count(drawn, (8, 48, 107))


def test_confusion_colours_are_parts_of_the_row():
    full = pictures.draw_confusion(np.array([[1000, 0], [0, 1000]]), ("a", "b"))
    assert blue(full) > 50000
    rare = pictures.draw_confusion(np.array([[1000, 0], [0, 1]]), ("a", "b"))
    assert blue(rare) == pytest.approx(blue(full), rel=0.02)
    torn = pictures.draw_confusion(np.array([[500, 500], [0, 500]]), ("a", "b"))
    assert blue(torn) == pytest.approx(blue(full) / 2, rel=0.02)
    mistaken = pictures.draw_confusion(np.array([[500, 0], [500, 500]]), ("a", "b"))
    assert blue(mistaken) == pytest.approx(blue(full) / 2, rel=0.02)


def test_confusion_of_a_class_without_pictures_is_blank():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = pictures.draw_confusion(np.array([[5, 0], [0, 5]]), ("a", "b"))
        half = pictures.draw_confusion(np.array([[5, 0], [0, 0]]), ("a", "b"))
    assert blue(half) == pytest.approx(blue(full) / 2, rel=0.05)


@pytest.mark.parametrize("classes", [2, 10, 21, 62, 100, 150])
def test_confusion_stays_within_a_screen(classes):
    names = [f"a name of class {number}" for number in range(classes)]
    drawn = pictures.draw_confusion(np.eye(classes, dtype=int), names)
    assert drawn.shape[2] == 3
    assert max(drawn.shape) <= 1400


@pytest.mark.parametrize(("classes", "written"), [(20, True), (21, False)])
def test_confusion_writes_counts_up_to_20_classes(classes, written):
    # Equal parts of each row, hence equal colours: below the title only the counts can differ.
    ones, eights = (
        pictures.draw_confusion(np.full((classes, classes), number), [""] * classes)[60:]
        for number in (1, 8)
    )
    assert (ones != eights).any() == written
