"""Tests of decoding one picture file."""

from pathlib import Path

import pytest
from PIL import Image

from tl_keras.data import picture_file


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("L", (6, 6), 99)).save(path, **options)
    return path


def test_picture_with_a_transparent_palette_lies_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 9, 9, 9])
    loaded = picture_file.load(save(tmp_path / "a.png", picture, transparency=1))
    assert (loaded == 255).all()


def test_picture_of_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    path = save(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert picture_file.load(path)[0, 0].tolist() == [255, 0, 0]


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


def test_picture_with_too_many_pixels_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_file, "MOST_PIXELS", 15)
    path = save(tmp_path / "a.png", Image.new("L", (4, 4)))
    path.write_bytes(path.read_bytes()[:45])  # no pixel is left, only the header
    with pytest.raises(picture_file.PictureError, match="4x4 is more than 15 pixels"):
        picture_file.load(path)
