"""Whether a run has converged: by its training loss, which every run has."""

from collections.abc import Mapping, Sequence

import numpy as np

# A run of fewer steps is too short to tell.
LEAST_STEPS = 40
# Of the fall of the loss since the run began: what it may still change by in a quarter of the way.
TOLERANCE = 0.05
# What the change has to exceed, in its own standard errors, to be more than the luck of batches.
NOISE = 2.0


def has_converged(records: Sequence[tuple[int, Mapping[str, float]]], start: int = 0) -> bool:
    """Tell whether the training loss had come to rest at the end of a run.

    It has where its mean over the last quarter of the way differs from that of the quarter before
    by no more than 5 % of how far it has fallen since the run began, or by no more than two
    standard errors of that difference. The way is measured in steps times their learning rate: a
    loss that rests because the learning rate has gone to zero has not converged. Nor has one that
    rises.

    Args:
        records: step and values of each measurement: "train/loss", the mean over the steps since
            the measurement before, and "train/learning_rate" of the last of these.
        start: the step after which the last weights began to train; quarters are of what follows.
    """
    measured = [(step, values) for step, values in records if "train/loss" in values]
    if not measured or measured[-1][0] - start < LEAST_STEPS:
        return False
    steps = np.array([step for step, _ in measured], np.float64)
    losses = np.array([values["train/loss"] for _, values in measured], np.float64)
    rates = np.array([values.get("train/learning_rate", 1.0) for _, values in measured], np.float64)
    way = np.cumsum(np.where(steps > start, np.diff(steps, prepend=0.0) * rates, 0.0))
    quarters = np.ceil(4 * way / way[-1])
    third, last = losses[quarters == 3], losses[quarters == 4]
    if min(len(third), len(last)) < 2:
        return False
    change = abs(third.mean() - last.mean())
    fallen = max(losses[0] - last.mean(), 0.0)
    error = np.hypot(*(part.std(ddof=1) / len(part) ** 0.5 for part in (third, last)))
    return bool(change <= max(TOLERANCE * fallen, NOISE * error))
