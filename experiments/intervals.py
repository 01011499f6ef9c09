"""Measure how often the verdict on a gain is false: `python -m experiments.intervals [--quick]`.

It simulates seeds and test images of two arms, and writes experiments/intervals.md. The whole takes
some minutes on two cores; --quick takes seconds, and writes only where --out says so.

The data come from a latent (probit) model. Arm a of seed s has test image i right where

    mean[a] + image effect[a, i] + seed effect[a, s] + noise[a, s, i] > 0,

all normal; the noise, of standard deviation 1, is the interaction of seed and image. A part
`shared` of the variance of the image and seed effects is the same in both arms.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from experiments.intervals_text import (
    BOOTSTRAP,
    BOTH,
    IMAGES,
    SEEDS,
    SEEDS_ALONE,
    Finding,
    Job,
    Kind,
    markdown,
)
from tl_keras.report.metrics import gain_margins, t_quantile
from tl_keras.storage import files

LOOKS = range(2, 11)
MAX_SEEDS = 10
ACCURACIES = (0.5, 0.9, 0.99)
GAINS = (0.005, 0.02, 0.05, 0.1)
CHUNK = 500_000
RESAMPLES = 400
COLLAPSE, DEPTH = 0.1, 3.0
# The noise is drawn by 16-bit indices into its quantiles, ten times as fast as by a normal draw.
QUANTILES = norm.ppf((np.arange(65536) + 0.5) / 65536).astype(np.float32)


FORMS = (
    ("interaction alone, independent arms", 0.0, 0.0, 0.0),
    ("no seed effect, independent arms", 1.0, 0.0, 0.0),
    ("no seed effect, correlated arms", 2.0, 0.0, 0.9),
    ("small seed effect, independent arms", 0.5, 0.1, 0.0),
    ("small seed effect, correlated arms", 3.0, 0.2, 0.9),
    ("large seed effect, independent arms", 1.0, 0.5, 0.0),
    ("large seed effect, correlated arms", 3.0, 1.0, 0.9),
)
NULL = tuple(
    Kind(name, accuracy, image_std, seed_std, shared)
    for accuracy in ACCURACIES
    for name, image_std, seed_std, shared in FORMS
)
POWER = tuple(
    Kind(name, 0.85, image_std, seed_std, shared, gain)
    for name, image_std, seed_std, shared in FORMS[3:]
    for gain in GAINS
)
COLLAPSES = (
    Kind("a tenth of the runs from scratch collapses", 0.85, 1.0, 0.1, 0.0, 0.0, COLLAPSE),
)


def simulate(job: Job) -> Finding:
    """Carry out the experiments of a job, in chunks."""
    generator = np.random.default_rng([job.seed, job.images])
    per_chunk = max(1, CHUNK // (MAX_SEEDS * job.images))
    found: dict[str, list[np.ndarray]] = {BOTH: [], SEEDS_ALONE: [], BOOTSTRAP: []}
    left, bootstraps = job.experiments, job.bootstraps
    while left > 0:
        differences = draw(job.kind, job.images, min(left, per_chunk), generator)
        left -= len(differences)
        own, old = _judge(differences)
        found[BOTH].append(own)
        found[SEEDS_ALONE].append(old)
        if bootstraps > 0:
            found[BOOTSTRAP].append(bootstrap(differences[:bootstraps]))
            bootstraps -= len(found[BOOTSTRAP][-1])
    judged = {method: np.concatenate(parts) for method, parts in found.items() if parts}
    verdicts = {
        method: {seeds: float(told[:, LOOKS.index(seeds)].mean()) for seeds in SEEDS}
        for method, told in judged.items()
    }
    looked = {method: float(told.any(axis=1).mean()) for method, told in judged.items()}
    return Finding(job, verdicts, looked)


def draw(kind: Kind, images: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return (count, MAX_SEEDS, images) int8, 1 where only transfer is right, -1 where scratch."""
    right = []
    shared_images = generator.standard_normal((count, 1, images), np.float32)
    shared_seeds = generator.standard_normal((count, MAX_SEEDS, 1), np.float32)
    both, own = np.float32(kind.shared**0.5), np.float32((1 - kind.shared) ** 0.5)
    for arm, mean in enumerate(_means(kind)):
        of_images = both * shared_images + own * generator.standard_normal(
            shared_images.shape, np.float32
        )
        of_seeds = both * shared_seeds + own * generator.standard_normal(
            shared_seeds.shape, np.float32
        )
        of_seeds = np.float32(mean) + np.float32(kind.seed_std) * of_seeds
        if arm == 1 and kind.collapse:
            collapsed = generator.random(of_seeds.shape) < kind.collapse
            of_seeds = of_seeds - np.float32(DEPTH) * collapsed
        size = count * MAX_SEEDS * images
        bits = np.frombuffer(generator.bytes(2 * size), np.uint16)
        latent = QUANTILES[bits].reshape(count, MAX_SEEDS, images)
        latent += np.float32(kind.image_std) * of_images
        right.append((latent > -of_seeds).view(np.int8))
    return right[0] - right[1]


@functools.cache
def _means(kind: Kind) -> tuple[float, float]:
    """Return the means of the latent values that give the accuracies of the two arms."""
    scale = (1 + kind.image_std**2 + kind.seed_std**2) ** 0.5
    transfer, scratch = kind.accuracy + kind.gain / 2, kind.accuracy - kind.gain / 2

    def excess(mean: float) -> float:
        whole = (1 - kind.collapse) * norm.cdf(mean / scale)
        return whole + kind.collapse * norm.cdf((mean - DEPTH) / scale) - scratch

    return float(norm.ppf(transfer)) * scale, float(brentq(excess, -50, 50))


def _judge(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return whether each interval excludes zero after each look: two (count, looks) bool."""
    by_seed = differences.mean(axis=2)
    sums = differences[:, 0].astype(np.float32)
    own, old = [], []
    for seeds in LOOKS:
        sums += differences[:, seeds - 1]
        gains = by_seed[:, :seeds]
        means = sums.sum(axis=1, dtype=np.float64) / (seeds * sums.shape[1])
        own.append(np.abs(means) > np.hypot(*gain_margins(gains, sums / np.float32(seeds))))
        margins = t_quantile(seeds) * gains.std(axis=1, ddof=1) / seeds**0.5
        old.append(np.abs(means) > margins)
    return np.stack(own, axis=1), np.stack(old, axis=1)


@functools.cache
def _resamples(images: int) -> np.ndarray:
    """Return (images, RESAMPLES) float32, how often each image is in each resample."""
    generator = np.random.default_rng([images, 1])
    drawn = generator.multinomial(images, np.full(images, 1 / images), RESAMPLES)
    return np.ascontiguousarray(drawn.T / images, np.float32)


def bootstrap(differences: np.ndarray) -> np.ndarray:
    """Return whether the percentile interval of a two-way bootstrap excludes zero after each look.

    Seeds and images are resampled independently. All experiments share their resamples.

    Args:
        differences: (count, MAX_SEEDS, images) int8.

    Returns:
        (count, looks) bool.
    """
    count, _, images = differences.shape
    resampled = differences.astype(np.float32) @ _resamples(images)
    generator = np.random.default_rng([images, 2])
    told = []
    for seeds in LOOKS:
        weights = generator.multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES).T / seeds
        means = (resampled[:, :seeds] * weights.astype(np.float32)).sum(axis=1)
        low, high = np.percentile(means, (2.5, 97.5), axis=1)
        told.append((low > 1e-6) | (high < -1e-6))
    return np.stack(told, axis=1)


def run(
    kinds: Sequence[Kind], images: Sequence[int], experiments: int, bootstraps: int, processes: int
) -> list[Finding]:
    """Simulate every kind with every number of images; the seed of each job is its place."""
    jobs = [
        Job(kind, number, experiments, bootstraps, place)
        for number in sorted(images, reverse=True)
        for place, kind in enumerate(kinds)
    ]
    if processes == 1:
        return list(map(simulate, jobs))
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(simulate, jobs))


def main(argv: Sequence[str]) -> int:
    """Simulate, print the tables, and write them; return 0."""
    parser = argparse.ArgumentParser(prog="python -m experiments.intervals", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="200 experiments a cell")
    parser.add_argument("--out", type=Path, help="a file; usually experiments/intervals.md")
    chosen = parser.parse_args(argv[1:])
    experiments, bootstraps = (200, 50) if chosen.quick else (10_000, 1_000)
    null = run(NULL, IMAGES, experiments, bootstraps, 2)
    power = run(POWER, IMAGES, experiments // 2, 0, 2)
    collapses = run(COLLAPSES, IMAGES, experiments, 0, 2)
    text = markdown(null, power, collapses)
    print(text)
    default = None if chosen.quick else Path(__file__).with_suffix(".md")
    if (path := chosen.out or default) is not None:
        files.write_bytes(path, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
