"""The looks at a comparison, each with a different set of seeds.

Adding seeds until the verdict is as desired causes more false verdicts than the interval states
(optional stopping). So the workdir records the looks, and the report mentions them.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from tl_keras.errors import DataError
from tl_keras.storage import files

LOG = logging.getLogger(__name__)

LOOKS = "looks.json"
# Maximum rate of false verdicts, in %, with a look after each added seed from 2 to 10; see
# experiments/intervals.md.
FALSE_VERDICTS = 20


def record(root: Path, seeds: Sequence[int]) -> list[list[int]]:
    """Record a look with these seeds, and return all looks in order.

    Each set of seeds counts once, so a repeated command is no new look.

    Args:
        root: the workdir.
        seeds: the seeds with a run of each arm. Fewer than two give no verdict, and are no look.

    Raises:
        WriteError: the file cannot be written.
    """
    path = root / LOOKS
    looks: list[list[int]] = []
    if path.is_file():
        try:
            looks = files.read_state(path)["looks"]
        except DataError as error:
            LOG.warning("%s. Earlier looks at the comparison are lost", error)
            files.set_aside(path)
    if len(seeds) > 1 and sorted(seeds) not in looks:
        looks = [*looks, sorted(seeds)]
        files.write_state(path, {"looks": looks})
    return looks
