"""The convergence rule, which uses the training loss of a run."""

from collections.abc import Mapping, Sequence

import numpy as np

# Shorter runs count as not converged.
MIN_STEPS = 40
# The allowed change of the loss over a quarter of the distance, in nats.
TOLERANCE = 0.01
# A change within NOISE standard errors is allowed too, up to the fraction MAX_NOISE of the loss.
NOISE, MAX_NOISE = 2.0, 0.05
# A loss above this fraction of both the chance level and the first loss has not begun to fall.
LEARNED = 0.9
# The loss on the target's labels, without penalties and source terms. The first recorded name
# counts.
LOSSES = ("train/cross_entropy", "train/target", "train/loss")


def chance_loss(labels: np.ndarray) -> float:
    """Return the cross-entropy, in nats, of predicting the class frequencies."""
    frequencies = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(frequencies * np.log(frequencies)).sum())


def has_converged(
    records: Sequence[tuple[int, Mapping[str, float]]], chance: float, start: int = 0
) -> bool:
    """Return whether the training loss was constant at the end of a run.

    The mean loss over the last quarter of the distance must differ from that over the third quarter
    by at most 0.01 nats, or by at most two standard errors of the difference and 5 % of the loss.
    Distance is the sum of the learning rates of the steps: a loss that is constant because the
    learning rate went to zero has not converged. The loss must also be below 90 % of the chance
    level or of its first value.

    Args:
        records: step and values of each record: one of LOSSES, the mean over the steps since the
            record before, and "train/learning_rate" of the last of these steps.
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
    distance = np.cumsum(np.where(steps > start, np.diff(steps, prepend=0.0) * rates, 0.0))
    quarters = np.ceil(4 * distance / distance[-1])
    third, last = losses[quarters == 3], losses[quarters == 4]
    if min(len(third), len(last)) < 2 or last.mean() > LEARNED * max(chance, losses[0]):
        return False
    change = abs(third.mean() - last.mean())
    error = np.hypot(*(part.std(ddof=1) / len(part) ** 0.5 for part in (third, last)))
    return bool(change <= max(TOLERANCE, min(NOISE * error, MAX_NOISE * third.mean())))
