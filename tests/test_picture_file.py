"""Tests of decoding one picture file."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tl_keras.pictures import limits, picture_file, pixels


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("L", (6, 6), 99)).save(path, **options)
    return path


def test_picture_with_a_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    loaded = picture_file.load(save(tmp_path / "a.png", picture, transparency=1))
    assert (loaded == 255).all()


@pytest.mark.parametrize("extension", ["gif", "png", "tif", "webp"])
def test_picture_of_an_animation_is_its_first_frame(extension: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue", "lime")]
    path = tmp_path / f"a.{extension}"
    save(path, frames[0], save_all=True, append_images=frames[1:])
    with Image.open(path) as saved:
        assert saved.n_frames == 3
    assert np.abs(picture_file.load(path).astype(int) - [255, 0, 0]).max() < 10


GREY, RED = [[[120]]], [[[255, 0, 0]]]


@pytest.mark.parametrize(
    ("name", "picture", "pixel"),
    [
        ("a.avif", Image.new("RGB", (8, 8), "red"), RED),
        ("a.bmp", Image.new("L", (8, 8), 120), GREY),
        ("a.gif", Image.new("L", (8, 8), 120), [[[120, 120, 120]]]),
        ("a.ico", Image.new("RGBA", (16, 16), (255, 0, 0, 0)), [[[255, 255, 255]]]),
        ("a.jp2", Image.new("RGB", (8, 8), "red"), RED),
        ("a.jp2", Image.fromarray(np.full((8, 8), 120 * 257, np.uint16)), GREY),
        ("a.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
        ("a.jpg", Image.new("L", (8, 8), 120), GREY),
        ("a.pgm", Image.fromarray(np.full((8, 8), 120 * 257, np.uint16)), GREY),
        ("a.png", Image.fromarray(np.full((8, 8), 120 * 257, np.uint16)), GREY),
        ("a.png", Image.new("LA", (8, 8), (0, 255 - 120)), [[[120, 120, 120]]]),
        ("a.png", Image.new("RGBA", (8, 8), (255, 0, 0, 255)), RED),
        ("a.ppm", Image.new("RGB", (8, 8), "red"), RED),
        ("a.tga", Image.new("RGB", (8, 8), "red"), RED),
        ("a.tif", Image.fromarray(np.full((8, 8), 120 * 257, np.uint16)), GREY),
        ("a.tif", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), RED),
        ("a.tif", Image.new("LAB", (8, 8), (255, 128, 128)), [[[255, 255, 255]]]),
        ("a.webp", Image.new("RGBA", (8, 8), (0, 0, 0, 255)), [[[0, 0, 0]]]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else None,
)
def test_picture_of_any_format_comes_to_8_bits(
    name: str, picture: Image.Image, pixel: list, tmp_path: Path
) -> None:
    loaded = picture_file.load(save(tmp_path / name, picture))
    assert loaded.dtype == np.uint8
    assert loaded.shape == (*picture.size, len(pixel[0][0]))
    assert np.abs(loaded.astype(int) - pixel).max() <= 3


def test_picture_is_turned_upright_by_its_exif_note(tmp_path: Path) -> None:
    picture = Image.new("L", (8, 4))
    picture.paste(255, (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    loaded = picture_file.load(save(tmp_path / "a.png", picture, exif=exif))
    assert loaded.shape == (8, 4, 1)
    assert loaded[:4].min() == 255
    assert loaded[4:].max() == 0


def test_picture_is_known_by_content_not_by_extension(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("L", (4, 4), 3), format="PNG")
    assert (picture_file.load(path) == 3).all()
    path = save(tmp_path / "a.dat", Image.new("L", (4, 4), 3), format="PNG")
    assert (picture_file.load(path) == 3).all()


def open_header(path: Path, max_pixels: int) -> tuple[int, int]:
    with picture_file.open_picture(path, max_pixels) as (picture, _):
        return picture.size


def test_bytes_are_decoded_as_the_file_with_the_same_limits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.tif", Image.linear_gradient("L"), compression="tiff_lzw")
    content = path.read_bytes()
    np.testing.assert_array_equal(picture_file.load(content), picture_file.load(path))
    with pytest.raises(picture_file.PictureError, match="not a picture"):
        picture_file.load(b"")
    with (
        pytest.raises(picture_file.PictureError, match="256x256 is more than 65535 pixels"),
        picture_file.open_picture(content, 256 * 256 - 1),
    ):
        pass


def test_picture_with_too_many_pixels_is_not_opened(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", Image.new("L", (4, 4)))
    path.write_bytes(path.read_bytes()[:45])  # no pixel is left, only the header
    assert open_header(path, 16) == (4, 4)
    with pytest.raises(picture_file.PictureError, match="4x4 is more than 15 pixels"):
        open_header(path, 15)


def test_picture_with_transparency_is_the_same_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (33, 7, 4), dtype=np.uint8)
    paths = [save(tmp_path / "clear.png", Image.fromarray(values))]
    deep = np.random.default_rng(0).integers(0, 65536, (33, 7)).astype(np.uint16)
    paths.append(save(tmp_path / "deep.png", Image.fromarray(deep)))
    whole = [picture_file.load(path) for path in paths]
    monkeypatch.setattr(pixels, "_BAND_PIXELS", 20)
    for path, expected in zip(paths, whole, strict=True):
        np.testing.assert_array_equal(picture_file.load(path), expected)


def test_picture_with_too_long_a_line_is_refused(tmp_path: Path) -> None:
    assert picture_file.load(save(tmp_path / "a.png", Image.new("L", (65_535, 1)))).size == 65_535
    for size in ((65_536, 1), (1, 65_536)):
        path = save(tmp_path / "a.png", Image.new("L", size))
        with pytest.raises(picture_file.PictureError, match="a side of more than 65535 pixels"):
            picture_file.load(path)


def test_picture_inside_an_icon_may_be_no_larger_than_others(tmp_path: Path) -> None:
    # Of what is inside there is no more than the header: nothing else is looked at.
    inside = save(tmp_path / "inside.png", Image.new("1", (8_000, 7_000))).read_bytes()[:60]
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    (tmp_path / "a.ico").write_bytes(b"\0\0\1\0\1\0" + entry + inside)
    with pytest.raises(picture_file.PictureError, match="8000x7000 is more than"):
        picture_file.load(tmp_path / "a.ico")


def test_picture_inside_an_icon_is_measured_without_its_mask(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ico", Image.new("RGBA", (16, 16)), bitmap_format="bmp")
    assert open_header(path, 16 * 16) == (16, 16)
    with pytest.raises(picture_file.PictureError, match="16x16 is more than 255 pixels"):
        open_header(path, 16 * 16 - 1)


def test_tile_of_a_tiff_may_be_no_larger_than_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tags = [(256, 10), (257, 10), (258, 8), (262, 1), (322, 20_000), (323, 20_000), (324, 0)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4))
    with pytest.raises(picture_file.PictureError, match="20000x20000 is more than"):
        picture_file.load(path)


def test_scans_of_a_jpeg_are_counted_to_its_end(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", Image.new("RGB", (40, 40), "red"), progressive=True)
    content = path.read_bytes()
    last = content[content.rindex(b"\xff\xda") : -2]
    most = limits.MAX_SCANS - content.count(b"\xff\xda")
    # Telephones put a film behind a picture; what looks like a scan there, or in a note, is none.
    film = b"\0\2" + b"\xff\xda\0\2" * 500
    note = b"\xff\xfe" + struct.pack(">H", len(film) + 2) + film
    path.write_bytes(content[:2] + note + content[2:-2] + last * most + content[-2:] + film)
    assert picture_file.load(path)[0, 0].tolist() == [254, 0, 0]
    path.write_bytes(content[:-2] + last * (most + 1) + content[-2:])
    with pytest.raises(picture_file.PictureError, match="more than 100 scans"):
        picture_file.load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"BMW, VW and Skoda", b"P3 is a size of paper", b"P6\n1 x", b"GIF89a", b"\0\0\1\0\0\0",
     b"\0\0\2" + bytes(9) + b"\5\0\5\0\x18\0" + bytes(99), b"II*\0", b"<svg/>", bytes(999)],
)  # fmt: skip
def test_file_that_begins_like_a_picture_is_one_by_its_extension_only(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    with pytest.raises(picture_file.NotAPictureError, match="^not a picture$"):
        picture_file.load(tmp_path / "notes.txt")
    (tmp_path / "a.PNG").write_bytes(content)
    with pytest.raises(picture_file.PictureError) as refused:
        picture_file.load(tmp_path / "a.PNG")
    assert not isinstance(refused.value, picture_file.NotAPictureError)


def test_file_of_more_than_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.webp")
    with path.open("ab") as file:
        file.truncate(limits.MAX_BYTES + 1)
    with pytest.raises(picture_file.PictureError, match="1000000001 bytes are more than"):
        picture_file.load(path)
    with pytest.raises(picture_file.NotAPictureError):
        picture_file.load(path.rename(tmp_path / "a.mp4"))


def test_picture_that_does_not_fit_into_memory_is_no_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, owner, name in (
        (save(tmp_path / "a.png"), picture_file, "_identify"),
        (save(tmp_path / "a.txt", format="PNG"), picture_file, "_identify"),
        (tmp_path / "a.png", Image.Image, "getexif"),
    ):
        with monkeypatch.context() as patch, pytest.raises(MemoryError):

            def full(*_: object, **__: object) -> None:
                raise MemoryError

            patch.setattr(owner, name, full)
            picture_file.load(path)


def test_picture_with_damaged_notes_of_a_camera_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert (picture_file.load(path) == 99).all()


def test_file_that_cannot_be_opened_says_why(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "a.png", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(picture_file.PictureError, match=f"^{why}[a-z ]*$"):
            picture_file.load(path)
