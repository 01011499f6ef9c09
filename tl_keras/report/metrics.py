"""The numbers of a test set, and what two arms of runs say about each other.

The accuracies of the arms are paired by seed: the transfer run and the scratch run of one seed
share their labelled images, their order and their augmentation, so most of the luck of the seed
cancels in the difference. The gain is the mean of these differences; its 95 % interval is
Student's t interval with (pairs - 1) degrees of freedom, which supposes that the differences are
roughly normal. It speaks of other seeds on this test set, not of another test set.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax
from scipy.stats import t as student_t
from sklearn.metrics import accuracy_score, confusion_matrix

from tl_keras.errors import DivergedError

CONFIDENCE = 0.95


class Classification(NamedTuple):
    """How well a model classifies one set of pictures.

    Attributes:
        accuracy: part of the pictures whose largest logit is their class's, 0 to 1.
        loss: mean cross-entropy in nats.
        per_class: class name -> {"accuracy": 0 to 1, or None without pictures, "count": pictures}.
        confusion: (classes, classes) int64 counts; a row is a true class, a column a prediction.
    """

    accuracy: float
    loss: float
    per_class: dict[str, dict[str, Any]]
    confusion: np.ndarray

    def as_record(self) -> dict[str, Any]:
        """Return what a report keeps: accuracy, loss and per_class, ready for JSON."""
        return {"accuracy": self.accuracy, "loss": self.loss, "per_class": self.per_class}


def classification(
    labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str]
) -> Classification:
    """Compare logits with the labels.

    Args:
        labels: (examples,) int, indices into `class_names`.
        logits: (examples, classes) float, before any softmax. Of equal logits the first one counts
            as the prediction.
        class_names: the classes, in the order of the labels.

    Raises:
        ValueError: no examples, shapes that do not fit, or a label that is no class.
        DivergedError: logits that are not finite; their accuracy would be an accident.
    """
    labels, logits = np.asarray(labels), np.asarray(logits).astype(np.float64)
    _check(labels, logits, len(class_names))
    predictions = logits.argmax(axis=1)
    examples = np.arange(len(labels))
    confusion = confusion_matrix(labels, predictions, labels=np.arange(len(class_names)))
    correct, counts = confusion.diagonal(), confusion.sum(axis=1)
    per_class = {
        name: {"accuracy": float(hits / count) if count else None, "count": int(count)}
        for name, hits, count in zip(class_names, correct, counts, strict=True)
    }
    return Classification(
        accuracy=float(accuracy_score(labels, predictions)),
        loss=float(-log_softmax(logits, axis=1)[examples, labels].mean()),
        per_class=per_class,
        confusion=confusion.astype(np.int64),
    )


def _check(labels: np.ndarray, logits: np.ndarray, num_classes: int) -> None:
    if labels.ndim != 1 or not len(labels) or logits.shape != (len(labels), num_classes):
        raise ValueError(
            f"expected labels (examples,) and logits (examples, {num_classes}) of at least one"
            f" example, received {labels.shape} and {logits.shape}"
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(
            f"expected labels from 0 to {num_classes - 1}, received {labels.min()} to"
            f" {labels.max()}"
        )
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        found = f"the model's output is not finite for {broken} of {len(labels)} images"
        raise DivergedError(found, is_trained=True)


class Spread(NamedTuple):
    """Several runs' values in short.

    Attributes:
        mean: their mean.
        std: sample standard deviation (n - 1 in the denominator); None for one value.
        n: how many there are.
    """

    mean: float
    std: float | None
    n: int


def spread(values: Iterable[float]) -> Spread:
    """Return mean, sample standard deviation and number of `values`.

    Raises:
        ValueError: there are none.
    """
    array = np.asarray(list(values), np.float64)
    if not len(array):
        raise ValueError("expected at least one value, received none")
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return Spread(float(array.mean()), std, len(array))


def paired_gain(
    transfer: Mapping[int, float], scratch: Mapping[int, float]
) -> dict[str, Any] | None:
    """Return what transfer adds to the accuracy, over the seeds that both arms have.

    Args:
        transfer: seed -> accuracy of the transfer run, 0 to 1.
        scratch: seed -> accuracy of the run from scratch, 0 to 1.

    Returns:
        {"mean": mean of transfer - scratch, "ci95": [low, high] or None}, in the accuracies' unit;
        None where no seed is in both arms. `ci95` needs two pairs. Where all differences are equal
        it has no width.
    """
    seeds = sorted(transfer.keys() & scratch.keys())
    if not seeds:
        return None
    mean, std, pairs = spread(transfer[seed] - scratch[seed] for seed in seeds)
    if std is None:
        return {"mean": mean, "ci95": None}
    # By hand and not by student_t.interval(), which returns nan for a scale of zero.
    reach = float(student_t.ppf((1 + CONFIDENCE) / 2, pairs - 1)) * std / pairs**0.5
    return {"mean": mean, "ci95": [mean - reach, mean + reach]}


def verdict(gain: Mapping[str, Any]) -> str:
    """Say what a gain amounts to.

    Args:
        gain: as `paired_gain` returns it.

    Returns:
        "positive" where the whole interval is above zero, "negative" where it is below, and
        "inconclusive" where it holds zero or does not exist.
    """
    if gain["ci95"] is None:
        return "inconclusive"
    low, high = gain["ci95"]
    if low > 0:
        return "positive"
    return "negative" if high < 0 else "inconclusive"
