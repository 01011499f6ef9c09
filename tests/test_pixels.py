"""Tests of bringing pictures to 8 bits: value ranges, transparency, and what TIFF holds."""

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tl_keras.config.pictures import PictureOptions
from tl_keras.pictures import limits, picture_file, picture_set, pixels
from tl_keras.pictures.decode import PictureFormat
from tl_keras.pictures.pixels import Levels, Raster, Rendering

RANDOM = np.random.default_rng(0)


def read_set(folder: Path, names: list[str], training: int | None = None) -> picture_set.PictureSet:
    """Decode files to 32x32, and choose the rendering from the first `training`."""
    in_training = np.arange(len(names)) < (len(names) if training is None else training)
    options = PictureOptions(picture_cache=str(folder / "cache"))
    paths = [str(folder / name) for name in names]
    return picture_set.read_pictures(paths, in_training, PictureFormat(32), options)


def raster_of(path: Path) -> Raster:
    with picture_file.open_picture(path) as (picture, file):
        return picture_file.load_raster(picture, file)


def png(values: np.ndarray) -> bytes:
    """Write (height, width, 1 to 4) uint16 as PNG, by hand."""
    height, width, channels = values.shape
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    header = struct.pack(">IIBBBBB", width, height, 16, kinds[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content


SHORT, LONG = 3, 4


def tiff(values: np.ndarray, photometric: int, order: str = "<", **tags: tuple[int, ...]) -> bytes:
    """Write (height, width, channels) of numbers, or (channels, ...) with planes, by hand."""
    planar = tags.get("t284") == (2,)
    channels, height, width = values.shape if planar else np.moveaxis(values, -1, 0).shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = 8 * values.dtype.itemsize
    planes = channels if planar else 1
    entries = {
        256: (width,), 257: (height,), 258: (bits,) * channels, 259: (1,), 262: (photometric,),
        273: (0,) * planes, 277: (channels,), 278: (height,), 279: (len(data) // planes,) * planes,
        339: (sample_format,) * channels, **{int(tag[1:]): value for tag, value in tags.items()},
    }  # fmt: skip
    body, extra_at = b"", 8 + 2 + 12 * len(entries) + 4
    extra = b""
    data_at = extra_at + sum(4 * len(v) for v in entries.values() if len(v) > 1)
    entries[273] = tuple(data_at + k * len(data) // planes for k in range(planes))
    for tag, numbers in sorted(entries.items()):
        body += struct.pack(f"{order}HHI", tag, LONG, len(numbers))
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            body += struct.pack(f"{order}I", extra_at + len(extra))
            extra += packed
        else:
            body += packed
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(entries)) + body + bytes(4) + extra + data


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def write_file(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


# The range of pictures of more than 8 bits


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (3, 4001, (0, 4095)),  # 12 bits
        (0, 4095, (0, 4095)),
        (900, 1023, (900, 1023)),  # a narrow part of 10 bits
        (200, 1023, (0, 1023)),
        (10, 16_000, (0, 16_383)),
        (0, 65_000, (0, 65_535)),
        (0, 33_000, (0, 65_535)),
        (0, 32_000, (0, 65_535)),  # 15 bits are no format
        (30_000, 34_095, (30_000, 34_095)),  # 12 bits with an offset
        (-1024, 3071, (-1024, 3071)),  # computed tomography
        (-5, -5, (-5, -5)),
        (0, 0, (0, 255)),
        (77, 77, (0, 255)),
        (0, 2**32 - 1, (0, 2**32 - 1)),
        (0, 3 << 30, (0, 2**32 - 1)),
    ],
)
def test_choose_rendering_finds_the_range(low: int, high: int, expected: tuple[int, int]) -> None:
    middle = (low + high) // 2
    levels = [Levels(True, low, middle), Levels(), Levels(True, middle, high)]
    assert pixels.choose_rendering(levels)[:2] == expected
    assert pixels.choose_rendering(levels[::-1])[:2] == expected


def test_choose_rendering_without_special_pictures_is_the_default() -> None:
    assert pixels.choose_rendering([]) == Rendering(0, 65_535, 255)
    assert pixels.choose_rendering([Levels(), Levels()]) == Rendering()


def test_full_range_of_16_bits_is_divided_by_257() -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256, 1)
    image = pixels.to_8_bits(Raster(values, None), Rendering())
    np.testing.assert_array_equal(image, (values.astype(int) + 128) // 257)


@pytest.mark.parametrize("value", [-7, 0, 9, 4095])
def test_constant_picture_has_one_level(value: int) -> None:
    raster = Raster(np.full((4, 4, 1), value, np.int32), None)
    image = pixels.to_8_bits(raster, pixels.choose_rendering([pixels.measure(raster)]))
    assert np.unique(image).size == 1


@pytest.mark.parametrize("side", [16, 64, 512])
def test_hot_pixel_does_not_darken_a_picture(side: int) -> None:
    values = RANDOM.integers(0, 4096, (side, side, 1)).astype(np.uint16)
    values[3, 5], values[7, 9] = 65_535, 0
    levels = pixels.measure(Raster(values, None))
    assert levels.high < 4096
    rendering = pixels.choose_rendering([levels])
    assert rendering == Rendering(0, 4095)
    image = pixels.to_8_bits(Raster(values, None), rendering)
    assert image[3, 5] == 255
    assert 110 < image.mean() < 145


def save_deep(folder: Path, name: str, values: np.ndarray) -> str:
    if values.ndim == 3:
        (folder / name).write_bytes(png(values))
    else:
        Image.fromarray(values).save(folder / name)
    return name


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_set_of_12_bits_keeps_the_relation_of_its_pictures(tmp_path: Path, extension: str) -> None:
    base = RANDOM.integers(0, 1000, (32, 32)).astype(np.uint16)
    base[0, :2] = 999
    names = [
        save_deep(tmp_path, f"{k}.{extension}", (base * k).astype(np.uint16)) for k in (1, 2, 4)
    ]
    decoded = read_set(tmp_path, names)
    assert decoded.form.rendering == Rendering(0, 4095)
    assert decoded.channels == 1
    for row, k in zip(decoded.table, (1, 2, 4), strict=True):
        expected = np.floor(base.astype(float) * k * 255 / 4095 + 0.5)
        np.testing.assert_array_equal(row[..., 0], expected)


def test_set_has_the_range_of_its_training_pictures(tmp_path: Path) -> None:
    dark, bright = (RANDOM.integers(0, high, (32, 32)).astype(np.uint16) for high in (4096, 60_000))
    names = [save_deep(tmp_path, "a.png", dark), save_deep(tmp_path, "b.png", bright)]
    assert read_set(tmp_path, names, training=1).form.rendering == Rendering(0, 4095)
    decoded = read_set(tmp_path, names)
    assert decoded.form.rendering == Rendering(0, 65_535)
    np.testing.assert_array_equal(decoded.table[0, ..., 0], (dark.astype(int) + 128) // 257)


def test_set_of_computed_tomography_is_read(tmp_path: Path, write: Callable) -> None:
    values = np.linspace(-1024, 3071, 32 * 32).reshape(32, 32, 1).round().astype(np.int16)
    write("a.tif", tiff(values, 1))
    write("b.tif", tiff(values // 2, 1, ">"))
    decoded = read_set(tmp_path, ["a.tif", "b.tif"])
    low, high, _ = decoded.form.rendering
    assert (low, high) == tuple(np.sort(values, None)[[1, -2]])
    for row, stored in zip(decoded.table, (values, values // 2), strict=True):
        expected = (np.clip(stored.astype(float), low, high) - low) * 255 / (high - low)
        assert np.abs(row - expected).max() <= 0.51


def test_set_of_an_offset_is_read(tmp_path: Path) -> None:
    values = RANDOM.integers(30_000, 34_096, (32, 32)).astype(np.uint16)
    image = read_set(tmp_path, [save_deep(tmp_path, "a.png", values)]).table[0]
    assert image.min() < 20
    assert image.max() > 235


def test_set_of_colour_of_12_bits_is_read(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 4096, (32, 32, 3)).astype(np.uint16)
    decoded = read_set(tmp_path, [save_deep(tmp_path, "a.png", values)])
    assert decoded.form.rendering == Rendering(0, 4095)
    np.testing.assert_array_equal(decoded.table[0], np.floor(values * (255 / 4095) + 0.5))


# What files hold, channel by channel


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_its_values_and_channels(channels: int, write: Callable) -> None:
    values = RANDOM.integers(0, 65_536, (5, 7, channels)).astype(np.uint16)
    raster = raster_of(write("a.png", png(values)))
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
    raster = raster_of(write("a.tif", content))
    assert raster.alpha is None
    np.testing.assert_array_equal(raster.values, expected)


@pytest.mark.parametrize("kind", ["u1", "u2"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_with_alpha_has_the_values_that_were_written(
    kind: str, order: str, write: Callable
) -> None:
    values = shaped(4, kind)
    raster = raster_of(write("a.tif", tiff(values, 2, order, t338=(2,))))
    np.testing.assert_array_equal(raster.values, values[..., :3])
    np.testing.assert_array_equal(raster.alpha, values[..., 3:] // (1 if kind == "u1" else 257))
    if kind == "u1":
        grey = raster_of(write("a.tif", tiff(values[..., :2], 1, order, t338=(2,))))
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
        raster_of(write("a.tif", content))
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["grey", "16 bits", "RGB", "RGB of 16 bits"])
def test_tiff_is_turned_upright(kind: str, orientation: int, write: Callable) -> None:
    values = READ[kind][1]
    photometric = 2 if values.shape[-1] == 3 else 1
    path = write("a.tif", tiff(values, photometric, t274=(orientation,)))
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


# Transparency


def save_icon(folder: Path, name: str, ink: int, mode: str = "RGBA") -> str:
    icon = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    ImageDraw.Draw(icon).ellipse((6, 6, 26, 26), (ink, ink, ink, 255))
    icon.convert(mode).save(folder / name)
    return name


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(
    ("inks", "background"),
    [
        ([0], 255),
        ([128], 255),
        ([255], 0),
        ([255, 230], 0),
        ([0, 255], 128),
        ([128, 255], 0),
        ([0] * 150 + [255], 255),  # fewer than 1 %
    ],
)
def test_icons_are_seen_on_their_background(
    mode: str, inks: list[int], background: int, tmp_path: Path
) -> None:
    names = [save_icon(tmp_path, f"{k}.png", ink, mode) for k, ink in enumerate(inks)]
    decoded = read_set(tmp_path, names)
    assert decoded.form.rendering.background == background
    for row, ink in zip(decoded.table, inks, strict=True):
        assert (row[0, 0] == background).all()
        assert (row[16, 16] == ink).all()


def test_opaque_pictures_do_not_change_the_background(tmp_path: Path) -> None:
    names = [save_icon(tmp_path, "a.png", 0)]
    for k in range(3):
        names.append(f"white{k}.png")
        Image.new("RGBA", (32, 32), (255, 255, 255, 255)).save(tmp_path / names[-1])
    Image.new("RGBA", (32, 32), (255, 255, 255, 0)).save(tmp_path / "nothing.png")
    decoded = read_set(tmp_path, [*names, "nothing.png"])
    assert decoded.form.rendering.background == 255
    assert (decoded.table[1:] == 255).all()


def test_palette_with_transparency_is_seen(tmp_path: Path) -> None:
    icon = Image.new("P", (32, 32), 0)
    icon.putpalette([0, 0, 0, 255, 255, 255])
    icon.paste(1, (8, 8, 24, 24))
    icon.save(tmp_path / "a.png", transparency=0)
    icon.save(tmp_path / "b.gif", transparency=0)
    decoded = read_set(tmp_path, ["a.png", "b.gif"])
    assert decoded.form.rendering.background == 0
    for row in decoded.table:
        assert (row[8:24, 8:24] == 255).all()
        assert not row[:8].any()


def test_icons_of_16_bits_are_seen_on_their_background(tmp_path: Path) -> None:
    icon = np.zeros((32, 32, 4), np.uint16)
    icon[8:24, 8:24] = 4095, 4095, 4095, 65_535
    decoded = read_set(tmp_path, [save_deep(tmp_path, "a.png", icon)])
    assert decoded.form.rendering == Rendering(0, 4095, 0)
    assert (decoded.table[0, 8:24, 8:24] == 255).all()
    assert not decoded.table[0, :8].any()


def test_levels_are_the_same_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    values = RANDOM.integers(0, 256, (33, 7, 4)).astype(np.uint8)
    raster = Raster(values[..., :3], values[..., 3:])
    whole = pixels.measure(raster)
    grey = np.asarray(Image.fromarray(values[..., :3]).convert("L"))
    assert whole.opaque == int(np.average(grey, weights=values[..., 3]))
    monkeypatch.setattr(pixels, "_BAND_PIXELS", 20)
    assert pixels.measure(raster) == whole


# HEIC


def test_heic_is_named_with_the_way_to_read_it(
    write: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    start = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    with pytest.raises(limits.PictureError, match="^HEIC is read with pip install 'tl_keras.heic"):
        picture_file.load(write("a.heic", start + bytes(99)))
    # A file of another extension that nobody takes for a picture.
    with pytest.raises(limits.NotAPictureError):
        picture_file.load(write("a.dat", start + bytes(99)))


def test_avif_is_read_without_the_reader_of_heic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Image.new("RGB", (16, 16), "red").save(tmp_path / "a.avif")
    assert np.abs(picture_file.load(tmp_path / "a.avif").astype(int) - [255, 0, 0]).max() < 4


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
    picture.save(path, "HEIF", quality=95, exif=data, save_all=True, append_images=[second])
    loaded = picture_file.load(path).astype(int)
    if orientation == 6:
        loaded = np.rot90(loaded)
    assert loaded.shape == (32, 64, 3)
    assert np.abs(loaded[:, :28] - [255, 0, 0]).mean() < 8
    assert np.abs(loaded[:, 36:] - [0, 0, 255]).mean() < 8
    with pytest.raises(limits.PictureError, match="64x32 is more than|32x64 is more than"):
        picture_file.open_picture(path, 2047).__enter__()
