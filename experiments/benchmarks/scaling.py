"""What sharing a batch among several hosts is worth, before anyone rents them.

    python -m experiments.benchmarks.scaling --model=resnet50 --batch_size=32 --images_per_second=58

One host takes T seconds for a step on the whole batch. N hosts of its kind take T / N for their
shares, and then talk. A ring all-reduce of V bytes sends 2 (N - 1) / N V over each host's link, in
2 (N - 1) messages one after the other (Patarasuk and Yuan, "Bandwidth optimal all-reduce algorithms
for clusters of workstations", 2009). A step sums the gradients, four bytes a parameter, and twice
for each BatchNormalization layer whose statistics are those of the whole batch: once forward, once
back, in messages too short for anything but their latency to count.

    step(N) = T / N + 2 (N - 1) / N * V / bandwidth + 2 (N - 1) * latency * (2 * norms + 1)
    speed-up(N) = T / step(N)        efficiency(N) = speed-up(N) / N

Two processes that halve the cores of one host take T for their shares, and reach
T / (T + talking) of its speed: that is how this was checked on a machine of two cores, see README.

This has nothing overlap, as it is where the processors that compute also send. Where GPUs compute,
gradients travel while those of earlier layers are computed, and only what is longer counts:
`overlapped` says what comes of it at best. The truth lies between the two.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tl_keras.errors import UsageError

BYTES_PER_PARAMETER = 4
# The backward pass takes twice the time of the forward pass, and is what gradients overlap with.
BACKWARD_SHARE = 2 / 3
WORTH_IT = 0.5


class Link(NamedTuple):
    """What connects the hosts.

    Attributes:
        bandwidth: bytes a second, each way, as programs get it.
        latency: seconds from one host's sum to the next one's.
    """

    bandwidth: float
    latency: float


class Work(NamedTuple):
    """A step of training.

    Attributes:
        parameters: that train.
        norms: layers whose statistics are of the whole batch; 0 with --nosync_batch_norm.
        seconds: that one host takes for it.
    """

    parameters: int
    norms: int
    seconds: float


def talking(work: Work, link: Link, hosts: int) -> tuple[float, float]:
    """Return the seconds that gradients take, and those that norms take, in one step."""
    rounds = 2 * (hosts - 1)
    volume = rounds / hosts * work.parameters * BYTES_PER_PARAMETER
    gradients = volume / link.bandwidth + rounds * link.latency
    return gradients, rounds * link.latency * 2 * work.norms


def speed_up(work: Work, link: Link, hosts: int, *, overlapped: bool = False) -> float:
    """Return how many times as fast as one host so many are."""
    compute = work.seconds / hosts
    gradients, norms = talking(work, link, hosts)
    if overlapped:
        gradients = max(0.0, gradients - BACKWARD_SHARE * compute)
    return work.seconds / (compute + gradients + norms)


def halved(work: Work, link: Link) -> float:
    """Return the speed of two processes that halve one host, in parts of that of one process."""
    return work.seconds / (work.seconds + sum(talking(work, link, 2)))


def best(work: Work, link: Link, *, most: int = 1024) -> int:
    """Return the largest number of hosts, doubled from 1, at which half of their time pays."""
    hosts = 1
    while 2 * hosts <= most and speed_up(work, link, 2 * hosts) >= WORTH_IT * 2 * hosts:
        hosts *= 2
    return hosts


def table(work: Work, link: Link, hosts: Sequence[int]) -> str:
    """Return a line for each number of hosts: speed-up and efficiency, without and with overlap."""
    lines = ["hosts  speed-up  efficiency  with overlap"]
    for count in hosts:
        plain, over = (speed_up(work, link, count, overlapped=one) for one in (False, True))
        lines.append(f"{count:5d}  {plain:8.2f}  {plain / count:9.0%}  {over / count:11.0%}")
    return "\n".join(lines)


def counts(model: str) -> tuple[int, int]:
    """Return how many parameters of a model of the catalog train, and how many norms it has."""
    import keras

    from tl_keras.config import Config
    from tl_keras.models import building, catalog

    size = catalog.find(model).image_size or 28
    channels = 3 if catalog.find(model).function else 1
    built = building.build(
        model,
        10,
        image_size=size,
        input_channels=channels,
        body_channels=channels,
        dense_units=Config().dense_units,
    )
    norms = [one for one in built.layers if isinstance(one, keras.layers.BatchNormalization)]
    return sum(int(v.value.shape.num_elements()) for v in built.trainable_variables), len(norms)


def main(argv: Sequence[str]) -> int:
    """Print the table that `argv` asks for, and where it stops paying."""
    program = "python -m experiments.benchmarks.scaling"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default="resnet50", help="of the catalog")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step, of all hosts")
    parser.add_argument("--images_per_second", type=float, required=True, help="of one host")
    parser.add_argument(
        "--gigabits", type=float, default=10.0, help="a second, of each host's link"
    )
    parser.add_argument("--latency", type=float, default=0.1, help="of a message, in milliseconds")
    parser.add_argument("--nosync_batch_norm", action="store_true", help="as the program's flag")
    chosen = parser.parse_args(argv[1:])
    for name in ("batch_size", "images_per_second", "gigabits"):
        if not 0 < getattr(chosen, name) < math.inf:
            parser.error(f"--{name}={getattr(chosen, name)} must be above 0")
    if not 0 <= chosen.latency < math.inf:
        parser.error(f"--latency={chosen.latency} must be 0 or above")
    try:
        parameters, norms = counts(chosen.model)
    except UsageError as error:
        parser.error(str(error))
    norms = 0 if chosen.nosync_batch_norm else norms
    work = Work(parameters, norms, chosen.batch_size / chosen.images_per_second)
    link = Link(chosen.gigabits * 1e9 / 8, chosen.latency / 1e3)
    print(f"{chosen.model}: {parameters / 1e6:.1f} million parameters, {norms} norms to agree on")
    print(table(work, link, (1, 2, 4, 8, 16, 32, 64)))
    print(f"more than half of the time pays on up to {best(work, link)} hosts")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
