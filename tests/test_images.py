"""Tests of the pure picture operations, above all of framing."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from tl_keras.data import embedded
from tl_keras.pictures import images


def digits_of_mnist(count: int) -> np.ndarray:
    return embedded.open_dataset("mnist_5k", "auto").read("test", 0).images[:count]


def mass_centre(picture: np.ndarray) -> tuple[float, float]:
    ink = picture.astype(float).reshape(28, 28)
    return ink.sum(1) @ np.arange(28) / ink.sum(), ink.sum(0) @ np.arange(28) / ink.sum()


def ink_box(picture: np.ndarray, threshold: int = 0) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(picture.reshape(picture.shape[:2]) > threshold)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def drawn_stroke(height: int = 40, width: int = 60) -> np.ndarray:
    """An upright bar with a foot: dark background, bright ink, well off the centre."""
    picture = np.zeros((height, width), np.uint8)
    picture[5:35, 40:44] = 255
    picture[31:35, 40:52] = 255
    return picture


pictures = npst.arrays(
    np.uint8,
    st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.sampled_from((1, 3))),
)


@given(pictures)
@settings(deadline=None, max_examples=200)
def test_frame_takes_any_picture_and_keeps_ink_in_a_box_of_20(batch: np.ndarray) -> None:
    framed = images.frame(batch)
    assert framed.shape == (len(batch), 28, 28, 1)
    assert framed.dtype == np.uint8
    for picture in framed:
        if picture.any():
            top, bottom, left, right = ink_box(picture)
            assert bottom - top <= 20
            assert right - left <= 20


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 20), st.integers(0, 20),
    st.integers(60, 255),
)  # fmt: skip
@settings(deadline=None)
def test_frame_centres_the_mass_of_a_rectangle_wherever_it_lies(
    height: int, width: int, top: int, left: int, brightness: int
) -> None:
    picture = np.zeros((1, 36, 36), np.uint8)
    picture[0, top + 2 : top + 2 + height, left + 2 : left + 2 + width] = brightness
    framed = images.frame(picture)[0]
    assert mass_centre(framed) == pytest.approx((14, 14), abs=0.6)
    box_top, box_bottom, box_left, box_right = ink_box(framed)
    assert max(box_bottom - box_top, box_right - box_left) == 20
    assert framed.max() == 255


def test_frame_centres_by_mass_and_not_by_box() -> None:
    framed = images.frame(drawn_stroke()[None])[0]
    assert mass_centre(framed) == pytest.approx((14, 14), abs=0.6)
    top, bottom, left, right = ink_box(framed)
    # The foot points right, so that the box is not centred: it reaches further to that side.
    assert (left + right) / 2 > 15
    assert bottom - top == 20
    assert right - left == 8  # 12 of 30 pixels, at the same scale


def test_frame_inverts_dark_ink_on_bright_paper() -> None:
    stroke = drawn_stroke()
    np.testing.assert_array_equal(images.frame(255 - stroke[None]), images.frame(stroke[None]))


def test_frame_makes_grey_paper_black_and_faint_ink_white() -> None:
    faint = np.where(drawn_stroke() > 0, 110, 210).astype(np.uint8)
    framed = images.frame(faint[None])
    np.testing.assert_array_equal(framed, images.frame(drawn_stroke()[None]))


@pytest.mark.parametrize("level", [0, 90, 200, 255])
def test_frame_of_an_empty_picture_is_black(level: int) -> None:
    noise = np.random.default_rng(0).integers(-10, 11, (3, 30, 20))
    paper = np.clip(level + noise, 0, 255).astype(np.uint8)
    assert not images.frame(paper).any()
    assert not images.frame(np.full((1, 5, 5), level, np.uint8)).any()


def test_frame_keeps_the_box_of_a_stroke_saved_as_jpeg() -> None:
    stroke = 255 - drawn_stroke()
    file = io.BytesIO()
    Image.fromarray(stroke).save(file, "JPEG", quality=80)
    noisy = np.asarray(Image.open(file))
    assert (noisy != stroke).any()
    framed, clean = images.frame(noisy[None])[0], images.frame(stroke[None])[0]
    assert np.abs(framed.astype(int) - clean).mean() < 8


def test_frame_changes_mnist_little() -> None:
    published = digits_of_mnist(1000)
    framed = images.frame(published)
    assert (framed == published).all(axis=(1, 2, 3)).mean() > 0.7
    assert np.abs(framed.astype(int) - published).mean() < 0.1


def test_frame_keeps_ink_thinner_than_a_pixel() -> None:
    line = np.zeros((1, 400, 50), np.uint8)
    line[0, 10:390, 25] = 255
    top, bottom, left, right = ink_box(images.frame(line)[0])
    assert (bottom - top, right - left) == (20, 1)


def test_frame_averages_ink_when_it_shrinks() -> None:
    stripes = np.zeros((1, 180, 180), np.uint8)
    stripes[0, 10:170, 10:170:2] = 255
    framed = images.frame(stripes)[0, ..., 0]
    top, bottom, left, right = ink_box(framed[..., None], 20)
    assert (bottom - top, right - left) == (20, 20)
    inside = framed[top + 2 : bottom - 2, left + 2 : right - 2].astype(int)
    assert np.abs(inside - 127).max() < 20  # nearest pixels would be 0 or 255


def test_frame_of_many_equals_frame_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    published = digits_of_mnist(20)
    together = images.frame(published)
    monkeypatch.setattr(images, "CHUNK_VALUES", 1)
    np.testing.assert_array_equal(images.frame(published), together)
    assert images.frame(published[:0]).shape == (0, 28, 28, 1)


def test_frame_takes_colour_by_its_luminance() -> None:
    stroke = drawn_stroke()
    blue = np.stack([stroke * 0, stroke * 0, stroke], -1)
    grey = images.to_grey(blue)
    assert grey.max() == 29  # of 255, as ITU-R 601 weighs blue: too faint to be ink
    assert not images.frame(blue[None]).any()
    red = np.stack([stroke, stroke * 0, stroke * 0], -1)
    np.testing.assert_array_equal(images.frame(red[None]), images.frame(stroke[None]))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((1, 5, 5), np.float32), np.zeros((5, 5), np.uint8), np.zeros((1, 0, 5), "u1")],
)
def test_frame_refuses_what_is_no_batch_of_pictures(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="frame takes uint8"):
        images.frame(wrong)


def test_to_grey_agrees_with_pillow() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(colours).convert("L"))
    np.testing.assert_array_equal(images.to_grey(colours)[..., 0], expected)
    same = colours[..., :1]
    assert images.to_grey(same) is same
    np.testing.assert_array_equal(images.to_grey(np.repeat(same, 3, -1)), same)


def test_over_white_mixes_by_alpha() -> None:
    pixels = np.array([[10, 20, 30, 0], [10, 20, 30, 255], [0, 100, 200, 128]], np.uint8)
    expected = [[255, 255, 255], [10, 20, 30], [127, 177, 227]]
    np.testing.assert_array_equal(images.composite(pixels[..., :-1], pixels[..., -1:]), expected)
    clear, black = np.array([[7], [0]], np.uint8)
    np.testing.assert_array_equal(images.composite(clear, black), [255])
    np.testing.assert_array_equal(images.composite(clear, black, 128), [128])


def test_resize_averages_when_it_shrinks() -> None:
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = images.resize(stripes, 8)
    assert shrunk.shape == (8, 8, 3)
    assert np.abs(shrunk.astype(int) - 127).max() < 12  # nearest pixels would be 0 or 255
    assert images.resize(stripes[..., :1], 8).shape == (8, 8, 1)
