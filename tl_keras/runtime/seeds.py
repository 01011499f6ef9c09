"""Seeds of random draws: each follows from a run's seed and from what the draw is for.

A run's seed alone would be shared: the head that a target starts from would be the very one that
its source started from, wherever both have the same seed. So no draw takes a run's seed as it is.
Each takes `derive(seed, ROLE, PURPOSE, ...)`, and no two purposes have the same number.
"""

import hashlib
import json

# Whose run it is. Both arms of a target's seed share a role: what they draw alike is their pair.
SOURCE, TARGET = "source", "target"


def derive(seed: int, *purpose: str | int) -> int:
    """Return a seed of 63 bits that is the same in every process.

    Args:
        seed: of the run, or one that was derived from it.
        purpose: what is drawn, such as "weights", "conv1", "kernel".
    """
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
