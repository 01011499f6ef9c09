"""The analysis of all pictures of a set: copies and blanks. It is computed once per kept set."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xxhash

from tl_keras.errors import WriteError
from tl_keras.pictures.decoded_set import GOOD
from tl_keras.pictures.duplicates import MIN_CONTRAST, Duplicates, find_duplicates
from tl_keras.pictures.picture_set import PictureSet
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

FILE = "analysis.bin"
# Increased when the same pictures give another analysis.
_VERSION = b"1"
_DIGEST_BYTES = 16
_CHUNK = 512
_BYTES_PER_PICTURE = 8 + 8 + 1


class Analysis(NamedTuple):
    """The result of an analysis.

    Attributes:
        duplicates: groups of copies.
        is_blank: (n,) bool, whether all values of a picture lie within a tenth of 0 to 255.
    """

    duplicates: Duplicates
    is_blank: np.ndarray


def analyse(images: np.ndarray, *, exact_only: bool = False) -> Analysis:
    """Look for copies and blank pictures.

    Args:
        images: (n, height, width, 1 or 3) uint8, in memory or mapped.
        exact_only: whether near duplicates are not looked for.

    Raises:
        ValueError: the images are not of that form.
    """
    return Analysis(find_duplicates(images, exact_only=exact_only), _find_blank(images))


def analyse_set(pictures: PictureSet) -> Analysis | None:
    """Return the analysis of the good pictures of a set, which is stored beside a kept set.

    Of pictures that were decoded and not kept, only exact copies are found, by their checksums.
    None is returned if they were not decoded.
    """
    digests = pictures.records["digest"][pictures.records["status"] == GOOD]
    if pictures.table is None:
        return _analyse_digests(digests) if pictures.is_decoded else None
    if pictures.folder is None:
        return analyse(pictures.table)
    path = pictures.folder / FILE
    # The pictures are a part of the checksum, so that those of others are not taken for it.
    about = _VERSION + np.ascontiguousarray(digests).tobytes()
    found = _read(path, about, len(digests))
    if found is None:
        found = analyse(pictures.table)
        exact, near, is_blank = (*found.duplicates, found.is_blank)
        content = exact.astype("<i8").tobytes() + near.astype("<i8").tobytes() + is_blank.tobytes()
        try:
            files.write_bytes(path, xxhash.xxh3_128_digest(about + content) + content)
        except WriteError as error:
            LOG.warning("what was found in the pictures is not kept: %s", error)
    return found


def _analyse_digests(digests: np.ndarray) -> Analysis:
    _, first, inverse = np.unique(digests, axis=0, return_index=True, return_inverse=True)
    groups = first[inverse.reshape(-1)].astype(np.int64)
    return Analysis(Duplicates(groups, groups), np.zeros(len(digests), bool))


def _read(path: Path, about: bytes, count: int) -> Analysis | None:
    try:
        if os.path.getsize(path) != _DIGEST_BYTES + count * _BYTES_PER_PICTURE:  # noqa: PTH202
            return None
        content = path.read_bytes()
    except OSError:
        return None
    digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    if xxhash.xxh3_128_digest(about + content) != digest:
        return None
    exact, near = np.frombuffer(content, "<i8", 2 * count).reshape(2, count)
    is_blank = np.frombuffer(content, bool, count, 16 * count)
    return Analysis(Duplicates(exact, near), is_blank)


def _find_blank(images: np.ndarray) -> np.ndarray:
    """Return (n,) bool, true where each channel for itself has no contrast."""
    # Some pixels tell of nearly all pictures that they are not blank.
    blank = np.empty(len(images), bool)
    for start in range(0, len(images), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        blank[chunk] = _have_no_contrast(images[chunk, ::8, ::8])
    for index in np.flatnonzero(blank):
        blank[index] = _have_no_contrast(images[index : index + 1])[0]
    return blank


def _have_no_contrast(images: np.ndarray) -> np.ndarray:
    return (np.ptp(images, axis=(1, 2)) < MIN_CONTRAST).all(axis=1)
