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


def test_composite_mixes_by_alpha() -> None:
    pixels = np.array([[10, 20, 30], [10, 20, 30], [0, 100, 200]], np.uint8)
    alpha = np.array([[0], [255], [128]], np.uint8)
    on_white = [[255, 255, 255], [10, 20, 30], [127, 177, 227]]
    np.testing.assert_array_equal(images.composite(pixels, alpha), on_white)
    on_grey = [[128, 128, 128], [10, 20, 30], [64, 114, 164]]
    np.testing.assert_array_equal(images.composite(pixels, alpha, 128), on_grey)
    assert images.composite(np.uint8([[7]]), np.uint8([[0]]), 0).tolist() == [[0]]


# Fitting

# 4 rows and 8 columns: the left and right quarters are 10 and 30, the centre is 20.
BANDS = np.repeat(np.array([[10, 10, 20, 20, 20, 20, 30, 30]], np.uint8), 4, axis=0)[..., None]


def test_fit_crops_the_centre() -> None:
    assert (images.fit(BANDS, 4, "crop") == 20).all()
    assert (images.fit(BANDS.transpose(1, 0, 2), 2, "crop") == 20).all()
    numbered = np.arange(3 * 6, dtype=np.uint8).reshape(3, 6, 1)
    np.testing.assert_array_equal(images.fit(numbered, 3, "crop"), numbered[:, 1:4])


def test_fit_pads_with_black() -> None:
    padded = images.fit(BANDS, 8, "pad")[..., 0]
    np.testing.assert_array_equal(padded[2:6], BANDS[..., 0])
    assert not padded[:2].any()
    assert not padded[6:].any()
    upright = images.fit(BANDS.transpose(1, 0, 2), 8, "pad")[..., 0]
    np.testing.assert_array_equal(upright, padded.T)
    # A line would be of no pixel.
    thin = images.fit(np.full((1, 100, 3), 9, np.uint8), 10, "pad")
    assert thin.any(axis=(1, 2)).tolist() == [False] * 4 + [True] + [False] * 5


def test_fit_stretches_to_a_square() -> None:
    stretched = images.fit(BANDS, 8, "stretch")[..., 0]
    np.testing.assert_array_equal(stretched, np.repeat(BANDS[..., 0], 2, axis=0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
def test_fit_of_a_copy_at_a_scale_is_that_of_the_picture(how: str, channels: int) -> None:
    # A slope of 10 a pixel, of a picture whose sides are no multiple of 8: a shift by a pixel of
    # the copy would be 20 to 40.
    height, width, eighths = 53, 91, 3
    rows, columns = (np.arange(-(-side * eighths // 8)) for side in (height, width))
    places = [(axis + 0.5) * 8 / eighths - 0.5 for axis in (rows, columns)]
    copy = np.rint(np.add.outer(places[0] * 2, places[1] * 0.8) + 10).astype(np.uint8)
    whole = np.rint(np.add.outer(np.arange(height) * 2, np.arange(width) * 0.8) + 10)
    copy, whole = (np.stack([one.astype(np.uint8)] * channels, -1) for one in (copy, whole))
    for size in (8, 16, 19):
        found = images.fit(copy, size, how, (height, width)).astype(int)
        expected = images.fit(whole, size, how)
        inside = (slice(None), slice(2, -2)) if how == "pad" else (slice(1, -1), slice(1, -1))
        assert np.abs(found - expected)[inside].max() <= 3, size
        if how == "pad":
            np.testing.assert_array_equal(found.any(axis=(1, 2)), expected.any(axis=(1, 2)))


# Resizing


def test_resize_averages_when_it_shrinks() -> None:
    stripes = np.zeros((64, 96, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = images.resize(stripes, 8, 8)
    assert shrunk.shape == (8, 8, 3)
    assert np.abs(shrunk.astype(int) - 127).max() < 12  # nearest pixels would be 0 or 255
    assert images.resize(stripes[..., :1], 8, 8).shape == (8, 8, 1)


@pytest.mark.parametrize("side", [80, 100, 101, 125, 126, 160])
def test_resize_is_the_same_with_either_library(side: int) -> None:
    slope = np.rint(np.add.outer(np.linspace(0, 120, side), np.linspace(10, 130, side)))
    for image in (slope.astype(np.uint8)[..., None], np.stack([slope] * 3, -1).astype(np.uint8)):
        found = images.resize(image, 100, 100)
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        expected = np.asarray(picture.resize((100, 100), Image.Resampling.BILINEAR))
        assert np.abs(found.astype(int) - expected.reshape(found.shape)).max() <= 1


@pytest.mark.parametrize("target", [(9, 9), (10, 13), (5, 4), (30, 20)])
def test_resize_takes_a_part_as_pillow_does(target: tuple[int, int]) -> None:
    slope = np.add.outer(np.arange(24) * 3, np.arange(30) * 5).astype(np.uint8)
    box = images.Box(3.25, 6.5, 10.5, 9.75)
    found = images.resize(slope[..., None], *target, box)[..., 0].astype(int)
    edges = (6.5, 3.25, 16.25, 13.75)
    picture = Image.fromarray(slope).resize(target[::-1], Image.Resampling.BILINEAR, edges)
    # At the edges, Pillow leaves out what is outside of the box.
    inside = (slice(1, -1), slice(1, -1))
    assert np.abs(found - np.asarray(picture))[inside].max() <= 1


def test_resize_to_the_same_size_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    assert np.shares_memory(images.resize(image, 7, 9), image)
    part = images.resize(image, 4, 5, images.Box(2, 1, 4, 5))
    np.testing.assert_array_equal(part, image[2:6, 1:6])
