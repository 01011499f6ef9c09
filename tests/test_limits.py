"""Tests of what a picture may need: scans, pixels and memory, against files that hide it."""

import io
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from written import jpeg, photo

from tl_keras.pictures import decode, limits
from tl_keras.pictures.picture_format import PictureFormat

# Scans: what the check counts, decoders may not see otherwise


def repeat_scan(content: bytes, before: bytes, times: int) -> bytes:
    """Repeat the last scan of a JPEG, with some bytes before each copy."""
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + (before + last) * times + content[-2:]


# A marker without length, stray bytes, fill bytes, a comment, a length that is too short.
BEFORE = [
    b"",
    b"\xff\x01",
    b"\0\1\2",
    b"\xff\xff\xff",
    b"\xff\xfe\0\2",
    b"\xff\xfe\0\0",
    b"\xff\x02",
]


@pytest.mark.parametrize("before", BEFORE, ids=repr)
def test_scans_of_a_jpeg_cannot_be_hidden(before: bytes) -> None:
    content = jpeg(Image.new("L", (64, 64)), progressive=True)
    with pytest.raises(limits.PictureError, match="^it has more than 100 scans$"):
        limits.check_scans(repeat_scan(content, before, 101))
    few = limits.MAX_SCANS - content.count(b"\xff\xda")
    limits.check_scans(repeat_scan(content, b"", few))
    with pytest.raises(limits.PictureError):
        limits.check_scans(repeat_scan(content, b"", few + 1))


def test_scan_of_a_sequential_jpeg_is_decoded_once(write: Callable) -> None:
    content = jpeg(photo(64, 64))
    limits.check_scans(repeat_scan(content, b"", 500))
    with pytest.raises(limits.PictureError, match="^broken data stream"):
        decode.decode(write(repeat_scan(content, b"", 500)), PictureFormat(64))


def split_scans(content: bytes) -> bytes:
    """Return the headers of a sequential JPEG, with scans of one channel each and no pixels."""
    start = content.index(b"\xff\xda")
    scans = [b"\xff\xda\0\x08\1" + bytes((channel, 0)) + b"\0\x3f\0" for channel in (1, 2, 3)]
    return content[:start] + b"".join(scans) * 40 + b"\xff\xd9"


def test_scans_of_a_sequential_jpeg_with_separate_channels_are_counted(write: Callable) -> None:
    with pytest.raises(limits.PictureError, match="more than 100 scans"):
        decode.decode(write(split_scans(jpeg(photo(64, 64)))), PictureFormat(64))


# Sizes


def test_decode_refuses_more_pixels_than_allowed_by_the_header(tmp_path: Path) -> None:
    header = jpeg(Image.new("L", (9000, 9000)))
    for name, content in (("a.jpg", header), ("a.png", png_header(9000, 9000))):
        path = tmp_path / name
        path.write_bytes(content[:700])  # there are no pixels to decode
        with pytest.raises(limits.PictureError, match="9000x9000 is more than 50000000 pixels; "):
            decode.decode(str(path), PictureFormat(32))
        with pytest.raises(limits.PictureError) as refused:
            decode.decode(str(path), PictureFormat(32), 100_000_000)
        assert "more than" not in str(refused.value)


def png_header(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    content = file.getvalue().replace(struct.pack(">II", 1, 1), struct.pack(">II", width, height))
    start = content.index(b"IHDR")
    return (
        content[: start + 17] + struct.pack(">I", zlib.crc32(content[start : start + 17]))
        + content[start + 21 :]
    )  # fmt: skip


def test_limit_of_pillow_neither_applies_nor_changes(
    write: Callable, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    path = write(jpeg(photo(64, 48)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    seen = set()

    def watch() -> None:
        while not done.is_set():
            seen.add(Image.MAX_IMAGE_PIXELS)

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(20):
        assert decode.decode(path, PictureFormat(32)).image.shape == (32, 32, 3)
    done.set()
    watcher.join()
    assert seen == {100}
    assert not [str(one.message) for one in recwarn if "limit" in str(one.message)]
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


@pytest.mark.slow
def test_large_jpeg_takes_the_memory_of_its_scale(tmp_path: Path) -> None:
    photo(12_000, 9_000).save(tmp_path / "a.jpg")
    code = (
        "import resource, sys\n"
        "from tl_keras.pictures import decode\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "form = decode.PictureFormat(224)\n"
        "assert decode.decode(sys.argv[1], form, 200_000_000).image.shape == (224, 224, 3)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.jpg")]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    # Its pixels would be 324 MB.
    assert kilobytes < 60_000 + (tmp_path / "a.jpg").stat().st_size // 1000
