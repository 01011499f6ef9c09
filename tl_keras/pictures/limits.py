"""What a picture file may need: limits of memory and time, checked before anything is decoded.

A file may be damaged or malicious. tests/test_fuzz_pictures.py tests the limits.
"""

import re

from PIL import Image

MAX_PIXELS = 50_000_000
# The limit of JPEG. Framing a line of 50 million pixels would take 10 GB.
MAX_SIDE = 65_535
# An uncompressed image of MAX_PIXELS with four channels of 16 bits has 0.4 GB.
MAX_BYTES = 1_000_000_000
# Ten are common. Each scan, even of a few bytes, makes the decoder visit all pixels again: a file
# of a megabyte could take many minutes.
MAX_SCANS = 100
# The start of a JPEG segment, but no stuffed byte of 255 in the pixels and no restart marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END, _SCAN, _SEQUENTIAL = b"\xd9", b"\xda", (b"\xc0", b"\xc1", b"\xc9")

# TIFF tags.
_BITS, _PHOTOMETRIC, _SAMPLES, _PLANES = 258, 262, 277, 284
_TILE_WIDTH, _TILE_HEIGHT, _EXTRA_SAMPLES, _SAMPLE_FORMAT = 322, 323, 338, 339
_PREMULTIPLIED = 1
# Channels of colour by photometric interpretation; 1 for others.
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}
_SIGNED, _SEPARATE = 2, 2


class PictureError(Exception):
    """An unusable image, with the reason. The caller adds the file's name."""


class NotAPictureError(PictureError):
    """A file that is no image and has no image extension."""


def check_size(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raise PictureError if an image has too many pixels, or a side that is too long."""
    if width * height > max_pixels:
        raise PictureError(
            f"{width}x{height} is more than {max_pixels} pixels; raise --max_pixels to read it"
        )
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"{width}x{height} has a side of more than {MAX_SIDE} pixels")


def check_scans(content: bytes) -> None:
    """Raise PictureError for a JPEG with too many scans."""
    channels, scans, position = b"", 0, 2
    # Up to the end of the image. Telephones append videos.
    while (marker := _MARKER.search(content, position)) and marker[1] != _END:
        position = marker.end()
        if marker[1] in _SEQUENTIAL:
            channels = content[position + 7 : position + 8]
        elif marker[1] == _SCAN:
            # Decoders refuse a second scan if the first one of a sequential file has all channels.
            is_only = content[position + 2 : position + 3] == channels
            # The count includes the scans of thumbnails and videos. It is faster.
            if scans == 0 and (is_only or content.count(b"\xff" + _SCAN) <= MAX_SCANS):
                return
            scans += 1
            if scans > MAX_SCANS:
                raise PictureError(f"it has more than {MAX_SCANS} scans")
        # Markers below 0xC0 have no length. Decoders skip them, or stop there.
        if marker[1] >= b"\xc0":
            position += int.from_bytes(content[position : position + 2])


def check_tiff(picture: Image.Image, max_pixels: int) -> None:
    """Raise PictureError for a TIFF that is too large, or that Pillow would read wrongly."""
    tags = picture.tag_v2  # type: ignore[attr-defined]
    # A tile is decoded as a whole, even if the image is smaller.
    check_size(tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1), max_pixels)
    samples, extra = tags.get(_SAMPLES, 1), tags.get(_EXTRA_SAMPLES, ())
    alpha = len([kind for kind in extra if kind in (1, 2)])
    colours = _COLOURS.get(tags.get(_PHOTOMETRIC), 1)
    if samples not in (colours, colours + min(alpha, 1)):
        raise PictureError(
            f"it has {samples} bands. Grey, RGB and CMYK are read, with alpha or without. Write the"
            " bands to use into an RGB or grey file"
        )
    bits = max(tags.get(_BITS, (1,)))
    if samples > 1 and bits > 8 and tags.get(_PLANES) == _SEPARATE:
        raise PictureError(f"its channels of {bits} bits are stored one after the other (planar)")
    if samples > 1 and bits > 8 and _PREMULTIPLIED in extra:
        raise PictureError(f"its channels of {bits} bits are premultiplied with transparency")
    if bits == 8 and _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        raise PictureError("its 8 bits are signed")
