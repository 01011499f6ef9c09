"""Picture files for tests: PNG and TIFF of given values, written by hand, and JPEG photographs."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

PHOTO = Image.fromarray(load_sample_image("china.jpg"))


def jpeg(picture: Image.Image, **options) -> bytes:
    """Return a picture as JPEG, of quality 92 unless the options of Pillow say otherwise."""
    file = io.BytesIO()
    picture.save(file, "JPEG", **{"quality": 92, **options})
    return file.getvalue()


def photo(width: int, height: int) -> Image.Image:
    """Return the photograph, stretched to a size."""
    return PHOTO.resize((width, height), Image.Resampling.LANCZOS)


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
