"""The experiment: source, transfer, scratch, report. What the command line does, from Python too.

>>> from tl_keras import Config, Training, run
>>> report = run(Config(source="mnist_5k", target="digits", shots=5, training=Training(steps=200)))
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tl_keras import files, plan, runs
from tl_keras.checks import check, needs_head
from tl_keras.config import Config
from tl_keras.errors import DataError, UsageError
from tl_keras.methods import catalog as methods
from tl_keras.models import building, weights
from tl_keras.models.weights import Origin, Weights
from tl_keras.plan import Images, Plan
from tl_keras.report import summary
from tl_keras.training import distribution
from tl_keras.training.prediction import Predictor
from tl_keras.workdir import Workdir, read_json

LOG = logging.getLogger(__name__)

RESULT = "result.json"


class Report(NamedTuple):
    """What an experiment found: as report.json has it, and as the table that is printed."""

    record: dict[str, Any]
    text: str


class Source(NamedTuple):
    """The knowledge to transfer, and its part of report.json."""

    weights: Weights
    record: dict[str, Any]


def run(config: Config) -> Report:
    """Carry out an experiment, or continue it where an earlier call left it.

    Raises:
        TransferError: see tl_keras.errors; nothing that was finished is lost.
    """
    check(config)
    workdir = Workdir(config)
    settled, source = settle(config, workdir)
    records = []
    for seed in config.seeds:
        for arm, method in _arms(config, source):
            folder = workdir.arm(arm, seed)
            with runs.forgetting_models():
                records.append(carry_out(settled, folder, source, arm, method, seed))
    return _report(settled, workdir, source, records)


def settle(
    config: Config, workdir: Workdir, configs: Sequence[Config] = ()
) -> tuple[Plan, Source | None]:
    """Open the data, see that everything fits, and have the source's knowledge at hand.

    Args:
        config: the flags.
        workdir: of the experiment.
        configs: the flags of each run, where they differ from run to run: it is these that have to
            fit. Whether they do is known before anything trains.

    Raises:
        TransferError: see tl_keras.errors.
    """
    LOG.info("workdir: %s", workdir.root)
    start_tensorflow()
    strategy = distribution.make_strategy(config.strategy)
    given = _given_weights(config)
    for one in configs or [config]:
        _check_head(one, given)
    settled = plan.make(
        config, strategy, given.origin if given else None, workdir.root / "features"
    )
    source = _known(settled, given)
    settled.check(source.weights if source else None, _named(config), configs or [config])
    workdir.claim(config, weights.digest(given.tensors) if given else "")
    if source is None and settled.source and methods.find(config.method).copies_weights:
        with runs.forgetting_models():
            source = _pretrained(settled, settled.source, workdir.source)
    return settled, source


def start_tensorflow() -> None:
    """Settle what holds for the whole process; called once, or more often."""
    distribution.allow_memory_growth()
    # It warns of tracing anew, which is what happens where each run has a model of its own.
    tf.get_logger().setLevel("ERROR")


def _given_weights(config: Config) -> Weights | None:
    if not config.source_weights or not methods.find(config.method).copies_weights:
        return None
    flag = f"--source_weights={config.source_weights}"
    given = weights.load(Path(config.source_weights).expanduser(), flag)
    if given.origin is None:
        raise DataError(f"{flag} does not say what it was trained on; tl_keras did not write it")
    if given.origin.model != config.model:
        raise DataError(f"{flag} holds {given.origin.model}, not --model={config.model}")
    return given


def _check_head(config: Config, given: Weights | None) -> None:
    """Raise UsageError where a head has to go on that the weights in --source_weights lack."""
    headless = given is not None and given.origin is not None and not given.origin.class_names
    if headless and (wanting := needs_head(config)):
        raise UsageError(
            f"{wanting} goes on with the source's head, and {_named(config)} has none, as it was"
            " trained without labels: give weights that were trained with them, or choose another"
            " --method"
        )


def _arms(config: Config, source: Source | None) -> list[tuple[str, str]]:
    """Return (arm, method) of what is run for each seed."""
    transfer = [("transfer", config.method)] if source else []
    return transfer + ([("scratch", "scratch")] if config.baseline or not source else [])


def _known(settled: Plan, given: Weights | None) -> Source | None:
    """Return what is to be transferred where it is there before any training."""
    config = settled.config
    known = given
    if known is None and config.source == "imagenet":
        known = _imagenet(settled) if methods.find(config.method).copies_weights else None
    if known is None or known.origin is None:
        return None
    record = {
        "dataset": known.origin.dataset,
        "test": known.origin.test,
        "weights_sha256": weights.digest(known.tensors),
    }
    return Source(known, record)


def _imagenet(settled: Plan) -> Weights:
    config = settled.config
    model = building.build(
        config.model,
        1,
        image_size=settled.image_size,
        input_channels=3,
        body_channels=3,
        dense_units=config.dense_units,
        weights="imagenet",
    )
    tensors = weights.tensors_of(model)
    body = {name: value for name, value in tensors.items() if not name.startswith(weights.HEAD)}
    return Weights(body, Origin("imagenet", (), config.model, settled.image_size, 3))


def _pretrained(settled: Plan, images: Images, folder: Path) -> Source:
    """Train on the source, or take what an earlier call trained, and return the weights."""
    config = settled.config
    path = folder / "source.weights.h5"
    if (folder / RESULT).is_file():
        LOG.info("source: %s is trained already", config.source)
        return Source(weights.load(path), read_json(folder / RESULT))
    LOG.info("source: training %s on %s, %s", config.model, config.source, config.pretrain)
    setting = settled.setting(images, config.source_training, config.source_seed)
    prepared = methods.pretraining(config.pretrain)(setting)
    title = f"source {config.source}"
    if config.pretrain == "supervised":
        outcome = runs.carry_out(setting, prepared, images, folder, title)
        names = images.dataset.class_names
        found = {name: outcome.test[name] for name in ("accuracy", "loss")}
    else:
        outcome = runs.pretrain(setting, prepared, images, folder, title)
        names, found = (), outcome.test
    size, channels = settled.image_size, settled.body_channels
    origin = Origin(config.source, names, config.model, size, channels, found)
    weights.save(path, outcome.tensors, origin)
    record = {"dataset": config.source, **outcome.record(), "test": found}
    files.write_json(folder / RESULT, record)
    told = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in found.items())
    LOG.info("source: on its test images, %s", told)
    return Source(Weights(outcome.tensors, origin), record)


def carry_out(
    settled: Plan, folder: Path, source: Source | None, arm: str, method_name: str, seed: int
) -> dict[str, Any]:
    """Carry out one arm of one seed in `folder`, or read what an earlier call found there."""
    if (folder / RESULT).is_file():
        LOG.info("%s, seed %d: done already", arm, seed)
        return read_json(folder / RESULT)
    config, target = settled.config, settled.target
    method = methods.find(method_name)
    setting = settled.setting(target, config.training, seed, config.shots)
    if method.copies_weights and source is not None:
        setting = dataclasses.replace(setting, source_weights=source.weights)
        names = target.dataset.class_names
        # The MLP on features is fresh as a whole: no row of the source's head has a place in it.
        fresh_head = method_name == "features" and config.feature_head == "mlp"
        head = "new" if fresh_head else config.head
        account = weights.copy(source.weights, setting.model, names, head, _named(config))
        LOG.info("%s, seed %d: weights from %s\n%s", arm, seed, _named(config), account)
    if method.source_images and settled.source is not None:
        setting = dataclasses.replace(
            setting,
            source_train=settled.source.train,
            source_augment=plan.augmentation(settled.source, config.source_training),
        )
    LOG.info("%s, seed %d: %s with %d images", arm, seed, method_name, len(setting.split.train))
    outcome = runs.carry_out(
        setting, method.prepare(setting), target, folder, f"{arm}, seed {seed}"
    )
    record = {"arm": arm, "seed": seed, "zero_shot": None, **outcome.record()}
    files.write_json(folder / RESULT, record)
    LOG.info("%s, seed %d: test accuracy %.2f %%", arm, seed, 100 * outcome.test["accuracy"])
    return record


def _named(config: Config) -> str:
    if config.source_weights:
        return f"--source_weights={config.source_weights}"
    return f"--source={config.source}"


def zero_shot(settled: Plan, workdir: Workdir, source: Source | None) -> dict[str, float] | None:
    """Return what the source's model says of the target, where it knows all of its classes."""
    config, target = settled.config, settled.target
    known = source.weights.origin.class_names if source and source.weights.origin else ()
    names = target.dataset.class_names
    if source is None or config.head == "new" or not set(names) <= set(known):
        return None
    path = workdir.root / "zero_shot.json"
    if path.is_file():
        return read_json(path)
    model = settled.build(target.dataset, 0)
    weights.copy(source.weights, model, names, "match", _named(config))
    predictor = Predictor(model, settled.strategy)
    logits = predictor.predict(target.test.images, settled.image_size).logits
    found = {"accuracy": float(np.mean(logits.argmax(axis=1) == target.test.labels))}
    files.write_json(path, found)
    return found


def _report(
    settled: Plan, workdir: Workdir, source: Source | None, records: list[dict[str, Any]]
) -> Report:
    before = zero_shot(settled, workdir, source)
    for record in records:
        if record["arm"] == "transfer":
            record["zero_shot"] = before
    report = {
        "config": settled.config.flat(),
        "source": source.record if source else None,
        "runs": records,
        "summary": summary.summarise(records),
    }
    text = summary.table(report)
    files.write_json(workdir.root / "report.json", report)
    files.write_bytes(workdir.root / "report.txt", f"{text}\n".encode())
    return Report(report, text)
