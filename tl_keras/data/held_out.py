"""The test split of datasets that have none."""

import numpy as np

# A constant, so that every run is tested on the same images, whatever its seeds.
SPLIT_SEED = 20240229
TEST_SHARE = 0.2


def choose_test(labels: np.ndarray, test_examples: int = 0) -> np.ndarray:
    """Choose a stratified test split.

    Every class keeps at least one training example.

    Args:
        labels: (examples,) int64.
        test_examples: number of test examples; 0 for a fifth.

    Returns:
        (examples,) bool, true for test examples. It depends on the labels alone.
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
    mask = np.zeros(len(labels), bool)
    for label, quota in enumerate(quotas):
        members = np.flatnonzero(labels == label)
        mask[random.permutation(members)[:quota]] = True
    return mask
