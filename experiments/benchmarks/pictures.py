"""Random pictures: the same for every contender, and the same in every process."""

import numpy as np

CLASSES = 10
_SEED = 20


def pictures(count: int, size: int, channels: int) -> np.ndarray:
    """Return (count, size, size, channels) uint8 noise."""
    generator = np.random.default_rng((_SEED, count, size, channels))
    return generator.integers(0, 256, (count, size, size, channels), np.uint8)


def labels(count: int) -> np.ndarray:
    """Return (count,) int64, each class as often as the others."""
    return np.arange(count, dtype=np.int64) % CLASSES
