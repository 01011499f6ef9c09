"""The one rule by which a dataset without a test split is given one."""

import numpy as np

# Not a setting: every run, whatever its seeds, is tested on the same pictures.
SPLIT_SEED = 20240229
TEST_SHARE = 0.2


def choose_test(labels: np.ndarray, test_examples: int = 0) -> np.ndarray:
    """Choose the test examples, in each class as large a part as in the others.

    Every class keeps one example to train on, so that a class of one is never tested.

    Args:
        labels: (examples,) int64.
        test_examples: how many to choose; 0 for a fifth.

    Returns:
        (examples,) bool, true for the test; the same for the same labels, always.
    """
    test_examples = test_examples or max(1, round(len(labels) * TEST_SHARE))
    counts = np.bincount(labels)
    shares = counts * test_examples / max(len(labels), 1)
    quotas = np.floor(shares).astype(np.int64)
    # What rounding down left over goes to the classes that lost most by it.
    left = test_examples - quotas.sum()
    quotas[np.argsort(quotas - shares, kind="stable")[:left]] += 1
    quotas = np.minimum(quotas, np.maximum(counts - 1, 0))
    # RandomState: its numbers are promised to stay the same in every version of numpy.
    random = np.random.RandomState(SPLIT_SEED)
    mask = np.zeros(len(labels), bool)
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(labels == label)
        mask[random.permutation(members)[:quota]] = True
    return mask
