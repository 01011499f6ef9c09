"""Whether a run has converged: by its training loss, which every run has."""

from collections.abc import Mapping, Sequence

import numpy as np

# A run of fewer steps is too short to tell.
MIN_STEPS = 40
# By how much the loss may still change in a quarter of the way, in nats.
TOLERANCE = 0.01
# What a larger change has to exceed, in its own standard errors, to be more than luck of batches;
# but a change by more than this part of the loss is too much in any case.
NOISE, MAX_NOISE = 2.0, 0.05
# A loss above this part of what chance gives, or of what it was at first, has not begun to fall.
LEARNED = 0.9
# The loss on the target's labels, by the first name that is recorded: without penalties, and
# without the source's part.
LOSSES = ("train/cross_entropy", "train/target", "train/loss")


def chance_loss(labels: np.ndarray) -> float:
    """Return the cross-entropy, in nats, of knowing nothing but how frequent each class is."""
    parts = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(parts * np.log(parts)).sum())


def has_converged(
    records: Sequence[tuple[int, Mapping[str, float]]], chance: float, start: int = 0
) -> bool:
    """Tell whether the training loss had come to rest at the end of a run.

    It has where its mean over the last quarter of the way differs from that over the third by no
    more than 0.01 nats, or by no more than two standard errors of that difference and 5 % of the
    loss. The way is measured in steps times their learning rate: a loss that rests because the
    learning rate has gone to zero has not converged. Nor has one that never began to fall, and is
    above 90 % of what chance gives and of what it was at first.

    Args:
        records: step and values of each measurement: one of LOSSES, the mean over the steps since
            the measurement before, and "train/learning_rate" of the last of these.
        chance: see `chance_loss`.
        start: the step after which the last weights began to train; quarters are of what follows.
    """
    measured = [(step, values) for step, values in records if "train/loss" in values]
    if not measured or measured[-1][0] - start < MIN_STEPS:
        return False
    steps = np.array([step for step, _ in measured], np.float64)
    name = next(name for name in LOSSES if name in measured[-1][1])
    losses = np.array([values[name] for _, values in measured], np.float64)
    rates = np.array([values["train/learning_rate"] for _, values in measured], np.float64)
    way = np.cumsum(np.where(steps > start, np.diff(steps, prepend=0.0) * rates, 0.0))
    quarters = np.ceil(4 * way / way[-1])
    third, last = losses[quarters == 3], losses[quarters == 4]
    if min(len(third), len(last)) < 2 or last.mean() > LEARNED * max(chance, losses[0]):
        return False
    change = abs(third.mean() - last.mean())
    error = np.hypot(*(part.std(ddof=1) / len(part) ** 0.5 for part in (third, last)))
    return bool(change <= max(TOLERANCE, min(NOISE * error, MAX_NOISE * third.mean())))
