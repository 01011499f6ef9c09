"""How often a comparison was looked at, each time with other seeds.

Who adds seeds until the verdict pleases gets more false verdicts than the interval promises. The
workdir keeps the looks, and the report tells of them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from tl_keras.errors import DataError
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

LOOKS = "looks.json"
# Largest part of false verdicts, in %, of a look after each added seed from 2 to 10; see
# experiments/intervals.md.
FALSE_VERDICTS = 20


def record(root: Path, seeds: Sequence[int]) -> list[list[int]]:
    """Note that the report is written with these seeds, and return all looks in their order.

    A set of seeds counts once, so that a call that is given again is no new look.

    Args:
        root: the workdir.
        seeds: those with a run of each arm. Fewer than two have no verdict, and are no look.

    Raises:
        WriteError: the file cannot be written.
    """
    path = root / LOOKS
    looks: list[list[int]] = []
    if path.is_file():
        try:
            looks = files.read_state(path)["looks"]
        except DataError as error:
            LOG.warning("%s. Earlier looks at the comparison are forgotten", error)
            files.set_aside(path)
    if len(seeds) > 1 and sorted(seeds) not in looks:
        looks = [*looks, sorted(seeds)]
        files.write_state(path, {"looks": looks})
    return looks
