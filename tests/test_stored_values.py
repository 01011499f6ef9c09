"""Tests of the values that a file stores: as they were written, or refused."""

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from written import png, tiff

from tl_keras.pictures import limits, picture_file
from tl_keras.pictures.pixels import Raster

RANDOM = np.random.default_rng(0)


def raster_of(path: Path) -> Raster:
    with picture_file.open_picture(path) as (picture, file):
        return picture_file.load_raster(picture, file)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_its_values_and_channels(channels: int, write: Callable) -> None:
    values = RANDOM.integers(0, 65_536, (5, 7, channels)).astype(np.uint16)
    raster = raster_of(write(png(values), "a.png"))
    colours = channels - (channels in (2, 4))
    expected = values[..., :colours]
    if channels == 2:
        expected = np.repeat(expected, 3, axis=-1)
    np.testing.assert_array_equal(raster.values, expected)
    if colours < channels:
        np.testing.assert_array_equal(raster.alpha, values[..., -1:] // 257)
    else:
        assert raster.alpha is None


def test_png_of_16_bits_in_colour_is_turned_upright(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 65_536, (5, 7, 3)).astype(np.uint16)
    content = png(values)
    data = Image.Exif()
    data[0x0112] = 6
    chunk = b"eXIf" + data.tobytes()[6:]
    noted = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content[:33] + noted + content[33:])
    np.testing.assert_array_equal(raster_of(tmp_path / "a.png").values, np.rot90(values, -1))


def shaped(channels: int, kind: str = "u1") -> np.ndarray:
    low, high = (-100, 100) if kind[0] == "i" else (0, 250)
    return RANDOM.integers(low, high, (5, 7, channels)).astype(kind)


GREY8, GREY16, RGB8, RGB16 = shaped(1), shaped(1, "u2") * 200, shaped(3), shaped(3, "u2") * 200
SIGNED16 = (GREY16.astype(int) - 20_000).astype(np.int16)
READ: dict[str, tuple[bytes, np.ndarray]] = {
    "grey": (tiff(GREY8, 1), GREY8),
    "white is zero": (tiff(GREY8, 0), 255 - GREY8),
    "grey, big-endian": (tiff(GREY8, 1, ">"), GREY8),
    "16 bits": (tiff(GREY16, 1), GREY16),
    "16 bits, big-endian": (tiff(GREY16, 1, ">"), GREY16),
    "16 bits, white is zero": (tiff(GREY16, 0), 65_535 - GREY16),
    "16 bits, signed": (tiff(SIGNED16, 1), SIGNED16),
    "32 bits": (tiff(GREY16.astype("u4") * 80_000, 1), GREY16.astype(int) * 80_000),
    "32 bits, signed": (tiff(GREY16.astype("i4") - 9, 1), GREY16.astype(int) - 9),
    "RGB": (tiff(RGB8, 2), RGB8),
    "RGB, planar": (tiff(np.moveaxis(RGB8, -1, 0), 2, t284=(2,)), RGB8),
    "RGB of 16 bits": (tiff(RGB16, 2), RGB16),
    "RGB of 16 bits, big-endian": (tiff(RGB16, 2, ">"), RGB16),
}


@pytest.mark.parametrize("kind", READ)
def test_tiff_has_the_values_that_were_written(kind: str, write: Callable) -> None:
    content, expected = READ[kind]
    raster = raster_of(write(content, "a.tif"))
    assert raster.alpha is None
    np.testing.assert_array_equal(raster.values, expected)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_with_alpha_has_the_values_that_were_written(
    kind: str, order: str, write: Callable
) -> None:
    values = shaped(4, kind)
    raster = raster_of(write(tiff(values, 2, order, t338=(2,)), "a.tif"))
    np.testing.assert_array_equal(raster.values, values[..., :3])
    np.testing.assert_array_equal(raster.alpha, values[..., 3:] // (1 if kind == "u1" else 257))
    if kind == "u1":
        grey = raster_of(write(tiff(values[..., :2], 1, order, t338=(2,)), "a.tif"))
        np.testing.assert_array_equal(grey.values, np.repeat(values[..., :1], 3, axis=-1))
        np.testing.assert_array_equal(grey.alpha, values[..., 1:2])


REFUSED: dict[str, tuple[bytes, str]] = {
    "2 bands": (tiff(shaped(2), 1), "a kind of TIFF that is not read"),
    "2 bands, unspecified": (tiff(shaped(2), 1, t338=(0,)), "it has 2 bands"),
    "4 bands": (tiff(shaped(4), 2), "it has 4 bands"),
    "4 bands, unspecified": (tiff(shaped(4), 2, t338=(0,)), "it has 4 bands"),
    "5 bands": (tiff(shaped(5), 2, t338=(0, 0)), "it has 5 bands"),
    "5 bands, one of them alpha": (tiff(shaped(5), 2, t338=(2, 0)), "it has 5 bands"),
    "planar": (tiff(np.moveaxis(RGB16, -1, 0), 2, t284=(2,)), "of 16 bits are stored one after"),
    "premultiplied": (tiff(shaped(4, "u2"), 2, t338=(1,)), "of 16 bits are premultiplied"),
    "8 bits, signed": (tiff(shaped(1, "i1"), 1), "its 8 bits are signed"),
    "RGB of 8 bits, signed": (tiff(shaped(3, "i1"), 2), "signed|not read"),
    "RGB of 16 bits, signed": (tiff(shaped(3, "i2"), 2), "not read"),
    "float": (tiff(shaped(1, "f4"), 1), "its pixels are floating point numbers"),
    "double": (tiff(shaped(1, "f8"), 1), "not read"),
    "half": (tiff(shaped(1, "f2"), 1), "floating point|not read"),
    "RGB of floats": (tiff(shaped(3, "f4"), 2), "not read"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_tiff_that_would_be_read_wrongly_is_refused(kind: str, write: Callable) -> None:
    content, why = REFUSED[kind]
    with pytest.raises(limits.PictureError, match=why) as refused:
        raster_of(write(content, "a.tif"))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey", "16 bits", "RGB", "RGB of 16 bits"])
def test_tiff_is_turned_upright(kind: str, orientation: int, write: Callable) -> None:
    values = READ[kind][1]
    photometric = 2 if values.shape[-1] == 3 else 1
    path = write(tiff(values, photometric, t274=(orientation,)), "a.tif")
    expected = picture_file.turn_upright(values, orientation)
    np.testing.assert_array_equal(raster_of(path).values, expected)


# The row and the column of the stored picture that are the first ones as seen, by EXIF.
@pytest.mark.parametrize(
    ("orientation", "corners"),
    [(1, "abcd"), (2, "badc"), (3, "dcba"), (4, "cdab"), (5, "acbd"), (6, "cadb"), (7, "dbca"),
     (8, "bdac")],
)  # fmt: skip
def test_turn_upright_follows_exif(orientation: int, corners: str) -> None:
    stored = np.array([[["a"], ["b"]], [["c"], ["d"]]])
    assert "".join(picture_file.turn_upright(stored, orientation).reshape(-1)) == corners


@pytest.mark.parametrize("kind", ["tiff_lzw", "tiff_deflate", "packbits", "tiff_adobe_deflate"])
def test_compressed_tiff_has_the_values_that_were_written(kind: str, tmp_path: Path) -> None:
    for values in (RGB8, GREY8[..., 0], GREY16[..., 0]):
        Image.fromarray(values).save(tmp_path / "a.tif", compression=kind)
        np.testing.assert_array_equal(
            raster_of(tmp_path / "a.tif").values, values.reshape(5, 7, -1)
        )
    codes = {"tiff_lzw": 5, "tiff_deflate": 32946, "packbits": 32773, "tiff_adobe_deflate": 8}
    parameters = [cv2.IMWRITE_TIFF_COMPRESSION, codes[kind]]
    cv2.imwrite(str(tmp_path / "b.tif"), RGB16[..., ::-1], parameters)
    np.testing.assert_array_equal(raster_of(tmp_path / "b.tif").values, RGB16)


def test_tiff_of_few_levels_is_read(tmp_path: Path) -> None:
    bits = RANDOM.integers(0, 2, (5, 13)).astype(bool)
    Image.fromarray(bits).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(raster_of(tmp_path / "a.tif").values[..., 0], bits * 255)
    palette = Image.fromarray(RGB8).quantize(8)
    palette.save(tmp_path / "b.tif")
    np.testing.assert_array_equal(
        raster_of(tmp_path / "b.tif").values, np.asarray(palette.convert("RGB"))
    )


def test_tiff_of_any_kind_has_the_values_of_tifffile(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    large = RANDOM.integers(0, 4096, (70, 50, 3)).astype(np.uint16)
    kinds = [
        (large, {"tile": (16, 32)}),
        ((large // 16).astype(np.uint8), {"tile": (32, 16)}),
        (large, {"rowsperstrip": 7, "bigtiff": True}),
        (large[..., 0], {"photometric": "minisblack", "tile": (16, 16), "byteorder": ">"}),
        ((large // 16).astype(np.uint8), {"planarconfig": "contig", "rowsperstrip": 1}),
    ]
    for values, options in kinds:
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, values, **{"photometric": "rgb", **options})
        expected = tifffile.imread(path).reshape(70, 50, -1)
        np.testing.assert_array_equal(raster_of(path).values, expected)


# HEIC


def test_heic_is_named_with_the_way_to_read_it(
    write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(limits.PictureError, match="^HEIC is read with pip install 'tl_keras.heic"):
        picture_file.load(write(start + bytes(99), "a.heic"))
    # A file of another extension that nobody takes for a picture.
    with pytest.raises(limits.NotAPictureError):
        picture_file.load(write(start + bytes(99), "a.dat"))


def test_avif_is_read_without_the_reader_of_heic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    path = tmp_path / "a.avif"
    Image.new("RGB", (16, 16), "red").save(path)
    content = path.read_bytes()
    for brand in (b"avif", b"mif1"):  # the second is HEIC's as well
        path.write_bytes(content[:8] + brand + content[12:])
        assert np.abs(picture_file.load(path).astype(int) - [255, 0, 0]).max() < 4


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read(orientation: int, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    picture = Image.new("RGB", (64, 32), "blue")
    picture.paste("red", (0, 0, 32, 32))
    data = Image.Exif()
    data[0x0112] = orientation
    second = Image.new("RGB", (64, 32), "white")
    path = tmp_path / "a.heic"
    picture.save(
        path, "HEIF", quality=95, exif=data.tobytes(), save_all=True, append_images=[second]
    )
    loaded = picture_file.load(path).astype(int)
    if orientation == 6:
        loaded = np.rot90(loaded)
    assert loaded.shape == (32, 64, 3)
    assert np.abs(loaded[:, :28] - [255, 0, 0]).mean() < 8
    assert np.abs(loaded[:, 36:] - [0, 0, 255]).mean() < 8
    with pytest.raises(limits.PictureError, match="64x32 is more than|32x64 is more than"):
        picture_file.open_picture(path, 2047).__enter__()
