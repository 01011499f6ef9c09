"""The classes of the target: their images in each split, and the balanced accuracy of the runs."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from tl_keras.experiment.setup import ExperimentSetup
from tl_keras.report import class_counts, metrics
from tl_keras.runtime import seeds
from tl_keras.storage.finished_runs import FinishedRuns
from tl_keras.storage.predictions import Predictions

LOG = logging.getLogger(__name__)


def count_images(
    setup: ExperimentSetup, seed: int, test_labels: np.ndarray
) -> dict[str, dict[str, int]]:
    """Count the images of each class in the split of a seed.

    Args:
        setup: setup of the experiment. Its flags determine the split.
        seed: seed of the split.
        test_labels: (images,) int. Stored labels will do, so that finished runs read no test image.

    Returns:
        {class name: {"train": int, "validation": int, "test": int}}.
    """
    config, labels = setup.config, setup.target.train.labels
    split = setup.split(seeds.TARGET, config.training, seed, config.shots)
    by_split = {
        "train": labels[split.train],
        "validation": labels[split.validation],
        "test": test_labels,
    }
    return class_counts.count(by_split, setup.target.dataset.class_names)


def log_training_images(setup: ExperimentSetup) -> None:
    """Log the training and validation images of each class, before any training."""
    seed = min(setup.config.seeds)
    counts = count_images(setup, seed, np.empty(0, np.int64))
    for split in ("train", "validation"):
        found = class_counts.format_split(counts, split)
        LOG.info("images of a class, %s, seed %d: %s", split, seed, found)


def log_test_images(counts: class_counts.Counts) -> None:
    """Log the test images of each class, which are known after the first run."""
    LOG.info("images of a class, test: %s", class_counts.format_split(counts, "test"))


def get_test_labels(runs: FinishedRuns) -> np.ndarray:
    """Return (images,) int64, the test labels that all `runs`, at least one, share."""
    by_seed = next(iter(runs.predictions.values()))
    return next(iter(by_seed.values())).labels


def add_balanced_accuracy(runs: FinishedRuns) -> list[dict[str, Any]]:
    """Return the records of `runs` with "balanced_accuracy" beside the "accuracy" of the test.

    It is computed from the stored predictions, also for runs of earlier versions.
    """
    return [
        {**record, "test": _add(record["test"], runs.predictions[record["arm"]][record["seed"]])}
        for record in runs.records
    ]


def _add(test: Mapping[str, Any], found: Predictions) -> dict[str, Any]:
    others = {name: value for name, value in test.items() if name != "accuracy"}
    balanced = metrics.balanced_accuracy(found.labels, found.predicted)
    return {"accuracy": test["accuracy"], "balanced_accuracy": balanced, **others}
