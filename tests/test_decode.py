"""Tests of decoding one picture to the size of a model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from written import PHOTO, jpeg, photo

from tl_keras.pictures import decode, images, limits, pixels
from tl_keras.pictures.picture_format import PictureFormat, Rendering

FITS = ("crop", "pad", "stretch")
EXIF_ORIENTATION = 0x0112


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[EXIF_ORIENTATION] = orientation
    return data


def fit_with_pillow(whole: Image.Image, size: int, fit: str) -> np.ndarray:
    """Bring a whole decoded picture to a square, by Pillow's antialiased resizing alone."""
    width, height = whole.size
    if fit == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        whole = whole.crop((left, top, left + side, top + side))
    if fit != "pad":
        return np.asarray(whole.resize((size, size), Image.Resampling.BILINEAR))
    inside = [max(1, round(side * size / max(width, height))) for side in (width, height)]
    padded = Image.new(whole.mode, (size, size))
    corner = ((size - inside[0]) // 2, (size - inside[1]) // 2)
    padded.paste(whole.resize(inside, Image.Resampling.BILINEAR), corner)
    return np.asarray(padded)


def mean_difference(image: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(image.astype(int) - expected.reshape(image.shape)).mean())


KINDS = {
    "baseline": lambda picture: jpeg(picture),
    "progressive": lambda picture: jpeg(picture, progressive=True),
    "no subsampling": lambda picture: jpeg(picture, subsampling=0),
    "4:2:2": lambda picture: jpeg(picture, subsampling=1),
    "stored as RGB": lambda picture: jpeg(picture, keep_rgb=True),
    "restarts": lambda picture: jpeg(picture, restart_marker_blocks=3),
    "grey": lambda picture: jpeg(picture.convert("L")),
    "CMYK": lambda picture: jpeg(picture.convert("CMYK")),
    # Adobe's number of the colour transform, which is the last byte of its segment: 2 is YCCK.
    "YCCK": lambda picture: jpeg(picture.convert("CMYK")).replace(
        b"Adobe\0d\0\0\0\0\0", b"Adobe\0d\0\0\0\0\2"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_jpeg_has_the_pixels_of_pillow(kind: str, write: Callable) -> None:
    path = write(KINDS[kind](photo(101, 101)))
    with Image.open(path) as picture:
        mode = "L" if picture.mode == "L" else "RGB"
        expected = np.asarray(picture.convert(mode)).reshape(101, 101, -1)
    for fit in FITS:
        decoded = decode.decode(path, PictureFormat(101, fit))
        np.testing.assert_array_equal(decoded.image, expected)
        assert decoded.is_grey == (mode == "L")


def test_ycck_is_not_read_as_cmyk(write: Callable) -> None:
    cmyk, ycck = (KINDS[kind](photo(64, 64)) for kind in ("CMYK", "YCCK"))
    assert cmyk != ycck
    first, second = (decode.decode(write(one), PictureFormat(64)).image for one in (cmyk, ycck))
    assert mean_difference(first, second) > 20


# Mean differences of 0.2 to 3.0 were measured. Half a pixel of shift would be 4 to 9.
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    "size", [(640, 427), (427, 640), (101, 57), (333, 1000), (300, 20), (7, 5), (1, 40), (40, 1)],
    ids=str,
)  # fmt: skip
def test_jpeg_decoded_at_a_scale_is_close_to_a_whole_one(
    size: tuple[int, int], fit: str, write: Callable
) -> None:
    path = write(jpeg(photo(*size)))
    with Image.open(path) as whole:
        for target in (27, 32, 64, 96, 150, 224, 400):
            decoded = decode.decode(path, PictureFormat(target, fit)).image
            assert decoded.shape == (target, target, 3)
            assert mean_difference(decoded, fit_with_pillow(whole, target, fit)) < 3.2, target


@pytest.mark.parametrize("kind", ["grey", "CMYK", "progressive", "stored as RGB"])
def test_jpeg_of_any_kind_is_decoded_at_a_scale(kind: str, write: Callable) -> None:
    path = write(KINDS[kind](photo(640, 427)))
    with Image.open(path) as opened:
        whole = opened if opened.mode == "L" else opened.convert("RGB")
        for fit in FITS:
            decoded = decode.decode(path, PictureFormat(90, fit)).image
            assert mean_difference(decoded, fit_with_pillow(whole, 90, fit)) < 3.2


def test_jpeg_is_decoded_at_the_smallest_scale_that_is_enough(
    write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(jpeg(photo(800, 400)))
    shapes = []

    def fit(image: np.ndarray, size: int, *rest: object) -> np.ndarray:
        shapes.append(image.shape[:2])
        return np.zeros((size, size, 3), np.uint8)

    monkeypatch.setattr(images, "fit", fit)
    for size, how, expected in (
        (100, "crop", (100, 200)),
        (101, "crop", (150, 300)),
        (100, "pad", (50, 100)),
        (101, "pad", (100, 200)),
        (100, "stretch", (100, 200)),
        (401, "pad", (250, 500)),
        (401, "crop", (400, 800)),
        (900, "pad", (400, 800)),
    ):
        decode.decode(path, PictureFormat(size, how))
        assert shapes.pop() == expected, (size, how)
    decode.decode(write(KINDS["CMYK"](photo(800, 400))), PictureFormat(100))
    assert shapes.pop() == (100, 200)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", FITS)
def test_jpeg_is_turned_upright(orientation: int, fit: str, write: Callable) -> None:
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="{orientation}"/></x:xmpmeta>'
    for options in ({"exif": exif(orientation)}, {"xmp": xmp.encode()}):
        path = write(jpeg(photo(200, 120), **options))
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
        for size in (40, 120, 200):
            decoded = decode.decode(path, PictureFormat(size, fit)).image
            expected = fit_with_pillow(upright, size, fit)
            assert mean_difference(decoded, expected) < 3.5, (size, options)
    if orientation > 1:
        with Image.open(path) as picture:
            lying = fit_with_pillow(picture, 120, fit)
        assert mean_difference(decode.decode(path, PictureFormat(120, fit)).image, lying) > 10


@pytest.mark.parametrize("damage", ["cut", "pointer", "number"])
def test_jpeg_with_damaged_exif_is_read(damage: str, write: Callable) -> None:
    data = exif(9 if damage == "number" else 6).tobytes()
    data = {"cut": data[:14], "pointer": data[:10] + b"\xff" * 4, "number": data}[damage]
    path = write(jpeg(photo(40, 30), exif=data))
    plain = decode.decode(path, PictureFormat(30)).image
    with Image.open(path) as picture:
        np.testing.assert_array_equal(plain, np.asarray(picture)[:, 5:35])


def test_jpeg_with_a_video_behind_it_is_read(write: Callable) -> None:
    content = jpeg(photo(64, 64))
    expected = decode.decode(write(content), PictureFormat(32)).image
    for tail in (b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\2" * 500, b"\0" * 7, content):
        np.testing.assert_array_equal(
            decode.decode(write(content + tail), PictureFormat(32)).image, expected
        )


def test_jpeg_with_several_pictures_is_its_first(tmp_path: Path) -> None:
    path = tmp_path / "a.mpo"
    photo(64, 64).save(path, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    with Image.open(path) as picture:
        assert picture.format == "MPO"
        expected = np.asarray(picture)
    np.testing.assert_array_equal(decode.decode(str(path), PictureFormat(64)).image, expected)


# As in the cats and dogs of Kaggle, whose files every other program reads.
@pytest.mark.parametrize("place", ["end", "scan", "revision", "fill"])
def test_jpeg_with_harmless_faults_is_read(place: str, write: Callable) -> None:
    content = jpeg(photo(300, 200))
    expected = decode.decode(write(content), PictureFormat(64)).image
    scan = content.index(b"\xff\xda")
    faulty = {
        "end": content[:-2] + bytes(200) + content[-2:],
        "scan": content[:scan] + b"stray" + content[scan:],
        "revision": content.replace(b"JFIF\0\1", b"JFIF\0\0"),
        "fill": content[:scan] + b"\xff\xff" + content[scan:],
    }[place]
    assert faulty != content
    # At another scale, as Pillow has 1/8, 1/4 and 1/2 alone.
    assert mean_difference(decode.decode(write(faulty), PictureFormat(64)).image, expected) < 3


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey", "CMYK"])
def test_jpeg_that_is_cut_off_is_refused(kind: str, write: Callable) -> None:
    content = KINDS[kind](photo(90, 60))
    for length in (*range(4, len(content) - 3, 97), len(content) - 3):
        path = write(content[:length])
        with pytest.raises(limits.PictureError) as refused:
            decode.decode(path, PictureFormat(32))
        assert len(str(refused.value).splitlines()) == 1


def test_jpeg_with_damaged_pixels_is_refused(write: Callable) -> None:
    content = jpeg(photo(300, 200))
    middle = content.index(b"\xff\xda") + 3000
    for damage in (b"\xff\xd9", b"\xff\xd3"):
        damaged = content[:middle] + damage + content[middle + 2 :]
        with pytest.raises(limits.PictureError, match="Corrupt JPEG data|Premature end"):
            decode.decode(write(damaged), PictureFormat(64))


def test_jpeg_of_12_bits_is_refused_by_name(write: Callable) -> None:
    content = jpeg(photo(40, 30))
    frame = content.index(b"\xff\xc0") + 4
    assert content[frame] == 8
    path = write(content[:frame] + b"\x0c" + content[frame + 1 :])
    with pytest.raises(limits.PictureError, match="JPEG that is not read: .*12"):
        decode.decode(path, PictureFormat(32))


def test_jpeg_without_a_height_is_refused(write: Callable) -> None:
    content = jpeg(photo(40, 30))
    frame, scan = content.index(b"\xff\xc0") + 5, content.index(b"\xff\xda")
    lines = b"\xff\xdc\0\4\0\x1e"  # DNL: the number of lines follows after the pixels
    for place in (scan, len(content) - 2):
        late = content[:frame] + b"\0\0" + content[frame + 2 : place] + lines + content[place:]
        with pytest.raises(limits.PictureError):
            decode.decode(write(late), PictureFormat(32))


# Other formats


def test_decode_returns_the_levels_of_a_deep_picture(tmp_path: Path) -> None:
    values = np.add.outer(np.arange(30), np.arange(40)).astype(np.uint16) * 59
    Image.fromarray(values).save(tmp_path / "a.png")
    form = PictureFormat(30, rendering=Rendering(0, 4095))
    decoded = decode.decode(str(tmp_path / "a.png"), form)
    assert decoded.is_grey
    # The darkest and the brightest pixel are left out.
    assert decoded.levels == pixels.Levels(True, 59, 67 * 59)
    expected = np.rint(values[:, 5:35] * (255 / 4095)).astype(int)
    np.testing.assert_array_equal(decoded.image[..., 0], expected)


def test_decode_composites_on_the_background_of_the_set(tmp_path: Path) -> None:
    icon = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    icon.paste((255, 255, 255, 255), (5, 5, 15, 15))
    icon.save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    assert (decode.decode(path, PictureFormat(20)).image == 255).all()
    on_black = decode.decode(path, PictureFormat(20, rendering=Rendering(background=0)))
    expected = np.zeros((20, 20, 3), np.uint8)
    expected[5:15, 5:15] = 255
    np.testing.assert_array_equal(on_black.image, expected)
    assert on_black.levels == pixels.Levels(opaque=255)


def test_decode_frames_a_picture(write: Callable) -> None:
    picture = Image.new("L", (90, 70), 255)
    picture.paste(0, (10, 10, 20, 60))
    path = write(jpeg(picture))
    decoded = decode.decode(path, PictureFormat(28, framed=True))
    with Image.open(path) as whole:
        expected = images.frame(np.asarray(whole)[None])[0]
    np.testing.assert_array_equal(decoded.image, expected)
    assert decoded.is_grey


def test_decode_knows_grey_pictures_stored_in_colour(tmp_path: Path) -> None:
    picture = PHOTO.convert("L").convert("RGB")
    for name in ("a.png", "a.jpg"):
        picture.save(tmp_path / name)
        assert decode.decode(str(tmp_path / name), PictureFormat(96)).is_grey
    PHOTO.save(tmp_path / "b.png")
    assert not decode.decode(str(tmp_path / "b.png"), PictureFormat(96)).is_grey


def test_large_picture_is_framed_as_a_smaller_one(tmp_path: Path) -> None:
    page = np.full((4200, 5600), 255, np.uint8)
    page[1000:2600, 2000:2400] = 0
    page[2600:3000, 2000:3300] = 0  # an L
    Image.fromarray(page).save(tmp_path / "a.png", compress_level=1)
    framed = decode.decode(str(tmp_path / "a.png"), PictureFormat(28, framed=True)).image
    expected = images.frame(page[None])[0]
    assert expected.max() == 255
    assert np.abs(framed.astype(int) - expected).max() <= 16
