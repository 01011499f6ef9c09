"""One arm of one seed: transfer, or training from scratch."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from tl_keras.config import Config
from tl_keras.experiment import train_and_test
from tl_keras.experiment.automatic import choose_augmentation
from tl_keras.experiment.setup import ExperimentSetup
from tl_keras.experiment.source import Source, source_flag
from tl_keras.methods import catalog as methods
from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.rows import Method
from tl_keras.models import norms, weights
from tl_keras.runtime import seeds
from tl_keras.storage import finished_runs, results

LOG = logging.getLogger(__name__)


def list_arms(config: Config, source: Source | None) -> list[tuple[str, str]]:
    """Return the (arm, method) pairs that each seed runs."""
    transfer = [("transfer", config.method.name)] if source else []
    return transfer + ([("scratch", "scratch")] if config.baseline or not source else [])


def run_arm(
    setup: ExperimentSetup,
    folder: Path,
    source: Source | None,
    arm: str,
    method_name: str,
    seed: int,
) -> dict[str, Any]:
    """Train and test one arm of one seed in `folder`, or read the result of an earlier call.

    Args:
        setup: setup of the experiment.
        folder: folder of this run.
        source: the weights to transfer; None without a source.
        arm: "transfer" or "scratch".
        method_name: name of the method's row.
        seed: seed of the run.

    Returns:
        The run's part of report.json.
    """
    title = f"{arm}, seed {seed}"
    if (finished := finished_runs.read(folder)) is not None:
        LOG.info("%s: already finished", title)
        return finished
    method, target = methods.METHODS[method_name], setup.target
    run = _prepare_inputs(setup, source, arm, method, seed)
    LOG.info("%s: %s with %d images", title, method_name, len(run.split.train))
    outcome = train_and_test.train_and_test(
        run, method.prepare(run), target, folder, title, setup.origin(target)
    )
    record = {"arm": arm, "seed": seed, "zero_shot": None, **outcome.record()}
    results.write(folder, record)
    LOG.info("%s: test accuracy %.2f %%", title, 100 * outcome.test["accuracy"])
    return record


def _prepare_inputs(
    setup: ExperimentSetup, source: Source | None, arm: str, method: Method, seed: int
) -> MethodInputs:
    """Return the inputs of the method: the model, with the source's weights if it copies them."""
    config = setup.config
    training = config.scratch if arm == "scratch" else config.training
    source = source if method.copies_weights else None
    run = setup.method_inputs(
        seeds.TARGET, training, seed, config.shots, has_weights=source is not None
    )
    if source is not None:
        run = dataclasses.replace(run, source_weights=source.weights)
        names, flag = setup.target.dataset.class_names, source_flag(config)
        head = "new" if method.head_is_fresh(config) else config.head
        copied = weights.copy(source.weights, run.model, names, head, flag)
        LOG.info("%s, seed %d: weights from %s\n%s", arm, seed, flag, copied)
        if run.training.batch_norm == "frozen":
            norms.freeze_statistics(run.model)
    if "source" in method.streams and setup.source is not None:
        run = dataclasses.replace(
            run,
            source_train=setup.source.train,
            source_augmentation=choose_augmentation(setup.source.dataset, config.source_training),
        )
    return run
