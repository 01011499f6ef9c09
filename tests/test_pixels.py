"""Tests of bringing the pictures of a set to 8 bits: value ranges and transparency."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from written import png, tiff

from tl_keras.config.pictures import PictureOptions
from tl_keras.pictures import picture_set, pixels
from tl_keras.pictures.picture_format import PictureFormat, Rendering
from tl_keras.pictures.pixels import Levels, Raster

RANDOM = np.random.default_rng(0)


def read_set(folder: Path, names: list[str], training: int | None = None) -> picture_set.PictureSet:
    """Decode files to 32x32, and choose the rendering from the first `training`."""
    in_training = np.arange(len(names)) < (len(names) if training is None else training)
    options = PictureOptions(picture_cache=str(folder / "cache"))
    paths = [str(folder / name) for name in names]
    return picture_set.read_pictures(paths, in_training, PictureFormat(32), options)


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
    write(tiff(values, 1), "a.tif")
    write(tiff(values // 2, 1, ">"), "b.tif")
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
    assert len(decoded.table) == 5
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
    deep = Raster(RANDOM.integers(-500, 70_000, (33, 7, 3)), None)
    wide = pixels.measure(deep)
    assert wide[1:3] == tuple(np.sort(deep.values, None)[[1, -2]])
    monkeypatch.setattr(pixels, "_BAND_PIXELS", 20)
    assert pixels.measure(raster) == whole
    assert pixels.measure(deep) == wide
    monkeypatch.setattr(pixels, "_CUT", 0.05)
    assert pixels.measure(deep)[1:3] == tuple(np.sort(deep.values, None)[[35, -36]])
