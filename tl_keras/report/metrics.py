"""Metrics of a test set, and the paired comparison of two arms.

The arms are paired by seed and by test image. The transfer run and the scratch run of one seed
share their labelled images, their order and their augmentation, and are tested on the same images.
So most of the variance of the seeds and images cancels in the difference.

The gain is the mean of d[s, i] = (transfer correct) - (scratch correct) over seeds s and test
images i. Both are crossed random samples. The 95 % interval is mean ± margin, with

    margin^2   = seeds^2 + images^2
    seeds      = t(0.975, S - 1) sqrt(var_s(mean_i d) / S)
    images     = t(0.975, N - 1) sqrt(var_i(mean_s d) / (N + 2))

Banerjee (1960, 1961) adds the squares of two margins; for independent normal parts the coverage is
at least 95 %. `var_i` is computed with two more images, one that only transfer classifies correctly
and one that only scratch does, so that it is never zero (Agresti and Min 2005; Bonett and Price
2012). The simulation in experiments/intervals.py measures the rate of false verdicts.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import log_softmax
from scipy.stats import t as student_t
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from tl_keras.errors import DivergedError

CONFIDENCE = 0.95


class Classification(NamedTuple):
    """Classification metrics of one set of images.

    Attributes:
        accuracy: share of the images whose largest logit is that of their class, 0 to 1.
        loss: mean cross-entropy in nats.
        per_class: class name -> {"accuracy": 0 to 1, or None without images, "count": images}.
        confusion: (classes, classes) int64 counts; a row is a true class, a column a prediction.
    """

    accuracy: float
    loss: float
    per_class: dict[str, dict[str, Any]]
    confusion: np.ndarray

    def as_record(self) -> dict[str, Any]:
        """Return accuracy, loss and per_class, ready for JSON."""
        return {"accuracy": self.accuracy, "loss": self.loss, "per_class": self.per_class}


def classify(labels: np.ndarray, logits: np.ndarray, class_names: Sequence[str]) -> Classification:
    """Compare logits with the labels.

    Args:
        labels: (examples,) int, indices into `class_names`.
        logits: (examples, classes) float, before any softmax. The first of equal logits is the
            prediction.
        class_names: the classes, in the order of the labels.

    Raises:
        ValueError: there are no examples, the shapes do not match, or a label is no class.
        DivergedError: logits are not finite.
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


def balanced_accuracy(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean recall of the classes that have images (Brodersen et al. 2010).

    It equals scikit-learn's balanced_accuracy_score, which warns if a class is predicted that has
    no images.

    Args:
        labels: (images,) int, the true classes, of at least one image.
        predicted: (images,) int, the predicted classes.

    Returns:
        0 to 1.
    """
    present = np.unique(labels)
    return float(recall_score(labels, predicted, labels=present, average="macro"))


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
    """Summary statistics of several runs.

    Attributes:
        mean: mean of the values.
        std: sample standard deviation (n - 1 in the denominator); None for one value.
        n: number of values.
    """

    mean: float
    std: float | None
    n: int


def spread(values: Iterable[float]) -> Spread:
    """Return mean, sample standard deviation and number of `values`.

    Raises:
        ValueError: there are no values.
    """
    array = np.asarray(list(values), np.float64)
    if not len(array):
        raise ValueError("expected at least one value, received none")
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return Spread(float(array.mean()), std, len(array))


def gain_margins(by_seed: np.ndarray, by_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two parts of the margin of a gain, from seeds and from test images.

    Args:
        by_seed: (..., seeds) float, the mean difference over the images, of each seed.
        by_image: (..., images) float, the mean difference over the seeds, of each image.

    Returns:
        Two arrays (...) float64, in the unit of the differences; nan for a single seed or image.
        The margin of the gain is the root of the sum of their squares.
    """
    seeds, images = by_seed.shape[-1], by_image.shape[-1]
    # One more image of +1 and one of -1 do not change the sum, and add 2 to the sum of squares.
    count = images + 2
    squares = np.einsum("...i,...i->...", by_image, by_image, dtype=np.float64) + 2
    total = by_image.sum(axis=-1, dtype=np.float64)
    variance = (squares - total**2 / count) / (count - 1)
    of_images = t_quantile(images) * np.sqrt(variance / count)
    if seeds < 2:
        return np.full_like(of_images, np.nan), of_images
    return t_quantile(seeds) * by_seed.std(axis=-1, ddof=1) / seeds**0.5, of_images


@functools.cache
def t_quantile(count: int) -> float:
    """Return Student's t of a 95 % interval with (count - 1) degrees of freedom; nan for one."""
    return float(student_t.ppf((1 + CONFIDENCE) / 2, count - 1)) if count > 1 else float("nan")


def paired_gain(
    transfer: Mapping[int, np.ndarray], scratch: Mapping[int, np.ndarray]
) -> dict[str, Any] | None:
    """Return the gain in accuracy of transfer over scratch, for the seeds that both arms have.

    Args:
        transfer: seed -> (images,) bool, whether the transfer run classifies each test image
            correctly.
        scratch: seed -> (images,) bool, the same for the run from scratch, with the same images in
            the same order.

    Returns:
        None if no seed is in both arms. Otherwise, as fractions:
        {"mean": mean of transfer - scratch,
        "ci95": [low, high], or None for one seed or one image,
        "seeds": number of pairs, "images": number of test images,
        "std_seeds": standard deviation of the gains of the seeds, None for one seed,
        "margin_seeds", "margin_images": the parts of the margin, None for one seed or image}.

    Raises:
        ValueError: the runs were not tested on the same number of images, or on none.
    """
    seeds = sorted(transfer.keys() & scratch.keys())
    if not seeds:
        return None
    shapes = {np.shape(arm[seed]) for arm in (transfer, scratch) for seed in seeds}
    if len(shapes) > 1 or not all(len(shape) == 1 and shape[0] for shape in shapes):
        raise ValueError(f"expected one shape (images,) of all runs, received {sorted(shapes)}")
    differences = np.stack(
        [transfer[seed].astype(np.int64) - scratch[seed].astype(np.int64) for seed in seeds]
    )
    by_seed = differences.mean(axis=1)
    # A sum of integers, so that the mean is exactly zero if the differences cancel.
    mean = float(differences.sum() / differences.size)
    of_seeds, of_images = map(float, gain_margins(by_seed, differences.mean(axis=0)))
    margin = math.hypot(of_seeds, of_images)
    return {
        "mean": mean,
        "ci95": [mean - margin, mean + margin] if math.isfinite(margin) else None,
        "seeds": len(seeds),
        "images": differences.shape[1],
        "std_seeds": spread(by_seed).std,
        "margin_seeds": of_seeds if math.isfinite(of_seeds) else None,
        "margin_images": of_images if math.isfinite(of_images) else None,
    }


def standard_error(correct: Mapping[int, np.ndarray]) -> float:
    """Return the standard error of an arm's accuracy due to the number of test images.

    It is computed with two more images, one correct and one wrong, so that it is not zero if all
    images are correct (Agresti and Coull 1998).

    Args:
        correct: seed -> (images,) bool, with at least one seed.

    Returns:
        sqrt(var_i(mean_s correct) / (images + 2)), 0 to 1.
    """
    by_image = np.mean(np.stack([correct[seed] for seed in sorted(correct)]), axis=0)
    enlarged = np.concatenate([by_image, [0.0, 1.0]])
    return float(enlarged.std(ddof=1) / len(enlarged) ** 0.5)


def verdict(gain: Mapping[str, Any]) -> str:
    """Return the verdict of a gain.

    Args:
        gain: from `paired_gain`.

    Returns:
        "positive" if the whole interval is above zero, "negative" if it is below, and
        "inconclusive" if it contains zero or does not exist.
    """
    if gain["ci95"] is None:
        return "inconclusive"
    low, high = gain["ci95"]
    if low > 0:
        return "positive"
    return "negative" if high < 0 else "inconclusive"
