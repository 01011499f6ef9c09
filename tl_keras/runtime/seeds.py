"""Seeds of random draws: each is derived from the run's seed and the purpose of the draw.

A run's seed is never used directly. Otherwise the head of a target would start from the same
weights as the head of its source, if both runs have the same seed. Each draw uses `derive(seed,
ROLE, PURPOSE, ...)`, which differs for different purposes.
"""

import hashlib
import json

# The role of a run. Both arms of a target seed share a role, so that their draws are paired.
SOURCE, TARGET = "source", "target"


def derive(seed: int, *purpose: str | int) -> int:
    """Return a seed of 63 bits that is the same in every process.

    Args:
        seed: the run's seed, or one derived from it.
        purpose: what the draw is for, such as "weights", "conv1", "kernel".
    """
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
