"""Tests of decoded pictures: decoded once, kept, never wrong, and streamed to the same bits."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from random import Random
from typing import Any

import cv2
import filelock
import numpy as np
import pytest
from filling import Disk
from made import ROOT
from PIL import Image

from tl_keras import main
from tl_keras.config.pictures import PictureOptions
from tl_keras.data import pipeline
from tl_keras.errors import DataError, StoppedError
from tl_keras.pictures import decode, decoded_set, file_set, kept_sets, parallel, picture_set
from tl_keras.pictures.arrays import StoredImages
from tl_keras.pictures.decoded_set import GOOD, NO_PICTURE, UNUSABLE
from tl_keras.pictures.picture_format import PictureFormat, Rendering
from tl_keras.pictures.picture_set import PictureSet
from tl_keras.pictures.streamed import StreamedImages
from tl_keras.runtime import interruption
from tl_keras.storage import memory

SIZE = 4

# Reads the pictures of a folder; prints the number of decoded files and the sha256 of the pixels.
CHILD = """
import hashlib, sys
from pathlib import Path
import numpy as np
from tl_keras.config.pictures import PictureOptions
from tl_keras.pictures import decode, picture_set
from tl_keras.pictures.picture_format import PictureFormat
folder, cache, size, chunk = sys.argv[1:]
paths = sorted(str(path) for path in Path(folder).iterdir())
picture_set._FILES_PER_CHUNK = int(chunk)
calls, plain = [], decode.decode
def counted(path, *rest):
    calls.append(path)
    return plain(path, *rest)
decode.decode = counted
print("begins", flush=True)
mask = np.ones(len(paths), bool)
options = PictureOptions(picture_cache=cache, stream_pictures="never")
found = picture_set.read_pictures(paths, mask, PictureFormat(int(size)), options)
print(len(calls), found.channels, hashlib.sha256(found.table.tobytes()).hexdigest())
"""


def noise(count: int, channels: int = 3, size: int = SIZE, seed: int = 0) -> np.ndarray:
    """Return pictures that every picture of the right size is decoded to unchanged."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, channels), np.uint8)


def save(folder: Path, images: Any, name: str = "{:03}.png") -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name.format(index) for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)
    return [str(path) for path in paths]


def read(
    paths: list[str], training: Any = None, size: int = SIZE, framed: bool = False, **options: Any
) -> PictureSet:
    mask = np.ones(len(paths), bool) if training is None else np.asarray(training)
    pictures = PictureOptions(**{"stream_pictures": "never", **options})
    return picture_set.read_pictures(paths, mask, PictureFormat(size, framed=framed), pictures)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder of decoded pictures of one test; nothing is waited for to be on the disk."""
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return home / "tl_keras" / "pictures"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were decoded, each time."""
    found: list[str] = []
    plain = decode.decode

    def counted(path: str, *rest: Any) -> decode.Decoded:
        found.append(Path(path).name)
        return plain(path, *rest)

    monkeypatch.setattr(decode, "decode", counted)
    return found


@pytest.fixture
def warned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The warnings of the module."""
    found: list[str] = []
    monkeypatch.setattr(picture_set.LOG, "warning", lambda form, *args: found.append(form % args))
    return found


def sets(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def only_set(cache: Path) -> Path:
    [found] = sets(cache)
    return found


def start(folder: Path, cache: Path, size: int = SIZE, crash: str = "") -> subprocess.Popen:
    words = [sys.executable, "-c", CHILD, str(folder), str(cache), str(size), "4"]
    environment = {**os.environ, "TL_KERAS_DIE_AT": crash}
    return subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(program: subprocess.Popen) -> list[str]:
    """Return the number of decoded files, the channels and the sha256 that a CHILD printed."""
    out, err = program.communicate(timeout=120)
    assert program.returncode == 0, err
    return out.splitlines()[-1].split()


def sha256(table: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(table).tobytes()).hexdigest()


def test_pictures_are_decoded_once_and_then_read_from_the_cache(tmp_path, cache, calls) -> None:
    images = noise(9)
    paths = save(tmp_path / "p", images)
    first = read(paths)
    assert sorted(calls) == [f"{index:03}.png" for index in range(9)]
    np.testing.assert_array_equal(first.table, images)
    calls.clear()
    second = read(paths)
    assert calls == []
    np.testing.assert_array_equal(second.table, images)
    np.testing.assert_array_equal(second.records, first.records)
    assert (second.channels, second.is_decoded, second.problems) == (3, True, {})
    assert ended(start(tmp_path / "p", cache)) == ["0", "3", sha256(images)]


def test_memory_and_cache_hold_the_same_pictures_and_checksums(tmp_path, cache) -> None:
    grey, colour = noise(3, 1), noise(3)
    paths = save(tmp_path / "g", grey) + save(tmp_path / "c", colour)
    kept, held = read(paths), read(paths, picture_cache_gb=0)
    expected = np.concatenate([np.repeat(grey, 3, axis=-1), colour])
    for found in (kept, held):
        np.testing.assert_array_equal(found.table, expected)
    np.testing.assert_array_equal(kept.records, held.records)


@pytest.mark.parametrize("change", ["mtime", "size", "swap", "settings"])
def test_changed_files_make_another_set(tmp_path, cache, calls, change: str) -> None:
    images = noise(4)
    # Of one size and one time.
    paths = save(tmp_path, images, "{:03}.bmp")
    for path in paths:
        os.utime(path, (1, 1))
    read(paths)
    calls.clear()
    expected = images.copy()
    if change == "mtime":
        Image.fromarray(255 - images[2]).save(paths[2])
        expected[2] = 255 - images[2]
    elif change == "size":
        with Path(paths[2]).open("ab") as file:
            file.write(b"more")
        os.utime(paths[2], (1, 1))
    elif change == "swap":
        Path(paths[0]).rename(tmp_path / "x")
        Path(paths[1]).rename(paths[0])
        (tmp_path / "x").rename(paths[1])
        assert [os.stat(path).st_mtime for path in paths] == [1] * 4  # noqa: PTH116
        expected[[0, 1]] = images[[1, 0]]
    found = read(paths, max_pixels=20 if change == "settings" else 50_000_000)
    assert len(calls) == 4
    np.testing.assert_array_equal(found.table, expected)
    assert len(sets(cache)) == 2


def test_set_is_the_same_from_another_folder(tmp_path, monkeypatch, calls) -> None:
    paths = save(tmp_path / "p", noise(3))
    monkeypatch.chdir(tmp_path)
    read([f"p/{Path(path).name}" for path in paths])
    assert len(calls) == 3
    monkeypatch.chdir("/")
    read(paths)
    assert len(calls) == 3


def test_files_that_are_no_pictures_have_no_row(tmp_path, calls) -> None:
    images = noise(3, 1)
    paths = save(tmp_path, images)
    (tmp_path / "LICENSE").write_text("MIT")
    (tmp_path / "bad.png").write_text("x")
    os.mkfifo(tmp_path / "pipe.png")
    names = ["LICENSE", "bad.png", "pipe.png"]
    paths = [paths[0], *(str(tmp_path / name) for name in names), *paths[1:]]
    for again in range(2):
        found = read(paths)
        wanted = [GOOD, NO_PICTURE, UNUSABLE, NO_PICTURE, GOOD, GOOD]
        assert found.records["status"].tolist() == wanted
        assert found.problems == {2: "not a picture, by its content"}
        np.testing.assert_array_equal(found.table, images)
        # Only an unusable picture is tried again. A pipe would block.
        assert sorted(calls) == ([] if again else ["000.png", "001.png", "002.png", "LICENSE"]) + [
            "bad.png"
        ]
        calls.clear()


def test_file_that_becomes_readable_without_a_change_is_read(tmp_path, monkeypatch) -> None:
    images = noise(6)
    paths = save(tmp_path, images)
    plain = decode.decode

    def failing(path: str, *rest: Any) -> decode.Decoded:
        if path == paths[1]:
            raise OSError(5, "Input/output error")
        return plain(path, *rest)

    monkeypatch.setattr(decode, "decode", failing)
    found = read(paths)
    assert found.problems == {1: "[Errno 5] Input/output error"}
    np.testing.assert_array_equal(found.table, images[[0, 2, 3, 4, 5]])
    monkeypatch.setattr(decode, "decode", plain)
    found = read(paths)
    assert found.problems == {}
    np.testing.assert_array_equal(found.table, images)


def mixed(folder: Path) -> tuple[list[str], np.ndarray]:
    """Save 20 pictures, of which the first 9 are grey; return the rows of them too."""
    grey, colour = noise(9, 1), noise(11)
    for index, image in enumerate([*grey, *colour]):
        save(folder, [image], f"{index:03}.png")
    paths = sorted(str(path) for path in folder.iterdir())
    return paths, np.concatenate([np.repeat(grey, 3, axis=-1), colour])


@pytest.mark.parametrize(
    ("crash", "left"),
    [
        ("picture rows written:1", 20),
        ("picture rows written:3", 12),
        ("picture records written:2", 12),
        ("picture records written:3", 8),
        ("picture rows widened:1", 12),
        ("picture records written:5", 0),
        ("temporary written:1", 0),
        ("file renamed:1", 0),
    ],
)
def test_killed_command_is_continued_where_it_was(tmp_path, cache, calls, crash, left) -> None:
    paths, expected = mixed(tmp_path / "p")
    program = start(tmp_path / "p", cache, crash=crash)
    program.communicate(timeout=120)
    assert program.returncode == -signal.SIGKILL
    found = read(paths)
    assert len(calls) == left
    np.testing.assert_array_equal(found.table, expected)
    assert sorted(path.name for path in only_set(cache).iterdir()) == [
        *("done.json", "images-3.bin", "records.bin")
    ]
    calls.clear()
    np.testing.assert_array_equal(read(paths).table, expected)
    assert calls == []


@pytest.mark.slow
def test_commands_killed_at_any_moment_have_the_right_pictures(tmp_path, cache) -> None:
    random, seen = Random(0), set()
    images = noise(120, size=300)
    images[:60] = images[:60, :, :, :1]
    save(tmp_path / "p", images)
    for _ in range(12):
        for _ in range(2):
            program = start(tmp_path / "p", cache, size=300)
            program.stdout.readline()
            time.sleep(random.uniform(0, 0.1))
            program.kill()
            program.communicate()
        decoded, _, digest = ended(start(tmp_path / "p", cache, size=300))
        assert digest == sha256(images)
        seen.add(int(decoded))
        shutil.rmtree(only_set(cache))
    # Some went on in the middle.
    assert any(0 < decoded < 120 for decoded in seen), seen


def test_two_processes_share_the_work_of_one_set_and_not_of_others(tmp_path, cache) -> None:
    images, others = noise(30), noise(30, seed=1)
    save(tmp_path / "p", images)
    save(tmp_path / "q", others)
    programs = [start(tmp_path / name, cache) for name in ("p", "p", "q", "q")]
    found = [ended(program) for program in programs]
    assert [digest for _, _, digest in found] == [sha256(images)] * 2 + [sha256(others)] * 2
    decoded = [int(count) for count, _, _ in found]
    assert sorted(decoded[:2]) == sorted(decoded[2:]) == [0, 30]


def test_wait_for_another_process_ends_with_a_stop_signal(tmp_path, cache, monkeypatch) -> None:
    paths = save(tmp_path, noise(3))
    read(paths)
    held = filelock.FileLock(f"{only_set(cache)}.lock")
    monkeypatch.setattr(kept_sets, "_SECONDS_PER_TRY", 0.01)
    monkeypatch.setattr(interruption, "stop_requested", lambda: True)
    with held, pytest.raises(StoppedError):
        read(paths)


def test_stop_signal_ends_decoding_and_keeps_what_is_done(
    tmp_path, cache, calls, monkeypatch
) -> None:
    images = noise(20)
    paths = save(tmp_path, images)
    monkeypatch.setattr(picture_set, "_FILES_PER_CHUNK", 4)
    answers = iter([False, True])
    with monkeypatch.context() as patched, pytest.raises(StoppedError):
        patched.setattr(interruption, "stop_requested", lambda: next(answers))
        read(paths)
    assert len(calls) == 8
    np.testing.assert_array_equal(read(paths).table, images)
    assert len(calls) == 20


def damages(path: Path) -> Iterator[Callable[[], Any]]:
    """Yield what damages a file, each in another way. The file is there before each."""
    content = path.read_bytes()

    def flipped(index: int) -> Callable[[], Any]:
        changed = bytearray(content)
        changed[index] ^= 1 << index % 8
        return lambda: path.write_bytes(changed)

    yield from (flipped(index) for index in range(0, len(content), 5))
    for kept in (0, 1, len(content) // 2, 48, len(content) - 1):
        yield lambda kept=kept: path.write_bytes(content[:kept])
    for more in (b"\0", bytes(48), content):
        yield lambda more=more: path.write_bytes(content + more)
    yield path.unlink
    yield lambda: (path.unlink(), path.mkdir(), (path / "x").touch())
    yield lambda: (path.unlink(), path.symlink_to("nowhere"))


@pytest.mark.parametrize("name", ["images-3.bin", "records.bin", "done.json"])
@pytest.mark.parametrize("partial", [False, True])
def test_damaged_set_has_the_right_pictures(
    tmp_path, cache, monkeypatch, warned, name: str, partial: bool
) -> None:
    grey, colour = noise(2, 1), noise(4)
    paths = save(tmp_path / "p", colour) + save(tmp_path / "q", grey)
    (tmp_path / "q" / "bad.png").write_text("x")
    paths.insert(1, str(tmp_path / "q" / "bad.png"))
    expected = np.concatenate([colour, np.repeat(grey, 3, axis=-1)])
    # Threads take longer than the pictures.
    monkeypatch.setattr(parallel, "ThreadPoolExecutor", Unthreaded)
    whole = read(paths)
    if partial and name == "done.json":
        return
    folder = only_set(cache)
    shutil.copytree(folder, tmp_path / "kept")
    for damage in damages(folder / name):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)
        if partial:
            (folder / "done.json").unlink()
        damage()
        for _ in range(2):
            found = read(paths)
            np.testing.assert_array_equal(found.table, expected)
            np.testing.assert_array_equal(found.records, whole.records)
            assert found.problems == whole.problems
    assert warned == []


class Unthreaded:
    """A pool that calls in this thread."""

    def __init__(self, _: int):
        pass

    def submit(self, function: Callable, *given: object) -> Future:
        done: Future = Future()
        done.set_result(function(*given))
        return done

    def __enter__(self) -> "Unthreaded":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("name", ["records.bin", "done.json"])
def test_damaged_set_without_rows_is_found(tmp_path, cache, monkeypatch, name: str) -> None:
    paths = save(tmp_path / "p", noise(3)) + save(tmp_path / "q", noise(2, 1))
    monkeypatch.setattr(parallel, "ThreadPoolExecutor", Unthreaded)
    whole = read(paths, stream_pictures="always")
    assert (whole.channels, whole.table) == (3, None)
    folder = only_set(cache)
    assert sorted(path.name for path in folder.iterdir()) == ["done.json", "records.bin"]
    shutil.copytree(folder, tmp_path / "kept")
    for damage in damages(folder / name):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)
        damage()
        found = read(paths, stream_pictures="always")
        np.testing.assert_array_equal(found.records, whole.records)
        assert (found.channels, found.table) == (3, None)


def test_only_damaged_pictures_are_decoded_again(tmp_path, cache, calls) -> None:
    images = noise(12)
    paths = save(tmp_path, images)
    read(paths)
    calls.clear()
    with (only_set(cache) / "images-3.bin").open("r+b") as file:
        for row in (3, 7):
            file.seek(row * SIZE * SIZE * 3 + 5)
            file.write(bytes([images[row].reshape(-1)[5] ^ 1]))
    np.testing.assert_array_equal(read(paths).table, images)
    assert sorted(calls) == ["003.png", "007.png"]


def test_damaged_set_in_use_is_replaced_and_never_truncated(tmp_path, cache) -> None:
    images = noise(30)
    paths = save(tmp_path, images)
    used = read(paths)
    folder = only_set(cache)
    before = (folder / "images-3.bin").stat().st_ino
    (folder / "records.bin").write_bytes((folder / "records.bin").read_bytes()[:48])
    again = read(paths)
    # Pages of a mapping beyond the end of a truncated file would end its process.
    assert (folder / "images-3.bin").stat().st_ino != before
    np.testing.assert_array_equal(used.table, images)
    np.testing.assert_array_equal(again.table, images)


def test_checksum_of_a_record_finds_each_changed_bit() -> None:
    records = np.zeros(1, decoded_set.RECORD)
    records["status"], records["opaque"], records["digest"] = GOOD, -1, [[2**63, 7]]
    content = decoded_set.seal(records).tobytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        [record] = np.frombuffer(bytes(changed), decoded_set.RECORD)
        assert record["check"] != decoded_set.checksums(record[None])[0]
    assert decoded_set.checksums(np.zeros(1, decoded_set.RECORD))[0] != 0


# A set of ten pictures of 40x40 pixels; and room for two of them and a half.
SET_BYTES = kept_sets.needed_bytes(40, 10)
LIMIT = {"picture_cache_gb": 2.5 * SET_BYTES / 1e9}


def test_sets_unused_for_longest_are_removed(tmp_path, cache, calls) -> None:
    a, b, c = (save(tmp_path / name, noise(10, size=40, seed=ord(name))) for name in "abc")
    (cache / ("0" * 32)).mkdir(parents=True)
    (cache / "photos").mkdir()
    (cache / "photos.lock").touch()
    for folder in (cache / ("0" * 32), cache / "photos"):
        (folder / "of_the_user").write_bytes(bytes(SET_BYTES))
    for paths in (a, b, a, c):
        read(paths, size=40, **LIMIT)
    calls.clear()
    read(a, size=40, **LIMIT)
    read(c, size=40, **LIMIT)
    assert calls == []
    read(b, size=40, **LIMIT)
    assert len(calls) == 10
    assert (cache / "photos" / "of_the_user").is_file()
    assert (cache / ("0" * 32) / "of_the_user").is_file()


def test_set_in_use_by_another_process_is_not_removed(tmp_path, cache, calls) -> None:
    a, b, c = (save(tmp_path / name, noise(10, size=40, seed=ord(name))) for name in "abc")
    read(a, size=40, **LIMIT)
    oldest = only_set(cache)
    read(b, size=40, **LIMIT)
    with filelock.FileLock(f"{oldest}.lock"):
        read(c, size=40, **LIMIT)
    assert oldest in sets(cache)
    calls.clear()
    read(a, size=40, **LIMIT)
    assert calls == []


def test_removed_set_stays_with_whom_it_is_in_use(tmp_path, cache) -> None:
    images = noise(10, size=40)
    used = read(save(tmp_path / "a", images), size=40, **LIMIT)
    for name in "bc":
        read(save(tmp_path / name, noise(10, size=40, seed=ord(name))), size=40, **LIMIT)
    assert len(sets(cache)) == 2
    np.testing.assert_array_equal(used.table, images)


def test_complete_set_needs_no_more_room_than_it_has(tmp_path, cache, calls) -> None:
    """A grey set has a third of the bytes that were set aside for it."""
    grey = save(tmp_path / "a", noise(10, 1, 40))
    colour = save(tmp_path / "b", noise(10, size=40))
    limit = {"picture_cache_gb": 1.7 * SET_BYTES / 1e9}
    for paths in (grey, colour):
        read(paths, size=40, **limit)
    calls.clear()
    for paths in (grey, colour):
        read(paths, size=40, **limit)
    assert calls == []


@pytest.mark.parametrize("stream", ["always", "never"])
def test_limit_of_0_keeps_nothing(tmp_path, cache, stream: str) -> None:
    found = read(save(tmp_path, noise(3)), picture_cache_gb=0, stream_pictures=stream)
    assert len(found.records) == 3
    assert not cache.exists()


def test_cache_that_cannot_be_written_is_left_out_with_one_warning(tmp_path, warned) -> None:
    (tmp_path / "file").touch()
    images = noise(3)
    paths = save(tmp_path / "p", images)
    found = read(paths, picture_cache=str(tmp_path / "file" / "cache"))
    np.testing.assert_array_equal(found.table, images)
    [message] = warned
    assert "decoded pictures are not kept: " in message
    assert "cannot be written: Not a directory" in message


def test_full_disk_leaves_no_part_of_a_set(tmp_path, cache, monkeypatch, warned) -> None:
    paths, expected = mixed(tmp_path / "p")
    monkeypatch.setattr(picture_set, "_FILES_PER_CHUNK", 4)
    monkeypatch.setattr(decoded_set.memory, "allocate", lambda shape: np.zeros(shape, np.uint8))
    cache.parent.mkdir()
    with monkeypatch.context() as patched:
        disk = Disk(patched, cache)
        read(paths)
        writes = len(disk.sites)
    assert writes > 12
    for left in range(writes):
        shutil.rmtree(cache, ignore_errors=True)
        warned.clear()
        with monkeypatch.context() as patched:
            Disk(patched, cache).give(left)
            np.testing.assert_array_equal(read(paths).table, expected)
        assert [text.startswith("decoded pictures are not kept: ") for text in warned] == [True]
        assert not cache.is_dir() or not sets(cache)


def test_set_too_large_for_cache_and_memory_is_streamed(tmp_path, cache, monkeypatch) -> None:
    paths = save(tmp_path, noise(10, size=40))
    monkeypatch.setattr(memory, "total_memory", lambda: 2 * SET_BYTES - 2)
    assert read(paths, size=40, stream_pictures="auto").table is not None
    small = {"picture_cache_gb": (SET_BYTES - 1) / 1e9, "stream_pictures": "auto"}
    found = read(paths, size=40, **small)
    assert (found.table, found.is_decoded) == (None, False)
    monkeypatch.setattr(memory, "total_memory", lambda: 2 * SET_BYTES)
    assert read(paths, size=40, **small).table is not None


def test_colour_files_of_grey_pictures_have_1_channel(tmp_path, cache) -> None:
    grey = noise(6, 1)
    paths = save(tmp_path, np.repeat(grey, 3, axis=-1))
    found = read(paths)
    assert found.channels == 1
    np.testing.assert_array_equal(found.table, grey)
    streamed = read(paths, stream_pictures="always", check_pictures="all")
    images = StreamedImages(paths, streamed.form, streamed.channels, "")
    np.testing.assert_array_equal(np.asarray(images), grey)


def test_framed_pictures_have_1_channel_by_their_headers_too(tmp_path) -> None:
    paths = save(tmp_path, noise(3, size=28))
    for check in ("all", "headers"):
        found = read(paths, size=28, framed=True, stream_pictures="always", check_pictures=check)
        assert found.channels == 1


def save_deep(folder: Path, values: list[np.ndarray]) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = [str(folder / f"{index}.png") for index in range(len(values))]
    for path, image in zip(paths, values, strict=True):
        cv2.imwrite(path, image[..., ::-1] if image.ndim == 3 else image)
    return paths


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 0, 1]])
def test_range_of_values_is_that_of_the_training_pictures(tmp_path, calls, order) -> None:
    generator = np.random.default_rng(0)
    values = [generator.integers(0, 4096, (SIZE, SIZE), np.uint16) for _ in range(4)]
    values[0][0, 0] = 4095
    # Of no training picture.
    values[3][0, 0] = 65535
    paths = save_deep(tmp_path, values)
    training = np.array([True, True, True, False])
    found = read([paths[index] for index in order], training[order])
    assert found.form.rendering == Rendering(0, 4095, 255)
    expected = np.stack([np.minimum(values[index], 4095.0) for index in order])
    rendered = np.floor(expected * 255 / 4095 + 0.5).astype(np.uint8)[..., None]
    np.testing.assert_array_equal(found.table, rendered)
    # Once with the range of 16 bits, and once with the right one.
    assert len(calls) == 8
    calls.clear()
    np.testing.assert_array_equal(read([paths[i] for i in order], training[order]).table, rendered)
    assert calls == []


@pytest.mark.parametrize("options", [{}, {"picture_cache_gb": 0}])
def test_colours_of_16_bits_and_low_values_are_not_grey(tmp_path, options) -> None:
    """In the range of 16 bits, all of these values are 0 or 1 of 255."""
    values = np.random.default_rng(0).integers(0, 128, (5, SIZE, SIZE, 3), np.uint16)
    values[0, 0, 0] = 255
    paths = save_deep(tmp_path, list(values))
    found = read(paths, **options)
    assert found.form.rendering == Rendering(0, 255, 255)
    assert found.channels == 3
    np.testing.assert_array_equal(found.table, values.astype(np.uint8))
    streamed = read(paths, stream_pictures="always", check_pictures="all")
    np.testing.assert_array_equal(streamed.records["digest"], found.records["digest"])
    np.testing.assert_array_equal(
        np.asarray(StreamedImages(paths, streamed.form, streamed.channels, "")), found.table
    )


def test_background_is_chosen_from_the_training_pictures(tmp_path) -> None:
    def icon(level: int) -> Image.Image:
        image = np.full((SIZE, SIZE, 4), level, np.uint8)
        image[0, :, 3] = 0
        image[1:, :, 3] = 255
        return Image.fromarray(image)

    levels = [250, 240, 10, 20]
    for index, level in enumerate(levels):
        icon(level).save(tmp_path / f"{index}.png")
    paths = [str(tmp_path / f"{index}.png") for index in range(4)]
    for training, background in (([1, 1, 0, 0], 0), ([0, 0, 1, 1], 255), ([1, 1, 1, 1], 128)):
        table = read(paths, np.array(training, bool)).table
        assert table[:, 0].max() == table[:, 0].min() == background
        assert table[:, 1, 0, 0].tolist() == levels


def test_streamed_images_equal_stored_ones_for_every_key(tmp_path) -> None:
    images = noise(7)
    paths = save(tmp_path, images)
    stored = read(paths)
    rows = np.array([5, 0, 3, 3, 6])
    arrays = [
        StoredImages(stored.table, rows, "d"),
        StreamedImages([paths[row] for row in rows], stored.form, 3, "d"),
    ]
    plain = images[rows]
    keys: list[Any] = [
        *(0, -1, np.int64(2), slice(None), slice(1, -1, 2), slice(3, 3), [4, 0, 4], []),
        *(np.array([1, -2]), np.array([True, False, True, False, False]), np.array([3], np.int32)),
        *((slice(0, 2), slice(1, 3)), (1, slice(None), 2), (np.array([2, 0]), 0), (-1, 1, 2, 0)),
        *((slice(None), slice(None), slice(None), slice(0, 1)), (0,)),
    ]
    for of in arrays:
        assert (of.shape, len(of), of.nbytes, of.dtype) == (plain.shape, 5, plain.nbytes, np.uint8)
        for key in keys:
            wanted = plain[np.array(key, int) if isinstance(key, list) else key]
            np.testing.assert_array_equal(of[key], wanted)
            assert of[key].shape == wanted.shape
        np.testing.assert_array_equal(np.asarray(of), plain)
        assert np.asarray(of, np.float32).dtype == np.float32
        chosen = of.select(np.array([4, 1]))
        np.testing.assert_array_equal(chosen[:], plain[[4, 1]])
        assert chosen.digest == arrays[0].select(np.array([4, 1])).digest != of.digest
        for wrong in (5, [0, 9], (..., 0), ..., [[0, 1]], (slice(None), [0, 1]), (0, ...)):
            with pytest.raises(IndexError):
                of[wrong]


def test_header_check_finds_what_headers_tell(tmp_path, calls) -> None:
    paths = save(tmp_path, noise(4, size=40), "{:03}.jpg")
    content = Path(paths[1]).read_bytes()
    Path(paths[1]).write_bytes(content[:100])
    Path(paths[2]).write_text("x")
    cut = Path(paths[3]).read_bytes()
    Path(paths[3]).write_bytes(cut[: len(cut) // 2])
    [large] = save(tmp_path, noise(1, size=50), "large.png")
    streamed = {"stream_pictures": "always", "max_pixels": 2000}
    found = read([*paths, large], **streamed)
    assert calls == []
    assert sorted(found.problems) == [1, 2, 4]
    assert found.problems[4] == "50x50 is more than 2000 pixels; raise --max_pixels to read it"
    assert not found.is_decoded
    found = read([*paths, large], **streamed, check_pictures="all")
    assert sorted(found.problems) == [1, 2, 3, 4]
    assert found.is_decoded


def test_streamed_picture_that_is_corrupt_or_in_colour_is_named(tmp_path) -> None:
    [good, cut] = save(tmp_path, noise(2, size=40), "{:03}.jpg")
    content = Path(cut).read_bytes()
    Path(cut).write_bytes(content[: len(content) // 2])
    for _ in range(2):
        with pytest.raises(DataError, match=r"001\.jpg' cannot be decoded: .*--check_pictures=all"):
            StreamedImages([good, cut], PictureFormat(SIZE), 3, "")[:]
    with pytest.raises(DataError, match=r"000\.jpg' is in colour"):
        StreamedImages([good], PictureFormat(SIZE), 1, "")[0]


def test_grey_picture_with_a_transparent_level_is_streamed_as_grey(tmp_path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.full((SIZE, SIZE), 7, np.uint8)).save(path, transparency=9)
    found = read([str(path)], stream_pictures="always")
    assert found.channels == 1
    images = StreamedImages([str(path)], found.form, 1, "")
    assert images[0].tolist() == np.full((SIZE, SIZE, 1), 7).tolist()


def test_streamed_picture_with_odd_metadata_gives_no_warning(tmp_path) -> None:
    path = tmp_path / "a.jpg"
    exif = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    Image.fromarray(noise(1, size=40)[0]).save(path, exif=exif)
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(path).getexif()
    code = (
        "import sys; from tl_keras.pictures.streamed import StreamedImages\n"
        "from tl_keras.pictures.picture_format import PictureFormat\n"
        "print(StreamedImages(sys.argv[1:], PictureFormat(4), 3, '')[0].shape)"
    )
    words = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(4, 4, 3)\n", "")


@pytest.mark.parametrize("where", ["train", "test"])
def test_program_names_a_streamed_picture_that_is_corrupt(
    tmp_path, monkeypatch, capfd, where: str
) -> None:
    for split, count in (("train", 8), ("test", 3)):
        for name in ("a", "b"):
            save(tmp_path / "p" / split / name, noise(count, size=40), "{:03}.jpg")
    bad = tmp_path / "p" / where / "b" / "002.jpg"
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    # Images are read in threads of TensorFlow.
    monkeypatch.setattr(pipeline, "MAX_COPY_BYTES", 0)
    workdir = tmp_path / "work"
    words = [f"--target=folder:{tmp_path / 'p'}", "--source=mnist_5k", "--method=scratch"]
    words += ["--image_size=8", "--model=small_cnn", "--steps=4", "--batch_size=4"]
    words += ["--seeds=0", "--stream_pictures=always", "--check_pictures=headers"]
    words += [f"--workdir={workdir}"]
    for _ in range(2):
        assert main.main(["tl_keras", *words]) == DataError.exit_code
        message = capfd.readouterr().err
        assert f"tl_keras: {str(bad)!r} cannot be decoded: " in message.splitlines()[-1]
        assert "Traceback" not in message
        assert message.count("cannot be decoded") == 1
    bad.write_bytes(content)
    assert main.main(["tl_keras", *words]) == DataError.exit_code
    assert "are not those that" in capfd.readouterr().err


def test_rows_file_of_a_set_is_named_by_its_channels(tmp_path, cache) -> None:
    read(save(tmp_path / "a", noise(2, 1)))
    assert sorted(path.name for path in only_set(cache).iterdir()) == [
        *(file_set.DONE, "images-1.bin", file_set.RECORDS)
    ]
