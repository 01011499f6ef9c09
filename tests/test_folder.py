"""Tests of folders of pictures: layouts, formats, and what is refused."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tl_keras.data import catalog, memory, reading
from tl_keras.data.dataset import Dataset
from tl_keras.errors import DataError, UsageError

HANDWRITTEN = Path(__file__).resolve().parents[2] / "shared/data/image_folders/handwritten62"


def open_folder(root: Path, framing: str = "auto") -> Dataset:
    return reading.open_dataset(f"folder:{root}", framing=framing)


def save(path: Path, image: Image.Image | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("L", (6, 6), 99)).save(path, **options)
    return path


def make_classes(root: Path, *names: str, count: int = 5) -> Path:
    for name in names:
        for index in range(count):
            save(root / name / f"{index}.png", Image.new("L", (6, 6), index))
    return root


def make_splits(root: Path, *names: str) -> Path:
    make_classes(root / "train", *names)
    make_classes(root / "test", *names, count=2)
    return root


def test_folder_with_train_and_test_keeps_them(tmp_path: Path) -> None:
    make_splits(tmp_path, "b", "a")
    make_classes(tmp_path / "val", "a", "b")
    (tmp_path / "LICENSE").write_text("MIT")
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert (dataset.channels, dataset.size) == (1, 0)
    train, test = dataset.read("train", 6), dataset.read("test", 4)
    assert train.images.shape == (10, 6, 6, 1)
    assert train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] * 2
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    assert test.images.shape == (4, 4, 4, 1)
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_folder_of_classes_is_split_the_same_always_and_class_by_class(tmp_path: Path) -> None:
    make_classes(tmp_path, "a", "b", count=10)
    splits = [open_folder(tmp_path).read(split, 6) for split in ("train", "test", "train")]
    train, test, again = splits
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2]
    np.testing.assert_array_equal(train.images, again.images)
    for label in (0, 1):
        values = [part.images[part.labels == label, 0, 0, 0].tolist() for part in (train, test)]
        assert sorted(values[0] + values[1]) == list(range(10))


def test_folder_sorts_names_of_any_script_by_bytes(tmp_path: Path) -> None:
    names = ["б", "a", "Z", "語", "é", "10", "9", "with space"]
    make_splits(tmp_path, *names)
    expected = sorted(names, key=lambda name: name.encode())
    assert open_folder(tmp_path).class_names == tuple(expected)


def test_folder_takes_a_name_that_is_no_text(tmp_path: Path) -> None:
    make_classes(tmp_path, "a")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102
    for index in range(5):
        save(tmp_path / os.fsdecode(b"\xff") / f"{index}.png")
    names = open_folder(tmp_path).class_names
    assert names == ("a", "\\xff")


@pytest.mark.parametrize(
    ("image", "value"),
    [
        (Image.new("1", (4, 4), 1), 255),
        (Image.new("L", (4, 4), 7), 7),
        (Image.new("LA", (4, 4), (0, 128)), 127),
        (Image.new("RGBA", (4, 4), (50, 50, 50, 0)), 255),
        (Image.new("RGB", (4, 4), (50, 50, 50)), 50),
        (Image.fromarray(np.full((4, 4), 65535, np.uint16)), 255),
        (Image.fromarray(np.full((4, 4), 257 * 100, np.uint16)), 100),
        (Image.new("L", (4, 4), 30).convert("P"), 30),
    ],
)
def test_folder_counts_pictures_without_colour_as_grey(
    tmp_path: Path, image: Image.Image, value: int
) -> None:
    make_splits(tmp_path, "a", "b")
    save(tmp_path / "train" / "a" / "00.png", image)
    dataset = open_folder(tmp_path)
    assert dataset.channels == 1
    assert (dataset.read("train", 4).images[1] == value).all()


def test_folder_with_one_coloured_picture_has_three_channels(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    save(tmp_path / "test" / "b" / "0.jpg", Image.new("CMYK", (5, 5), (255, 0, 0, 0)))
    dataset = open_folder(tmp_path)
    assert dataset.channels == 3
    assert dataset.augment == catalog.PHOTOGRAPHS
    cyan = dataset.read("test", 5).images[2, 2, 2]
    assert cyan[0] < 20
    assert cyan[1:].min() > 150
    assert dataset.read("train", 5).images.shape == (10, 5, 5, 3)
    framed = open_folder(tmp_path, "mnist")
    assert (framed.channels, framed.size, framed.augment) == (1, 28, catalog.HANDWRITING)
    assert framed.read("test", 0).images.shape == (5, 28, 28, 1)


def test_folder_ignores_hidden_files_and_files_that_are_no_pictures(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    (tmp_path / ".git").mkdir()
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "a" / ".hidden.png").write_text("nothing")
    (tmp_path / "train" / "a" / "notes.txt").write_text("nothing")
    (tmp_path / "train" / "a" / "Thumbs.db").write_bytes(b"\0" * 100)
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert len(dataset.read("train", 6).images) == 10


def huge_png(path: Path) -> None:
    """Write some bytes that declare 100,000 x 100,000 pixels."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_folder_lists_every_picture_that_cannot_be_used(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    a = tmp_path / "train" / "a"
    noise = np.random.default_rng(0).integers(0, 255, (60, 60), dtype=np.uint8)
    whole = save(a / "cut.png", Image.fromarray(noise)).read_bytes()
    (a / "cut.png").write_bytes(whole[: len(whole) // 2])
    (a / "empty.jpeg").write_bytes(b"")
    (a / "text.JPG").write_text("<html>404</html>")
    huge_png(a / "huge.png")
    save(a / "float.tif", Image.fromarray(np.zeros((4, 4), np.float32)))
    (tmp_path / "test" / "b" / "broken.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError) as raised:
        open_folder(tmp_path)
    message = str(raised.value)
    assert "\n" not in message
    for name in ("cut.png", "empty.jpeg", "text.JPG", "huge.png", "float.tif", "broken.png"):
        assert name in message
    assert "100000x100000" in message or "pixels" in message
    assert "0.png" not in message


def test_folder_shortens_a_long_list_of_corrupt_pictures(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    for index in range(25):
        (tmp_path / "train" / "a" / f"bad{index:02}.png").write_text("x")
    with pytest.raises(DataError, match=r"bad09\.png.* and 15 more"):
        open_folder(tmp_path)


def test_folder_larger_than_memory_is_read_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_folder(make_splits(tmp_path, "a", "b"))
    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    images = dataset.read("train", 6).images
    assert images.base is not None
    assert images[:, 3, 3, 0].tolist() == [0, 1, 2, 3, 4] * 2


def test_folder_names_a_picture_that_goes_missing_later(tmp_path: Path) -> None:
    dataset = open_folder(make_splits(tmp_path, "a", "b"))
    (tmp_path / "train" / "b" / "3.png").unlink()
    with pytest.raises(DataError, match=r"b/3\.png has changed"):
        dataset.read("train", 6)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((), (), "has no class"),
        (("a",), ("a",), "only the class 'a'"),
        (("a", "b"), ("a", "c", "d"), "lacks: 'c', 'd'"),
        (("a", "b"), (), "no test picture"),
    ],
)
def test_folder_refuses_classes_that_cannot_be_learnt(
    tmp_path: Path, train: tuple[str, ...], test: tuple[str, ...], message: str
) -> None:
    for split, names in (("train", train), ("test", test)):
        (tmp_path / split).mkdir()
        make_classes(tmp_path / split, *names)
    with pytest.raises(DataError, match=message):
        open_folder(tmp_path)


def test_folder_accepts_a_class_that_is_trained_and_not_tested(tmp_path: Path) -> None:
    make_classes(tmp_path / "train", "a", "b")
    make_classes(tmp_path / "test", "b")
    dataset = open_folder(tmp_path)
    assert set(dataset.read("test", 6).labels.tolist()) == {1}


def test_folder_refuses_a_class_without_a_training_picture(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "train" / "c" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match="without a training picture: 'c'"):
        open_folder(tmp_path)


@pytest.mark.parametrize("nested", ["train/cat/0.png", "a/b/c.png"])
def test_folder_refuses_folders_in_a_class(tmp_path: Path, nested: str) -> None:
    make_classes(tmp_path, "x", "y")
    save(tmp_path / nested)
    with pytest.raises(DataError, match="is a folder inside a class"):
        open_folder(tmp_path)


def test_folder_refuses_other_folders_beside_train_and_test(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    make_classes(tmp_path, "car")
    with pytest.raises(DataError, match="beside train and test: car"):
        open_folder(tmp_path)


def test_folder_that_is_missing_or_has_no_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        open_folder(tmp_path / "missing")
    with pytest.raises(DataError, match="there is no folder"):
        open_folder(save(tmp_path / "a.png"))
    with pytest.raises(UsageError, match="folder:PATH"):
        reading.open_dataset("folder:")


def test_folder_refuses_links_that_lead_out_and_takes_others(tmp_path: Path) -> None:
    outside = save(tmp_path / "outside" / "secret.png")
    root = make_splits(tmp_path / "root", "a", "b")
    (root / "train" / "b" / "inside.png").symlink_to(root / "train" / "a" / "0.png")
    (tmp_path / "link").symlink_to(root)
    assert len(open_folder(tmp_path / "link").read("train", 6).images) == 11
    for link, target in ((root / "train" / "a" / "out.png", outside), (root / "c", outside.parent)):
        link.symlink_to(target)
        with pytest.raises(DataError, match="leads out of"):
            open_folder(root)
        link.unlink()
    (root / "train" / "a" / "loop.png").symlink_to(root / "train" / "a" / "loop.png")
    with pytest.raises(DataError, match="leads nowhere|cannot be used"):
        open_folder(root)


@pytest.mark.skipif(not HANDWRITTEN.exists(), reason=f"no {HANDWRITTEN}")
def test_folder_reads_real_scans_and_frames_them_white_on_black() -> None:
    dataset = open_folder(HANDWRITTEN, "mnist")
    assert len(dataset.class_names) == 62
    assert set(dataset.class_names) == set(catalog.BYCLASS)
    test = dataset.read("test", 0)
    assert test.images.shape == (1116, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [18] * 62
    assert np.median(test.images) == 0
    assert (test.images.max(axis=(1, 2, 3)) > 200).mean() > 0.9
