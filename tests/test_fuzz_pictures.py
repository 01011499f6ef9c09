"""Damaged pictures, and such as are made to do harm: each is read or refused, and quickly."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import decoder
import numpy as np
import pytest
from decoder import GOOD, PICTURE, REFUSED, Decoder, Decoders
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from made import sweep
from PIL import Image

from tl_keras.pictures import picture_file

RANDOM = np.random.default_rng(0)
COLOUR = Image.fromarray(RANDOM.integers(0, 256, (24, 20, 3), dtype=np.uint8))
CLEAR = Image.fromarray(RANDOM.integers(0, 256, (24, 20, 4), dtype=np.uint8))
DEEP = Image.fromarray(RANDOM.integers(0, 65536, (24, 20)).astype(np.uint16))
GREY, BLACK_AND_WHITE, PALETTE = COLOUR.convert("L"), COLOUR.convert("1"), COLOUR.quantize(16)
MOVING = {"save_all": True, "append_images": [COLOUR.rotate(90)]}
EXIF = Image.Exif()
EXIF[0x0112] = 6

# Extension, format, pictures, and how else they are saved.
KINDS: list[tuple[str, str, list[Image.Image], list[dict]]] = [
    ("avif", "AVIF", [COLOUR, GREY, CLEAR], [{}]),
    ("avif", "AVIF", [COLOUR], [MOVING, {"exif": EXIF}]),
    ("bmp", "BMP", [COLOUR, GREY, CLEAR, PALETTE, BLACK_AND_WHITE], [{}]),
    ("gif", "GIF", [COLOUR, GREY, PALETTE], [{}, MOVING, {"interlace": False, "comment": b"a"}]),
    ("ico", "ICO", [CLEAR], [{}, {"bitmap_format": "bmp"}, {"sizes": [(16, 16), (20, 20)]}]),
    ("jpg", "JPEG", [COLOUR, GREY, COLOUR.convert("CMYK")], [{}, {"progressive": True}]),
    ("jpg", "JPEG", [COLOUR], [{"exif": EXIF, "restart_marker_blocks": 1}, {"icc_profile": b"x"}]),
    ("jp2", "JPEG2000", [COLOUR, GREY, CLEAR, DEEP], [{}]),
    ("jp2", "JPEG2000", [COLOUR], [{"no_jp2": True}, {"tile_size": (16, 16)}]),
    ("png", "PNG", [COLOUR, GREY, CLEAR, PALETTE, BLACK_AND_WHITE, DEEP], [{}]),
    ("png", "PNG", [PALETTE], [{"transparency": 1}]),
    ("png", "PNG", [COLOUR], [{"exif": EXIF, "icc_profile": b"x" * 99}, MOVING]),
    ("ppm", "PPM", [COLOUR, GREY, DEEP, BLACK_AND_WHITE], [{}]),
    ("tga", "TGA", [COLOUR, GREY, CLEAR, PALETTE], [{}, {"compression": "tga_rle"}]),
    ("tga", "TGA", [BLACK_AND_WHITE], [{}]),
    ("tif", "TIFF", [COLOUR, GREY, CLEAR, PALETTE, DEEP, COLOUR.convert("CMYK")], [{}]),
    ("tif", "TIFF", [COLOUR.convert("YCbCr"), COLOUR.convert("LAB")], [{}, MOVING]),
    (
        "tif",
        "TIFF",
        [COLOUR],
        [{"compression": c} for c in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits", "lzma")],
    ),
    ("tif", "TIFF", [BLACK_AND_WHITE], [{"compression": c} for c in ("group3", "group4")]),
    ("tif", "TIFF", [COLOUR], [{"big_tiff": True}, {"tiffinfo": {317: 2, 278: 3}}]),
    ("webp", "WEBP", [COLOUR, CLEAR], [{}, {"lossless": True}, MOVING, {"exif": EXIF}]),
]


def saved(picture: Image.Image, kind: str, **how) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **how)
    return content.getvalue()


WHOLE = [
    (f"a.{extension}", saved(picture, kind, **how))
    for extension, kind, pictures, ways in KINDS
    for picture in pictures
    for how in ways
] + [("plain.ppm", b"P3 # three numbers a pixel\n2 2\n255\n" + b"1 2 3 " * 4)]

JPEGS = [(name, content) for name, content in WHOLE if content.startswith(b"\xff\xd8")]


def chunk(kind: bytes, data: bytes) -> bytes:
    """Return a part of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, data: bytes) -> bytes:
    """Return a part of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


# Where well-formed parts may be put into a file of a kind: how it begins, and at which byte.
PLACES = {b"\x89PNG": (8, 33), b"\xff\xd8": (2,), b"GIF8": (13,), b"RIFF": (12, 30)}
IFD = b"MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x87\x69\0\x04\0\0\0\x01\0\0\0\x08"
DATA = st.one_of(
    st.binary(max_size=40),
    st.sampled_from((IFD, b"Exif\0\0" + IFD, b"\xff" * 17, zlib.compress(bytes(1 << 20)))),
)
PARTS = {
    b"\x89PNG": st.builds(
        chunk,
        st.sampled_from(
            (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"iCCP", b"eXIf", b"acTL", b"fcTL")
            + (b"fdAT", b"zTXt", b"iTXt", b"gAMA", b"pHYs")
        ),
        DATA,
    ),
    b"\xff\xd8": st.builds(
        segment,
        st.sampled_from((0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE)),
        DATA,
    ),
    b"GIF8": st.builds(
        lambda label, data: b"!" + label + bytes([len(data) % 256]) + data[:255] + b"\0",
        st.sampled_from((b"\xf9", b"\xfe", b"\xff", b"\x01")),
        DATA,
    ),
    b"RIFF": st.builds(
        lambda kind, data: kind + struct.pack("<I", len(data)) + data + bytes(len(data) % 2),
        st.sampled_from((b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP")),
        DATA,
    ),
}
# What the beginning of a file says, decoders believe.
POSITION = st.one_of(st.integers(0, 63), st.integers(0, 255), st.integers(0, 2000))
NUMBER = st.one_of(
    st.sampled_from((0, 1, 7000, 40_000, 65_500, -1, -2, 1 << 31, (1 << 31) - 1, 1 << 63)),
    st.integers(0, 2**64 - 1),
)


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw the name and the content of a picture that something happened to."""
    # Two decoders read JPEG, and most pictures are in it.
    name, whole = draw(st.sampled_from(draw(st.sampled_from((WHOLE, WHOLE, JPEGS)))))
    content = whole
    # Often once alone: of what is damaged five times, hardly any is a picture still.
    for _ in range(draw(st.sampled_from((1, 1, 2, 3, 5)))):
        kind = draw(st.sampled_from(("flip", "set", "cut", "drop", "copy", "splice", "part")))
        at = draw(POSITION) % (len(content) + 1)
        before, after = content[:at], content[at:]
        if kind == "flip":
            content = (
                before + bytes(b ^ 1 << draw(st.integers(0, 7)) for b in after[:1]) + after[1:]
            )
        elif kind == "set":
            width = draw(st.sampled_from((1, 2, 3, 4, 8)))
            number = draw(NUMBER) % (1 << 8 * width)
            order = draw(st.sampled_from(("big", "little")))
            content = before + number.to_bytes(width, order) + after[width:]
        elif kind == "cut":
            content = before
        elif kind == "drop":
            content = before + after[draw(st.integers(1, 60)) :]
        elif kind == "copy":
            content = before + after[: draw(st.integers(1, 60))] + after
        elif kind == "splice":
            other = draw(st.sampled_from(WHOLE))[1]
            content = before + other[draw(POSITION) % len(other) :]
        else:
            begins = next((b for b in PARTS if content.startswith(b)), None)
            at = draw(st.sampled_from(PLACES[begins])) if begins else at
            content = content[:at] + draw(PARTS[begins] if begins else DATA) + content[at:]
    return name, with_checksums(content) if draw(st.integers(0, 3)) else content


def with_checksums(content: bytes) -> bytes:
    """Correct the checksums of a PNG, so that what it says is believed."""
    changed, at = bytearray(content), 8
    while content.startswith(b"\x89PNG") and at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4])
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        at = end + 4
    return bytes(changed[: len(content)])


@pytest.fixture
def decoders(tmp_path: Path) -> Iterator[Decoders]:
    started = Decoders(tmp_path)
    yield started
    started.close()


def test_fuzzing_begins_with_a_good_picture_of_every_format(decoders: Decoders) -> None:
    found = decoders.outcomes(WHOLE)
    assert found == [PICTURE] * len(WHOLE)
    formats = {Image.open(io.BytesIO(content)).format for _, content in WHOLE}
    assert formats == {*picture_file.FORMATS, "TGA"}


def test_damaged_pictures_are_read_or_refused(
    decoders: Decoders,
    tmp_path: Path,
    rounds: Callable[..., int],
    tally: Callable[[str, int, int], None],
) -> None:
    files: list[tuple[str, bytes]] = []

    @settings(
        max_examples=rounds(20, 300, 4000),
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged())
    def collect(file: tuple[str, bytes]) -> None:
        files.append(file)

    collect()
    outcomes = decoders.outcomes(files)
    bad = [one for one in zip(files, outcomes, strict=True) if one[1] not in GOOD]
    tally("damaged pictures, read or refused", len(files) - len(bad), len(files))
    for index, ((name, content), _) in enumerate(bad):
        (tmp_path / f"{index}-{name}").write_bytes(content)
    assert not bad, f"see {tmp_path}: {[outcome for _, outcome in bad]}"
    assert len(files) >= rounds(20, 300, 4000)
    for outcome in (PICTURE, REFUSED):
        assert outcomes.count(outcome) >= rounds(1, 30, 400)


def test_decoder_that_crashes_or_hangs_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "SECONDS", 5.0)
    crashing = Decoder(tmp_path / "a", ["sh", "-c", "read path; kill -SEGV $$"])
    assert [crashing.outcome("a.png", b"") for _ in range(2)] == ["ended with code -11"] * 2
    crashing.close()
    monkeypatch.setattr(decoder, "SECONDS", 0.2)
    hanging = Decoder(tmp_path / "b", ["sleep", "60"])
    assert hanging.outcome("b.png", b"") == "not done after 0.2 seconds"
    hanging.close()


# Small files that are made to take much memory or time


def zeros(count: int) -> bytes:
    """Return `count` zeros, compressed."""
    deflate, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [deflate.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, deflate.compress(block[: count % (1 << 20)]), deflate.flush()])


def png(width: int, height: int, colour: int, channels: int, bits: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    pixels = zeros((width * channels * bits // 8 + 1) * height)
    parts = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def icon(inside: bytes) -> bytes:
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inside), 22)
    return b"\0\0\1\0\1\0" + entry + inside


def tiled(side: int) -> bytes:
    """Return a TIFF of 10x10 pixels in one tile of side x side."""
    pixels = zeros(3 * side * side)
    tags = [(256, 10), (257, 10), (258, 8), (259, 8), (262, 2), (277, 3), (322, side), (323, side)]
    tags += [(324, 8 + 2 + 12 * 10 + 4), (325, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + pixels


def scanned(times: int, before: bytes = b"") -> bytes:
    """Return a JPEG of 7000x7000 pixels whose last scan is there many times, after some bytes."""
    content = saved(Image.new("L", (7000, 7000)), "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + (before + last) * times + b"\xff\xd9"


BITMAP = struct.pack("<IIIHHIIIIII", 40, 13_000, 26_000, 1, 32, 0, 0, 0, 0, 0, 0)
COMMENT = b"!\xfe" + (b"\xff" + b"x" * 255) * 99_000 + b"\0"
GIF, JP2, PNG = saved(GREY, "GIF"), saved(GREY, "JPEG2000"), saved(GREY, "PNG")
LONG_CHUNK = re.sub(b"(?s)....IDAT", b"\xff\xff\xff\xf0IDAT", PNG)
WEBP = saved(COLOUR, "WEBP", **MOVING)

HARM: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "chunk": ("a.png", PICTURE, lambda: LONG_CHUNK),
    "clear": ("a.png", PICTURE, lambda: png(7000, 7000, 6, 4)),
    "deep": ("a.png", PICTURE, lambda: png(7000, 7000, 0, 1, 16)),
    "deep colour": ("a.png", PICTURE, lambda: png(7000, 7000, 2, 3, 16)),
    "line": ("a.png", REFUSED, lambda: png(50_000_000, 1, 0, 1)),
    "column": ("a.png", REFUSED, lambda: png(1, 50_000_000, 0, 1)),
    "large": ("a.png", REFUSED, lambda: png(13_000, 13_000, 2, 3)),
    "icon": ("a.ico", REFUSED, lambda: icon(png(13_000, 13_000, 6, 4))),
    "bitmap": ("a.ico", REFUSED, lambda: icon(BITMAP + bytes(999))),
    "tile": ("a.tif", REFUSED, lambda: tiled(25_008)),
    "box": ("a.jp2", REFUSED, lambda: JP2.replace(b"\0\0\0-jp2h", b"\xff\xff\xff\0jp2h")),
    "canvas": ("a.webp", REFUSED, lambda: WEBP.replace(WEBP[24:30], b"\xff\x7f\0" * 2)),
    "hidden scans": ("a.jpg", REFUSED, lambda: scanned(5000, b"\xff\x01")),
    "scans": ("a.jpg", REFUSED, lambda: scanned(5000)),
    "comment": ("a.gif", PICTURE, lambda: GIF[:-1] + COMMENT + GIF[-1:]),
    "frames": ("a.gif", PICTURE, lambda: GIF[:-1] + GIF[GIF.index(b",") : -1] * 9_000),
}


@pytest.mark.parametrize("harm", sweep(HARM, fast=("chunk", "comment", "hidden scans")))
def test_picture_that_is_made_to_do_harm_takes_little_memory_and_time(
    harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, "SECONDS", 5 * 15.0)  # it is decoded in five ways
    name, expected, make = HARM[harm]
    one = Decoder(tmp_path / "a")
    found = one.outcome(name, make())
    one.close()
    assert found == expected
