"""Tests of folders of pictures: layouts, formats, and what is refused."""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tl_keras import main
from tl_keras.config.pictures import PictureOptions
from tl_keras.data import catalog, folder, reading
from tl_keras.data.dataset import Dataset
from tl_keras.errors import DataError, UsageError
from tl_keras.pictures import decode, decoded_set, picture_file
from tl_keras.storage import memory

HANDWRITTEN = Path(__file__).resolve().parents[2] / "shared/data/image_folders/handwritten62"


def open_folder(root: Path, framing: str = "auto", *, size: int = 6, **options) -> Dataset:
    pictures = PictureOptions(**options)
    found = reading.open_dataset(f"folder:{root}", framing=framing, pictures=pictures)
    assert found.decode and found.channels == 0
    return found.decode(size)


def images_of(dataset: Dataset, split: str) -> np.ndarray:
    return np.asarray(dataset.read(split).images)


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged of a folder, from any level on and whoever set up the log before."""
    messages: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(folder.LOG, level, lambda form, *args: messages.append(form % args))
    return messages


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
    (tmp_path / "LICENSE").write_text("MIT")
    dataset = open_folder(tmp_path, size=4)
    assert dataset.class_names == ("a", "b")
    assert (dataset.channels, dataset.size) == (1, 4)
    train, test = dataset.read("train"), dataset.read("test")
    assert train.images.shape == (10, 4, 4, 1)
    assert images_of(dataset, "train")[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] * 2
    assert train.labels.tolist() == [0] * 5 + [1] * 5
    assert train.is_validation is None
    assert test.images.shape == (4, 4, 4, 1)
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_folder_with_validation_marks_it_in_the_training_split(tmp_path: Path) -> None:
    make_splits(tmp_path, "b", "a")
    make_classes(tmp_path / "Valid", "a", "b", count=2)
    dataset = open_folder(tmp_path)
    train = dataset.read("train")
    assert images_of(dataset, "train")[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4] * 2 + [0, 1] * 2
    assert train.is_validation is not None
    assert train.is_validation.tolist() == [False] * 10 + [True] * 4
    assert len(dataset.read("test").labels) == 4


def test_folder_of_classes_is_split_the_same_always_and_class_by_class(tmp_path: Path) -> None:
    make_classes(tmp_path, "a", "b", count=10)
    splits = [open_folder(tmp_path).read(split) for split in ("train", "test", "train")]
    train, test, again = splits
    values = [np.asarray(split.images)[:, 0, 0, 0] for split in splits]
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(test.labels).tolist() == [2, 2]
    np.testing.assert_array_equal(train.images, again.images)
    for label in (0, 1):
        parts = [values[i][part.labels == label].tolist() for i, part in enumerate((train, test))]
        assert sorted(parts[0] + parts[1]) == list(range(10))


def test_folder_sorts_names_of_any_script_by_bytes(tmp_path: Path) -> None:
    names = ["б", "a", "Z", "語", "é", "10", "9", "with space"]
    make_splits(tmp_path, *names)
    expected = sorted(names, key=lambda name: name.encode())
    assert open_folder(tmp_path).class_names == tuple(expected)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "de_DE.ISO-8859-1"])
def test_folder_sorts_names_the_same_in_any_locale(locale: str, tmp_path: Path) -> None:
    # The last two sort otherwise as letters than as bytes, where letters are known at all.
    names = ["b", "a", "Z", "é", "10", "9", "\uff21", os.fsdecode(b"\xff")]
    make_classes(tmp_path, *names)
    code = (
        "import sys; import numpy as np; from tl_keras.data import reading;"
        "found = reading.open_dataset('folder:' + sys.argv[1]);"
        "images = np.asarray(found.read('train', 6).images);"
        "print(ascii(found.class_names), images[:, 0, 0, 0].tolist())"
    )
    # Python would else mend a locale that knows no more than ASCII.
    environment = {**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, check=False, env=environment,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    dataset = open_folder(tmp_path)
    values = images_of(dataset, "train")[:, 0, 0, 0].tolist()
    assert done.stdout == f"{ascii(dataset.class_names)} {values}\n", done.stderr


def test_folder_takes_names_that_are_no_text(tmp_path: Path) -> None:
    make_classes(tmp_path, "a")
    odd = os.fsdecode(b"\xff")
    for index in range(5):
        save(tmp_path / odd / f"{index}{odd}.png", Image.new("L", (6, 6), 70 + index))
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("a", "\\xff")
    images = np.concatenate([images_of(dataset, split) for split in ("train", "test")])
    assert sorted(images[:, 0, 0, 0].tolist()) == [0, 1, 2, 3, 4, 70, 71, 72, 73, 74]
    (tmp_path / odd / f"bad{odd}.png").write_text("x")
    with pytest.raises(DataError, match=r"'\\udcff/bad\\udcff\.png' \(not a picture") as raised:
        open_folder(tmp_path)
    str(raised.value).encode()


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
    dataset = open_folder(tmp_path, size=4)
    assert dataset.channels == 1
    assert (images_of(dataset, "train")[1] == value).all()


def test_folder_with_one_coloured_picture_has_three_channels(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    save(tmp_path / "test" / "b" / "0.jpg", Image.new("CMYK", (5, 5), (255, 0, 0, 0)))
    dataset = open_folder(tmp_path, size=5)
    assert dataset.channels == 3
    assert dataset.augment == catalog.PHOTOGRAPHS
    cyan = images_of(dataset, "test")[2, 2, 2]
    assert cyan[0] < 20
    assert cyan[1:].min() > 150
    assert images_of(dataset, "train").shape == (10, 5, 5, 3)
    framed = open_folder(tmp_path, "mnist")
    assert (framed.channels, framed.size, framed.augment) == (1, 28, catalog.HANDWRITING)
    assert images_of(framed, "test").shape == (5, 28, 28, 1)


def test_folder_takes_a_picture_of_another_format_than_its_extension(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    for name in ("00.jpg", "01.txt", "02"):
        save(tmp_path / "train" / "a" / name, Image.new("L", (6, 6), 200), format="PNG")
    values = images_of(open_folder(tmp_path), "train")[:, 0, 0, 0]
    assert np.count_nonzero(values == 200) == 3


def test_folder_ignores_what_is_no_regular_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_splits(tmp_path, "a", "b")
    a = tmp_path / "train" / "a"
    os.mkfifo(a / "pipe.png")
    monkeypatch.chdir(a)  # the name of a socket may be no longer than a hundred letters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        try:
            os.mknod(a / "device.png", 0o600 | 0o020000, os.makedev(1, 5))  # as /dev/zero
        except PermissionError:
            assert os.getuid() != 0
        assert len(images_of(open_folder(tmp_path), "train")) == 10


def test_folder_ignores_hidden_files_and_files_that_are_no_pictures(
    tmp_path: Path, logged: list[str]
) -> None:
    make_splits(tmp_path, "a", "b")
    (tmp_path / ".git").mkdir()
    (tmp_path / "train" / ".cache").mkdir()
    (tmp_path / "train" / "a" / ".hidden.png").write_text("nothing")
    (tmp_path / "train" / "a" / "notes.txt").write_text("nothing")
    (tmp_path / "train" / "a" / "Thumbs.db").write_bytes(b"\0" * 100)
    os.mkfifo(tmp_path / "train" / "a" / "pipe.png")
    dataset = open_folder(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert len(images_of(dataset, "train")) == 10
    assert f"{tmp_path}: 3 files that are no images are ignored" in logged


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


def test_folder_leaves_out_as_many_corrupt_pictures_as_it_may_and_logs_them(
    tmp_path: Path, logged: list[str]
) -> None:
    make_splits(tmp_path, "a", "b")
    (tmp_path / "train" / "a" / "1.png").write_text("x")
    (tmp_path / "test" / "b" / "0.png").write_text("x")
    huge_png(tmp_path / "train" / "b" / "huge.png")
    for allowed in (0, 2):
        with pytest.raises(DataError, match=r"unusable images \(3 in all\): .*--max_bad_images=3$"):
            open_folder(tmp_path, max_bad_images=allowed)
    for allowed in (3, 100):
        logged.clear()
        dataset = open_folder(tmp_path, max_bad_images=allowed)
        train, test = dataset.read("train"), dataset.read("test")
        values = [np.asarray(part.images)[:, 0, 0, 0].tolist() for part in (train, test)]
        assert values == [[0, 2, 3, 4, 0, 1, 2, 3, 4], [0, 1, 1]]
        assert train.labels.tolist() == [0] * 4 + [1] * 5
        assert test.labels.tolist() == [0, 0, 1]
        (message,) = (line for line in logged if "unusable" in line)
        assert message.startswith(
            f"{tmp_path}: unusable images are skipped (3 in all): 'train/a/1.png'"
            " (not a picture, by its content), 'train/b/huge.png' ("
        )
        assert "'test/b/0.png' (not a picture, by its content)" in message


def test_folder_splits_the_same_with_a_corrupt_picture_and_without_it(tmp_path: Path) -> None:
    make_classes(tmp_path, "a", "b", count=10)
    before = open_folder(tmp_path).read("train")
    bad = tmp_path / "a" / "3bad.png"
    bad.write_text("x")
    after = open_folder(tmp_path, max_bad_images=1).read("train")
    np.testing.assert_array_equal(before.images, after.images)
    np.testing.assert_array_equal(before.labels, after.labels)


def test_folder_shortens_the_log_of_many_corrupt_pictures(
    tmp_path: Path, logged: list[str]
) -> None:
    make_splits(tmp_path, "a", "b")
    for index in range(25):
        (tmp_path / "train" / "a" / f"bad{index:02}.png").write_text("x")
    open_folder(tmp_path, max_bad_images=25)
    assert re.search(r"\(25 in all\): .*bad09\.png' \([a-z, ]*\) and 15 more$", logged[0])


def test_folder_refuses_a_class_of_which_all_training_pictures_are_corrupt(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    for path in (tmp_path / "train" / "b").iterdir():
        path.write_text("x")
    with pytest.raises(DataError, match="without a training image: 'b'"):
        open_folder(tmp_path, max_bad_images=5)


def test_folder_never_leaves_out_a_picture_for_want_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_) -> None:
        raise MemoryError

    make_splits(tmp_path, "a", "b")
    monkeypatch.setattr(decode, "decode", full)
    with pytest.raises(DataError, match=r"not enough memory to decode .*/train/a/0\.png'$"):
        open_folder(tmp_path, max_bad_images=100)


def test_folder_lets_no_library_write_about_pictures_to_the_console(
    tmp_path: Path, capfd: pytest.CaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    make_splits(tmp_path, "a", "b")
    save(tmp_path / "train" / "a" / "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    damaged = save(tmp_path / "train" / "a" / "a.tif", Image.new("L", (60, 60)), compression="lzma")
    content = damaged.read_bytes()
    damaged.write_bytes(content[:8] + bytes(20) + content[28:])
    with pytest.raises(picture_file.PictureError):
        picture_file.load(damaged)
    assert "LZMADecode" in capfd.readouterr().err
    open_folder(tmp_path, max_bad_images=1).read("train")
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"
    assert not recwarn.list
    picture_file.load(tmp_path / "train" / "a" / "a.png")
    assert "Corrupt EXIF" in str(recwarn.pop().message)


def test_folder_larger_than_memory_is_read_into_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        allocated.append(memory.allocate(shape))
        return allocated[-1]

    monkeypatch.setattr(memory, "available_memory", lambda: 0)
    monkeypatch.setattr(decoded_set, "memory", SimpleNamespace(allocate=allocate))
    dataset = open_folder(
        make_splits(tmp_path, "a", "b"), picture_cache_gb=0, stream_pictures="never"
    )
    assert [type(one) for one in allocated] == [np.memmap]
    assert images_of(dataset, "train")[:, 3, 3, 0].tolist() == [0, 1, 2, 3, 4] * 2


def test_folder_names_a_streamed_picture_that_goes_missing_later(tmp_path: Path) -> None:
    dataset = open_folder(make_splits(tmp_path, "a", "b"), stream_pictures="always")
    train = dataset.read("train")
    (tmp_path / "train" / "b" / "3.png").unlink()
    assert train.images[0].tolist() == np.zeros((6, 6, 1)).tolist()
    with pytest.raises(DataError, match=r"b/3\.png' cannot be decoded: No such file"):
        np.asarray(train.images)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ((), (), "has no class"),
        (("a",), ("a",), "only the class 'a'"),
        (("a", "b"), ("a", "c", "d"), "lacks: 'c', 'd'"),
        (("a", "b"), (), "test is empty"),
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
    assert set(dataset.read("test").labels.tolist()) == {1}


def test_folder_refuses_a_class_without_a_training_picture(tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    (tmp_path / "train" / "c").mkdir()
    (tmp_path / "train" / "c" / "notes.txt").write_text("none yet")
    with pytest.raises(DataError, match="without a training image: 'c'"):
        open_folder(tmp_path)


def test_folder_refuses_folders_in_a_class(tmp_path: Path) -> None:
    make_classes(tmp_path, "x", "y")
    save(tmp_path / "a/b/c.png")
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
    for path, reason in (("~no-such-user/a", "home dir"), ("a" * 300, "name too long"), ("\0", "")):
        with pytest.raises(DataError, match=f"there is no folder .*{reason}"):
            reading.open_dataset(f"folder:{path}")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ((), "has no class"),
        (("train/a", "train/b", "test/a"), "has classes without a training image: 'a', 'b'"),
        (("a/1.png",), "has only the class 'a'"),
        (("a/1.png", "b/1.png", "c/notes.txt"), "without a training image: 'c'"),
        (("a/1.png", "b/1.png", "b/bad.png"), "'b/bad.png' (not a picture, by its content)"),
    ],
)
def test_program_refuses_a_folder_before_it_builds_a_model(
    made: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture,
) -> None:
    from tl_keras.models import building

    monkeypatch.setattr(building, "build", None)
    root = tmp_path / "pictures"
    root.mkdir()
    for name in made:
        path = root / name
        if name.endswith("1.png"):
            save(path)
        elif path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
        else:
            path.mkdir(parents=True)
    words = [f"--target=folder:{root}", "--image_size=8", f"--workdir={tmp_path / 'work'}"]
    assert main.main(["tl_keras", *words]) == 65
    assert told in capfd.readouterr().err.splitlines()[-1]


def test_program_leaves_out_corrupt_pictures_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    root = make_splits(tmp_path / "pictures", "a", "b")
    (root / "train" / "a" / "bad.png").write_text("x")
    words = [f"--target=folder:{root}", f"--source=folder:{root}", "--image_size=8", "--epochs=1"]
    words += ["--source_epochs=1", f"--workdir={tmp_path / 'work'}", "--nobaseline"]
    assert main.main(["tl_keras", *words]) == 65
    capfd.readouterr()
    assert main.main(["tl_keras", *words, "--max_bad_images=1"]) == 0
    told = "unusable images are skipped (1 in all): 'train/a/bad.png' (not a picture, by"
    # Source and target are one folder, which is looked at once.
    assert capfd.readouterr().err.count(told) == 1
    assert told in (tmp_path / "work" / "log.txt").read_text()


def test_folder_refuses_links_that_lead_out_and_takes_others(tmp_path: Path) -> None:
    outside = save(tmp_path / "outside" / "secret.png")
    root = make_splits(tmp_path / "root", "a", "b")
    (root / "train" / "b" / "inside.png").symlink_to(root / "train" / "a" / "0.png")
    (tmp_path / "link").symlink_to(root)
    assert len(images_of(open_folder(tmp_path / "link"), "train")) == 11
    for link, target in ((root / "train" / "a" / "out.png", outside), (root / "c", outside.parent)):
        link.symlink_to(target)
        with pytest.raises(DataError, match="leads out of"):
            open_folder(root)
        link.unlink()


@pytest.mark.parametrize(
    ("link", "target"),
    [("train/a/x.png", "x.png"), ("train/a/x", ".."), ("train/x", "../train"), ("train/x", "x")],
)
def test_folder_refuses_links_in_a_circle(link: str, target: str, tmp_path: Path) -> None:
    make_splits(tmp_path, "a", "b")
    (tmp_path / link).symlink_to(target)
    with pytest.raises(DataError, match="leads nowhere|is a folder inside a class"):
        open_folder(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not HANDWRITTEN.exists(), reason=f"no {HANDWRITTEN}")
def test_folder_reads_real_scans_and_frames_them_white_on_black() -> None:
    dataset = open_folder(HANDWRITTEN, "mnist")
    assert len(dataset.class_names) == 62
    assert set(dataset.class_names) == set(catalog.BYCLASS)
    test = dataset.read("test")
    assert test.images.shape == (1116, 28, 28, 1)
    assert np.bincount(test.labels).tolist() == [18] * 62
    images = np.asarray(test.images)
    assert np.median(images) == 0
    assert (images.max(axis=(1, 2, 3)) > 200).mean() > 0.9


def photo(seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return Image.fromarray(values)


def make_photos(root: Path, *names: str, count: int = 10) -> Path:
    """Make folders of pictures that all differ."""
    for place, name in enumerate(names):
        for index in range(count):
            save(root / name / f"{index}.png", photo(1000 * place + index))
    return root


def test_held_out_pictures_never_have_a_copy_in_training(tmp_path: Path) -> None:
    make_photos(tmp_path, "a", "b", count=4)
    for path in sorted(tmp_path.glob("*/*.png")):
        for copy in range(4):
            save(path.with_name(f"{path.stem}_{copy}.png"), Image.open(path))
    dataset = open_folder(tmp_path, size=12)
    sides = [{one.tobytes() for one in images_of(dataset, split)} for split in ("train", "test")]
    assert len(sides[0]) == 6 and len(sides[1]) == 2 and not sides[0] & sides[1]
    train = dataset.read("train")
    assert train.groups is not None and len(np.unique(train.groups)) == 6
    assert np.bincount(train.groups)[np.unique(train.groups)].tolist() == [5] * 6


def test_copies_are_told_with_their_names_and_dropped_if_wanted(
    tmp_path: Path, logged: list[str]
) -> None:
    make_photos(tmp_path / "train", "a", "b")
    make_photos(tmp_path / "test", "a", "b", count=2)
    for index, name in enumerate(("a/0", "a/1", "b/0", "b/1")):
        save(tmp_path / "test" / f"{name}.png", photo(5000 + index))
    save(tmp_path / "train" / "a" / "leak.png", photo(5001))
    save(tmp_path / "train" / "a" / "again.png", photo(3))
    save(tmp_path / "train" / "b" / "doubt.png", photo(4))
    kept = open_folder(tmp_path, size=12)
    assert kept.files and kept.files.report
    found = {kind: one.count for kind, one in kept.files.report.findings.items() if one.count}
    assert found == {"exact_duplicate": 2, "exact_leak": 1, "exact_conflict": 2}
    assert any("'train/a/leak.png' and 'test/a/1.png'" in line for line in logged)
    assert len(kept.read("train").labels) == 23
    dropped = open_folder(tmp_path, size=12, on_duplicates="drop")
    names = [name for name, _, split in dropped.files.list_files() if split == "dropped"]
    # Of the pair in two classes, both.
    assert names == ["train/a/4.png", "train/a/again.png", "train/a/leak.png", "train/b/doubt.png"]
    assert len(dropped.read("train").labels) == 19 and len(dropped.read("test").labels) == 4
    with pytest.raises(DataError, match=r"^--on_duplicates=error: .*1 training or validation"):
        open_folder(tmp_path, on_duplicates="error")


def test_groups_of_a_csv_file_stay_on_one_side(tmp_path: Path) -> None:
    make_photos(tmp_path, "p")
    rows = [f"p/{i}.png,{'ab'[i % 2]},patient{i // 2}" for i in range(10)]
    (tmp_path / "l.csv").write_text("\n".join(["file,label,group", *rows]))
    found = reading.open_dataset(f"csv:{tmp_path / 'l.csv'}")
    assert found.decode
    dataset = found.decode(12)
    sides = {
        split: {
            int(Path(name).stem) // 2 for name, _, its in dataset.files.list_files() if its == split
        }
        for split in ("train", "test")
    }
    assert len(sides["test"]) == 1 and len(sides["train"]) == 4


def test_program_writes_what_it_found_and_which_files_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_photos(tmp_path / "photos", "a", "b")
    save(root / "a" / "copy.png", photo(3))
    words = ["--source=none", f"--target=folder:{root}", "--image_size=12", "--steps=1"]
    workdir = tmp_path / "work"
    assert main.main(["tl_keras", *words, "--min_steps=0", f"--workdir={workdir}"]) == 0
    lines = (workdir / "split.csv").read_text().splitlines()
    assert lines[0] == "file,label,split" and len(lines) == 22
    assert sum(line.endswith(",test") for line in lines) == 4
    report = json.loads((workdir / "data_report.json").read_text())["target"]
    assert report["findings"]["exact_duplicate"]["count"] == 1
    assert report["pictures"] == {"test": 4, "train": 17}
    # In the folder of the pictures, it is a dataset with the same splits.
    shutil.copy(workdir / "split.csv", root)
    again = reading.open_dataset(f"csv:{root / 'split.csv'}")
    assert again.class_names == ("a", "b") and again.decode
    assert len(again.decode(12).read("test").labels) == 4
