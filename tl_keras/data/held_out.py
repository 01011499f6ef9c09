"""The test split of datasets that have none, and how groups of pictures stay on one side."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

# A constant, so that every run is tested on the same images, whatever its seeds.
SPLIT_SEED = 20240229
TEST_SHARE = 0.2


def choose_test(
    labels: np.ndarray, test_examples: int = 0, groups: np.ndarray | None = None
) -> np.ndarray:
    """Choose a stratified test split.

    Every class keeps at least one training example.

    Args:
        labels: (examples,) int64.
        test_examples: number of test examples; 0 for a fifth.
        groups: (examples,) int64. Examples of a group are on one side, of one class or of several.
            The number of test examples is as near to that wanted as groups allow. Where all groups
            differ, the choice is the same as without.

    Returns:
        (examples,) bool, true for test examples. It depends on the labels and groups alone.
    """
    test_examples = test_examples or max(1, round(len(labels) * TEST_SHARE))
    counts = np.bincount(labels)
    shares = counts * test_examples / max(len(labels), 1)
    quotas = np.floor(shares).astype(np.int64)
    # Largest remainders: what rounding down leaves goes to the classes that lost most by it.
    left = test_examples - quotas.sum()
    quotas[np.argsort(quotas - shares, kind="stable")[:left]] += 1
    quotas = np.minimum(quotas, np.maximum(counts - 1, 0))
    # numpy guarantees that RandomState's numbers stay the same in every version.
    random = np.random.RandomState(SPLIT_SEED)
    orders = [random.permutation(np.flatnonzero(labels == label)) for label in range(len(quotas))]
    return hold_out(labels, orders, quotas.tolist(), groups)


def hold_out(
    labels: np.ndarray,
    orders: Sequence[np.ndarray],
    quotas: Sequence[int],
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Hold out the first examples of each class.

    With groups, examples are taken with all of their group: class by class, in the given order, and
    only those that bring the counts of all their classes nearer to the quotas. A class without any
    example held out then gives its smallest group. No class loses its last example.

    Args:
        labels: (examples,) int64.
        orders: for each class, indices of examples, (examples of the class,) int64. Examples that
            are in no order are neither held out nor counted.
        quotas: for each class, how many examples to hold out; fewer than it has, or 0.
        groups: (examples,) int64, or None.

    Returns:
        (examples,) bool.
    """
    mask = np.zeros(len(labels), bool)
    if groups is None:
        for order, quota in zip(orders, quotas, strict=True):
            mask[order[:quota]] = True
        return mask
    choice = _GroupChoice(labels, orders, quotas, groups)
    for label, order in enumerate(orders):
        choice.fill(label, groups[order].tolist())
    mask[np.concatenate([np.empty(0, np.int64), *orders])] = True
    return mask & np.isin(groups, list(choice.taken))


class _GroupChoice:
    """Groups that are held out, and how many examples of each class that makes."""

    def __init__(
        self,
        labels: np.ndarray,
        orders: Sequence[np.ndarray],
        quotas: Sequence[int],
        groups: np.ndarray,
    ):
        self.taken: set[int] = set()
        self._quotas = quotas
        self._totals = [len(order) for order in orders]
        self._held = [0] * len(orders)
        # By group: the number of its examples in each class.
        self._sizes: dict[int, Counter[int]] = {}
        for label, order in enumerate(orders):
            for group in groups[order].tolist():
                self._sizes.setdefault(group, Counter())[label] += 1

    def fill(self, label: int, candidates: list[int]) -> None:
        """Take groups for a class, in the order of the candidates, which may repeat."""
        for group in candidates:
            if self._held[label] >= self._quotas[label]:
                return
            if self._is_possible(group) and self._brings_nearer(group):
                self._take(group)
        if not self._held[label] and self._quotas[label]:
            possible = [group for group in candidates if self._is_possible(group)]
            if possible:
                self._take(min(possible, key=lambda group: self._sizes[group].total()))

    def _is_possible(self, group: int) -> bool:
        return group not in self.taken and all(
            self._held[label] + size < self._totals[label]
            for label, size in self._sizes[group].items()
        )

    def _brings_nearer(self, group: int) -> bool:
        missing = {label: self._quotas[label] - self._held[label] for label in self._sizes[group]}
        return (
            sum(
                abs(missing[label] - size) - abs(missing[label])
                for label, size in self._sizes[group].items()
            )
            < 0
        )

    def _take(self, group: int) -> None:
        self.taken.add(group)
        for label, size in self._sizes[group].items():
            self._held[label] += size
