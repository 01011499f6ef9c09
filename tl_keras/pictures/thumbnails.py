"""Thumbnails of pictures, and how much two of them differ."""

import cv2
import numpy as np

SIDE = 16


def make_thumbnails(images: np.ndarray) -> np.ndarray:
    """Return the means of areas, (n, 16, 16, channels) uint8.

    Args:
        images: (n, height, width, 1 or 3) uint8; thumbnails are returned as they are.
    """
    if images.shape[1:3] == (SIDE, SIDE):
        return images
    thumbnails = np.empty((len(images), SIDE, SIDE, images.shape[-1]), np.uint8)
    for thumbnail, image in zip(thumbnails, images, strict=True):
        small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        thumbnail[:] = small.reshape(thumbnail.shape)
    return thumbnails


def _flatten(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), int(np.prod(values.shape[1:])))


def normalise(values: np.ndarray) -> np.ndarray:
    """Return (n, values) float32 with mean 0 and norm 1; 0 without contrast."""
    flat = _flatten(values).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def normalise_edges(thumbnails: np.ndarray) -> np.ndarray:
    """Return the differences of neighbouring cells, (n, values) float32 with norm 1."""
    values = thumbnails.astype(np.float32)
    down, right = (_flatten(np.diff(values, axis=axis)) for axis in (1, 2))
    return normalise(np.concatenate([down, right], axis=1))


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return 1 - correlation of normalised rows, (n,) float32."""
    return 1 - np.einsum("nv,nv->n", first, second)
