"""Split the training images into training and validation, with K labelled images per class.

All choices are pure functions of (labels, groups, seed). Without groups that span classes, they are
made for each class separately.
"""

from typing import NamedTuple

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from tl_keras.data.held_out import hold_out
from tl_keras.errors import UsageError


class Split(NamedTuple):
    """Indices into the training split of a dataset, each sorted, int64.

    Attributes:
        train: (examples,) training images.
        validation: (examples,) validation images; empty if nothing needs them.
    """

    train: np.ndarray
    validation: np.ndarray


def split(
    labels: np.ndarray,
    class_names: tuple[str, ...],
    *,
    seed: int,
    shots: int | None,
    validation: float,
    needs_validation: bool,
    groups: np.ndarray | None = None,
    is_validation: np.ndarray | None = None,
) -> Split:
    """Choose the labelled images of one run.

    `shots` limits the number of labels per class, including those for validation. The validation
    set is taken from them, and only if early stopping or the plateau schedule needs it. Further
    labels would contradict the limit. Without `shots`, there is always a validation set, so that
    the report has a validation curve.

    Args:
        labels: (examples,) integer class of each training image.
        class_names: names of the classes. Classes without images are left out.
        seed: seed of the choice.
        shots: labelled images a class, None for all.
        validation: part of each class that validates, 0 to 0.5.
        needs_validation: whether a setting watches the validation set.
        groups: (examples,) int64. Images of a group never both train and validate, so that a class
            of one group does not validate. Of a group, one image is preferred among the `shots`.
            Where all groups differ, the choice is the same as without.
        is_validation: (examples,) bool, images that the dataset has for validation. They validate
            instead of a part of the others, unless there are `shots`, and never train.

    Raises:
        UsageError: a class has images, but fewer than `shots`.
    """
    trains = np.ones(len(labels), bool) if is_validation is None else ~is_validation
    if is_validation is not None and shots is None:
        validates = is_validation if validation else np.zeros(len(labels), bool)
        return Split(np.flatnonzero(trains), np.flatnonzero(validates))
    counts = np.bincount(labels[trains], minlength=len(class_names))
    present = [label for label in range(len(class_names)) if counts[label]]
    if shots is not None:
        _check_shots(shots, present, counts, class_names)
    fraction = validation if shots is None or needs_validation else 0.0
    orders = [np.empty(0, np.int64)] * len(class_names)
    for label in present:
        # A separate random stream per class, so that the size of one class does not change
        # another's choice.
        generator = np.random.default_rng((seed, label))
        order = generator.permutation(np.flatnonzero(trains & (labels == label)))
        if shots is not None:
            order = _distinct_groups_first(order, groups)[:shots]
        orders[label] = order
    quotas = [_validation_size(len(order), fraction) for order in orders]
    validates = hold_out(labels, orders, quotas, groups)
    chosen = np.sort(np.concatenate(orders)) if orders else np.empty(0, np.int64)
    return Split(chosen[~validates[chosen]], chosen[validates[chosen]])


def _distinct_groups_first(order: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """Move images whose group came before to the end."""
    if groups is None:
        return order
    is_first = np.zeros(len(order), bool)
    is_first[np.unique(groups[order], return_index=True)[1]] = True
    return np.concatenate([order[is_first], order[~is_first]])


def _validation_size(count: int, fraction: float) -> int:
    """Return how many of `count` images validate: at least one of two or more, and never all."""
    if fraction == 0 or count < 2:
        return 0
    return min(max(1, round(count * fraction)), count - 1)


def _check_shots(
    shots: int, present: list[int], counts: np.ndarray, class_names: tuple[str, ...]
) -> None:
    smallest = min(present, key=lambda label: counts[label], default=None)
    if smallest is not None and counts[smallest] < shots:
        raise UsageError(
            f"--shots={shots} is more than class '{class_names[smallest]}' has: it has"
            f" {counts[smallest]} training images; take that many or fewer, or all"
        )


def class_weights(kind: str, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the loss weight of each class, (classes,) float32.

    Args:
        kind: "balanced": images / (classes * the class's images), so that each class has the same
            total weight; "sqrt": its square root, scaled to a mean of 1 over the images.
        labels: (examples,) integer class of each training image.
        classes: number of classes. A class without images has weight 1.
    """
    present = np.unique(labels)
    weights = np.ones(classes, np.float64)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    if kind == "sqrt":
        weights = np.sqrt(weights)
        weights /= weights[labels].mean()
    return weights.astype(np.float32)
