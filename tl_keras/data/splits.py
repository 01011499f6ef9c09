"""Which training images train, which validate, and which are the K labelled ones a class.

All choices are pure functions of (labels, seed), made class by class.
"""

from typing import NamedTuple

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from tl_keras.errors import UsageError


class Split(NamedTuple):
    """Indices into the training split of a dataset, each sorted, int64.

    Attributes:
        train: (examples,) the images that train.
        validation: (examples,) the images that validate; empty where nothing needs them.
    """

    train: np.ndarray
    validation: np.ndarray


def split(
    labels: np.ndarray,
    class_names: tuple[str, ...],
    *,
    seed: int,
    shots: int,
    validation: float,
    needs_validation: bool,
) -> Split:
    """Choose the labelled images of one run.

    With `shots` labels a class, those are all the labels there are: a validation set is taken from
    them, and only where early stopping or the plateau schedule needs one. Looking at further
    labelled images to decide when to stop would be using labels that the run claims not to have.
    Without a limit on labels, validation always gets its part, so that there is a curve to look at.

    Args:
        labels: (examples,) integer class of each training image.
        class_names: names of the classes; one that has no image at all is left out.
        seed: seed of the choice.
        shots: labelled images a class, 0 for all.
        validation: part of each class that validates, 0 to 0.5.
        needs_validation: whether a setting watches the validation set.

    Raises:
        UsageError: a class has images, but fewer than `shots`.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    present = [label for label in range(len(class_names)) if counts[label]]
    if shots:
        _check_shots(shots, present, counts, class_names)
    fraction = validation if not shots or needs_validation else 0.0
    train: list[np.ndarray] = []
    held_out: list[np.ndarray] = []
    for label in present:
        # A stream of its own for each class: another class's size does not change this choice.
        generator = np.random.default_rng((seed, label))
        chosen = generator.permutation(np.flatnonzero(labels == label))
        chosen = chosen[:shots] if shots else chosen
        size = _validation_size(len(chosen), fraction)
        held_out.append(chosen[:size])
        train.append(chosen[size:])
    return Split(_concatenate_sorted(train), _concatenate_sorted(held_out))


def _validation_size(count: int, fraction: float) -> int:
    """Return how many of `count` images validate: at least one of two, and never all."""
    if fraction == 0 or count < 2:
        return 0
    return min(max(1, round(count * fraction)), count - 1)


def _concatenate_sorted(parts: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)


def _check_shots(
    shots: int, present: list[int], counts: np.ndarray, class_names: tuple[str, ...]
) -> None:
    smallest = min(present, key=lambda label: counts[label], default=None)
    if smallest is not None and counts[smallest] < shots:
        raise UsageError(
            f"--shots={shots} is more than class '{class_names[smallest]}' has: it has"
            f" {counts[smallest]} training images; take that many or fewer, or 0 for all"
        )


def class_weights(kind: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return by what to multiply the loss of each class's examples, (classes,) float32.

    Args:
        kind: "balanced": images / (classes * the class's images), so that each class weighs the
            same in the sum; "sqrt": its square root, scaled so that its mean over the images is 1.
        labels: (examples,) integer class of each training image.
        classes: how many there are; one without an image gets 1, which nothing asks for.
    """
    present = np.unique(labels)
    weights = np.ones(classes, np.float64)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    if kind == "sqrt":
        weights = np.sqrt(weights)
        weights /= weights[labels].mean()
    return weights.astype(np.float32)
