"""The tables of the simulation of intervals, as Markdown."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

SEEDS = (2, 3, 5, 10)
IMAGES = (10, 100, 10_000)
BOTH, SEEDS_ALONE, BOOTSTRAP = "seeds and images", "seeds alone", "two-way bootstrap"

METHODS = {
    BOTH: "the interval of the report",
    SEEDS_ALONE: "Student's t over the gains of the seeds",
    BOOTSTRAP: "percentiles of a bootstrap of seeds and images",
}
HEADING = """# How often the verdict on a gain is false

Written by `python -m experiments.intervals`; {experiments:,} experiments a cell, {power:,} in the
table of the power, {bootstraps:,} for the bootstrap. The standard error of a figure near 5 % is
{error:.1f} points in the first case.

## The interval

d[s, i] = (transfer right) - (scratch right) of seed s and test image i. The gain is the mean of d
over S seeds and N images. The 95 % interval is mean ± margin, with

    margin^2 = seeds^2 + images^2
    seeds    = t(0.975, S - 1) sqrt(var_s(mean_i d) / S)
    images   = t(0.975, N - 1) sqrt(var_i(mean_s d) / (N + 2))

`var_i` is taken with two more images, +1 and -1. The interaction of seeds and images is in both
variances, and so is counted twice: where it prevails, the interval is wider than it need be.

Sources: S. K. Banerjee, "Approximate confidence interval for linear functions of means of k
populations when the population variances are not equal", Sankhya 22 (1960), and his paper on two
means in Sankhya 23 (1961): the squares of the margins may be added. A. Agresti and Y. Min, "Simple
improved confidence intervals for comparing matched proportions", Statistics in Medicine 24 (2005);
D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference of binomial
proportions based on paired data", Journal of Educational and Behavioral Statistics 37 (2012):
pseudo-observations.

The data come from a latent (probit) model with image effects, seed effects and their interaction;
experiments/intervals.py has the formula, and the standard deviations of each kind of data.
"""


class Kind(NamedTuple):
    """A kind of data.

    Attributes:
        name: in words.
        accuracy: mean of the two arms, 0 to 1.
        image_std: of the image effects, where the noise has 1.
        seed_std: of the seed effects.
        shared: part of the variance of the effects that both arms share, 0 to 1.
        gain: true difference of the accuracies.
        collapse: probability that a run from scratch collapses, at the same mean accuracy.
    """

    name: str
    accuracy: float
    image_std: float
    seed_std: float
    shared: float
    gain: float = 0.0
    collapse: float = 0.0


class Job(NamedTuple):
    """A number of experiments with one kind of data and one number of test images."""

    kind: Kind
    images: int
    experiments: int
    bootstraps: int
    seed: int


class Finding(NamedTuple):
    """How often an interval excludes zero.

    Attributes:
        job: what was simulated.
        verdicts: by method, number of seeds -> part of the experiments with a verdict, 0 to 1.
        looked: by method, part with a verdict after any of 2, 3, ... 10 seeds.
    """

    job: Job
    verdicts: dict[str, dict[int, float]]
    looked: dict[str, float]


def markdown(null: Sequence[Finding], power: Sequence[Finding], limits: Sequence[Finding]) -> str:
    """Return the page.

    Args:
        null: findings where there is no difference.
        power: findings where there is one.
        limits: findings where there is none, and what the interval supposes does not hold.
    """
    experiments, bootstraps = null[0].job.experiments, null[0].job.bootstraps
    error = 100 * (0.05 * 0.95 / experiments) ** 0.5
    heading = HEADING.format(
        experiments=experiments,
        power=power[0].job.experiments,
        bootstraps=bootstraps,
        error=error,
    )
    return "\n".join([heading, *_false(null), *_looks(null), *_power(power), *_limits(limits)])


def worst(findings: Sequence[Finding], figure: Callable[[Finding], float]) -> float:
    """Return the largest value of a figure, in %."""
    return 100 * max(map(figure, findings))


def _false(findings: Sequence[Finding]) -> list[str]:
    """Return the tables of false verdicts: the worst kind of data of each method, and all kinds."""
    lines = [
        "## False verdicts where there is no difference, in %",
        "",
        "Verdicts are positive or negative. The largest figure of all kinds of data:",
        "",
        _row(["interval", "test images", *(f"{seeds} seeds" for seeds in SEEDS)]),
        _row(["---"] * (2 + len(SEEDS))),
    ]
    for method, words in METHODS.items():
        for images in IMAGES:
            own = [one for one in findings if one.job.images == images]
            cells = [f"{worst(own, _verdicts(method, seeds)):.1f}" for seeds in SEEDS]
            lines.append(_row([words, f"{images:,}", *cells]))
    lines += ["", "The interval of the report, by kind of data:", ""]
    return [*lines, *_by_kind(findings, _name_with_accuracy), ""]


def _verdicts(method: str, seeds: int) -> Callable[[Finding], float]:
    return lambda finding: finding.verdicts[method][seeds]


def _looked(method: str) -> Callable[[Finding], float]:
    return lambda finding: finding.looked[method]


def _by_kind(findings: Sequence[Finding], name: Callable[[Kind], str]) -> list[str]:
    """Return a table with a row a kind, and a column a number of images and seeds."""
    columns = [(images, seeds) for images in IMAGES for seeds in SEEDS]
    cells = {
        (one.job.kind, one.job.images, seeds): f"{100 * one.verdicts[BOTH][seeds]:.1f}"
        for one in findings
        for seeds in SEEDS
    }
    kinds = list(dict.fromkeys(one.job.kind for one in findings))
    return [
        _row(["seeds x images", *(f"{seeds} x {images:,}" for images, seeds in columns)]),
        _row(["---"] * (1 + len(columns))),
        *(_row([name(kind), *(cells[(kind, *column)] for column in columns)]) for kind in kinds),
    ]


def _looks(findings: Sequence[Finding]) -> list[str]:
    """Return the table of what comes of adding seeds until there is a verdict."""
    lines = [
        "## Seeds added until the verdict pleases",
        "",
        "False verdicts in % where the interval is looked at after 2, 3, ... 10 seeds, and any"
        " verdict counts. The largest figure of all kinds of data:",
        "",
        _row(["interval", *(f"{images:,} test images" for images in IMAGES)]),
        _row(["---"] * (1 + len(IMAGES))),
    ]
    for method, words in METHODS.items():
        cells = []
        for images in IMAGES:
            own = [one for one in findings if one.job.images == images]
            cells.append(f"{worst(own, _looked(method)):.1f}")
        lines.append(_row([words, *cells]))
    return [*lines, ""]


def _power(findings: Sequence[Finding]) -> list[str]:
    return [
        "## Power: verdicts where there is a difference, in %",
        "",
        "Mean accuracy 85 %. Few seeds see little where seeds differ much, and few images nothing:",
        "",
        *_by_kind(findings, lambda kind: f"{100 * kind.gain:g} points, {kind.name}"),
        "",
    ]


def _limits(findings: Sequence[Finding]) -> list[str]:
    return [
        "## Where the interval does not hold",
        "",
        "A t interval of a few seeds does not see what happens rarely. Here one run from scratch in"
        " ten collapses, transfer never does, and the mean accuracies are equal; false verdicts in"
        " %:",
        "",
        *_by_kind(findings, _name_with_accuracy),
        "",
    ]


def _name_with_accuracy(kind: Kind) -> str:
    return f"{100 * kind.accuracy:g} %, {kind.name}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
