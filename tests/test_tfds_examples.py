"""Tests that pictures of tensorflow-datasets are read as those of folders are."""

from pathlib import Path

import numpy as np
import pytest
from made_datasets import MadeStored, encode
from PIL import Image

from tl_keras.config import TfdsSelection
from tl_keras.data import reading, tfds_examples
from tl_keras.data.dataset import Dataset
from tl_keras.errors import DataError
from tl_keras.pictures import images, picture_file


@pytest.fixture(autouse=True)
def folders_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see or touch what the user has prepared."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that opens a dataset with these files, of a declared shape."""

    def open_stored(files: list[bytes], shape=(None, None, 3), dtype=np.uint8, **more) -> Dataset:
        for name, value in (("FILES", tuple(files)), ("SHAPE", shape), ("DTYPE", dtype)):
            monkeypatch.setattr(MadeStored, name, value)
        return reading.open_dataset("made_stored", data_dir=str(tmp_path / "tfds"), **more)

    return open_stored


def in_order(dataset: Dataset, size: int, count: int) -> np.ndarray:
    """Read the test split. Each picture has another label, so that they can be put in order."""
    read = dataset.read("test", size)
    assert sorted(read.labels) == [0, 1][:count]
    return read.images[np.argsort(read.labels)]


def noise(*shape: int) -> np.ndarray:
    # Smooth, so that a decoder of JPEG leaves it alike, and not symmetric.
    coarse = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


def as_folder(files: list[bytes], tmp_path: Path, size: int) -> np.ndarray:
    """Read the same files as a folder with a class for each."""
    for number, content in enumerate(files):
        for split in ("train", "test"):
            path = tmp_path / "folder" / split / str(number) / "0.dat"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
    return reading.open_dataset(f"folder:{tmp_path / 'folder'}").read("test", size).images


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_lies_as_the_same_file_of_a_folder(store, orientation, tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pictures = [Image.fromarray(noise(6, 9, 3)), Image.fromarray(255 - noise(5, 9, 3))]
    files = [encode(picture, "JPEG", exif=exif) for picture in pictures]
    found = in_order(store(files), 16, 2)
    np.testing.assert_array_equal(found, as_folder(files, tmp_path, 16))
    # Of its own size, which needs no scaled decoding.
    found = in_order(store(files), 24, 2)
    # Independently: by turning the decoded pixels.
    turned = {
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud,
        5: lambda x: x.transpose(1, 0, 2), 6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x.transpose(1, 0, 2), 2), 8: lambda x: np.rot90(x, 1),
    }  # fmt: skip
    plain = picture_file.load(encode(pictures[0], "JPEG"))
    upright = images.fit(np.ascontiguousarray(turned[orientation](plain)), 24)
    np.testing.assert_array_equal(found[0], upright)


def test_photograph_of_a_declared_size_is_turned_upright_too(store) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    pictures = [Image.fromarray(noise(4, 4, 3)), Image.fromarray(255 - noise(4, 4, 3))]
    files = [encode(pictures[0], "JPEG", exif=exif), encode(pictures[1], "PNG", exif=exif)]
    found = in_order(store(files, (16, 16, 3)), 0, 2)
    plain = picture_file.load(encode(pictures[0], "JPEG"))
    np.testing.assert_array_equal(found[0], plain[::-1, ::-1])
    np.testing.assert_array_equal(found[1], 255 - noise(4, 4, 3)[::-1, ::-1])


def test_plain_pictures_of_a_declared_size_are_left_to_tensorflow(store, monkeypatch) -> None:
    def fail(content: bytes) -> None:
        raise AssertionError

    monkeypatch.setattr(picture_file, "load", fail)
    picture = Image.fromarray(noise(2, 2, 3))
    found = in_order(store([encode(picture, "PNG"), encode(picture, "JPEG")], (8, 8, 3)), 0, 2)
    np.testing.assert_array_equal(found[0], noise(2, 2, 3))
    assert np.abs(found[1].astype(int) - noise(2, 2, 3)).mean() < 20


ALPHA = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
RGBA = np.dstack([noise(2, 2, 3), ALPHA])
LA = np.dstack([noise(2, 2), ALPHA])


def on_white(pixels: np.ndarray) -> np.ndarray:
    alpha = pixels[..., -1:].astype(float) / 255
    return np.rint(pixels[..., :-1] * alpha + 255 * (1 - alpha))


@pytest.mark.parametrize("side", [None, 8])
@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_transparency_lies_on_white_whatever_channels_are_declared(store, channels, side) -> None:
    files = [encode(Image.fromarray(RGBA), "PNG"), encode(Image.fromarray(LA, "LA"), "PNG")]
    dataset = store(files, (side, side, channels))
    assert dataset.channels == (1 if channels == 1 else 3)
    found = in_order(dataset, 8, 2).astype(int)
    colour, grey = on_white(RGBA), on_white(LA)
    if channels == 1:
        colour = colour @ [[0.299], [0.587], [0.114]]
    assert np.abs(found[0] - colour).max() <= 1
    assert np.abs(found[1] - grey).max() <= 1


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
def test_grey_palette_and_cmyk_become_the_channels_of_the_dataset(
    store, channels, tmp_path
) -> None:
    grey = Image.fromarray(noise(2, 2))
    palette = Image.new("P", (5, 6), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    for files in (
        [encode(grey, "PNG"), encode(palette, "PNG")],
        [encode(grey, "JPEG"), encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")],
    ):
        dataset = store(files, (None, None, channels))
        found = in_order(dataset, 8, 2)
        expected = [images.fit(picture_file.load(content), 8) for content in files]
        for one, pixels in zip(found, expected, strict=True):
            with_channels = picture_file.with_channels(pixels, dataset.channels)
            np.testing.assert_array_equal(one, with_channels)
        dataset_folder = tmp_path / "tfds" / "made_stored"
        dataset_folder.rename(tmp_path / f"done {len(list(tmp_path.iterdir()))}")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_16_bits_become_8(store, dtype) -> None:
    values = noise(2, 2).astype(np.uint16) * 257
    files = [encode(Image.fromarray(deep), "PNG") for deep in (values, 65535 - values)]
    found = in_order(store(files, (8, 8, 1), dtype), 0, 2)
    np.testing.assert_array_equal(found[0, ..., 0], noise(2, 2))
    np.testing.assert_array_equal(found[1, ..., 0], 255 - noise(2, 2))


def test_framed_pictures_may_differ_in_size_and_be_transparent(store) -> None:
    clear = np.zeros((40, 30, 4), np.uint8)
    clear[10:30, 10:20, 3] = 255
    files = [encode(Image.fromarray(clear), "PNG"), encode(Image.fromarray(noise(5, 5)), "PNG")]
    found = in_order(store(files, framing="mnist"), 0, 2)
    ink = np.full((1, 40, 30), 255, np.uint8)
    ink[:, 10:30, 10:20] = 0
    np.testing.assert_array_equal(found[0], images.frame(ink)[0])


@pytest.mark.parametrize(
    ("shape", "damage", "message"),
    [
        ((None, None, 3), "cut", "cannot be used: "),
        ((8, 8, 3), "cut", "cannot be used: "),
        ((None, None, 3), "text", "cannot be used: not a picture"),
        ((8, 8, 3), "text", "cannot be used: not a picture"),
        ((8, 8, 3), "size", "cannot be used: 9x8 pixels are not the declared 8x8"),
        ((8, 8, 3), "jpeg size", "cannot be used: 9x8 pixels are not the declared 8x8"),
    ],
)
def test_corrupt_picture_is_named_by_split_and_index(
    store, shape, damage, message, tmp_path
) -> None:
    good = encode(Image.fromarray(noise(2, 2, 3)), "PNG")
    wide = Image.new("RGB", (9, 8))
    bad = {
        "cut": good[:-30], "text": b"no picture at all", "size": encode(wide, "PNG"),
        "jpeg size": encode(wide, "JPEG"),
    }[damage]  # fmt: skip
    dataset = store([good, good, bad, good], shape)
    with pytest.raises(DataError, match=message) as raised:
        dataset.read("train", 8)
    message = str(raised.value)
    assert "\n" not in message
    source = reading.open_dataset("made_stored", data_dir=str(tmp_path / "tfds"))
    assert source.name in message
    index = int(message.partition(": image ")[2].split()[0])
    assert f"image {index} of split 'train'" in message
    slices = f"train[:{index}]+train[{index + 1}:]" if index else "train[1:]"
    assert f"--tfds_test_split, such as {slices}" in message
    # The way out works.
    rest = reading.open_dataset(
        "made_stored",
        data_dir=str(tmp_path / "tfds"),
        tfds=TfdsSelection(train_split=slices),
    )
    assert len(rest.read("train", 8).labels) == 3


def test_error_of_a_slice_does_not_suggest_to_slice_it(store) -> None:
    good = encode(Image.fromarray(noise(2, 2, 3)), "PNG")
    selection = TfdsSelection(train_split="train[:3]")
    dataset = store([good, b"no picture", b"no picture", b"no picture"], tfds=selection)
    with pytest.raises(DataError, match=r"of split 'train\[:3\]' cannot.*--tfds_test_split$"):
        dataset.read("train", 8)


def test_pictures_are_read_alike_in_small_batches(store, monkeypatch) -> None:
    files = [encode(Image.fromarray(noise(2, 2, 3)), "PNG"), encode(Image.fromarray(RGBA), "PNG")]
    dataset = store(files, (8, 8, 3))
    expected = dataset.read("train", 0).images
    monkeypatch.setattr(tfds_examples, "_BATCH_BYTES", 1)
    np.testing.assert_array_equal(dataset.read("train", 0).images, expected)


@pytest.mark.parametrize("batch_bytes", [1, 1000])
def test_picture_that_tensorflow_cannot_decode_is_read_in_its_place(
    store, monkeypatch, batch_bytes
) -> None:
    monkeypatch.setattr(tfds_examples, "_BATCH_BYTES", batch_bytes)
    pictures = [Image.new("RGB", (8, 8), (40 * number, 0, 0)) for number in range(6)]
    kinds = ("PNG", "TIFF", "PNG", "WEBP", "PNG", "PNG")
    files = [
        encode(picture, kind, **({"lossless": True} if kind == "WEBP" else {}))
        for picture, kind in zip(pictures, kinds, strict=True)
    ]
    read = store(files, (8, 8, 3)).read("test", 0)
    values = (read.images[:, 0, 0, 0] // 40).tolist()
    assert sorted(values) == list(range(6))
    assert [value % 2 for value in values] == read.labels.tolist()
