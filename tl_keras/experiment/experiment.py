"""The experiment: source, transfer, scratch, report. It is the entry point from Python.

>>> from tl_keras import Config, Training, run
>>> report = run(Config(source="mnist_5k", target="digits", shots=5, training=Training(steps=200)))
"""

import contextlib
import dataclasses
import logging
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tl_keras.config import Config
from tl_keras.data import pipeline
from tl_keras.distributed import cluster, distribution, joining
from tl_keras.errors import DataError
from tl_keras.experiment import data_files, target_classes
from tl_keras.experiment import source as source_module
from tl_keras.experiment.arm import list_arms, run_arm
from tl_keras.experiment.cleanup import release_models
from tl_keras.experiment.setup import ExperimentSetup, make_setup
from tl_keras.experiment.source import Sources, source_flag
from tl_keras.experiment.validate import check
from tl_keras.models import weights
from tl_keras.models.precision import Precision, choose
from tl_keras.report import looks, summary
from tl_keras.runtime import environment, keras_defaults
from tl_keras.storage import files, finished_runs
from tl_keras.storage.workdir import Workdir, scratch
from tl_keras.training.prediction import Predictor

LOG = logging.getLogger(__name__)

# Settings that may differ between the processes of a cluster.
MACHINE_SETTINGS = ("workdir", "data_dir", "debug")


class Report(NamedTuple):
    """The result of an experiment: the content of report.json, and the printed table.

    In a cluster, the first process has the table, and the others have ''.
    """

    record: dict[str, Any]
    text: str


def run(config: Config) -> Report:
    """Run an experiment, or continue it where an earlier call stopped.

    Raises:
        TransferError: see tl_keras.errors; finished runs are kept.
    """
    check(config)
    with open_workdir(config) as workdir:
        setup, sources = set_up(config, workdir)
        target_classes.log_training_images(setup)
        records = []
        for seed in config.seeds:
            source = sources.for_seed(seed)
            for arm, method in list_arms(config, source):
                folder = workdir.arm(arm, seed)
                with release_models():
                    records.append(run_arm(setup, folder, source, arm, method, seed))
        return _report(setup, workdir, sources, records)


@contextlib.contextmanager
def open_workdir(config: Config, apart_from: Collection[str] = ()) -> Iterator[Workdir]:
    """Join the cluster if there is one, and open the workdir, with Keras's default settings.

    In a cluster the first process owns the workdir. Each other process has a temporary copy.

    Args:
        config: all flags.
        apart_from: see `Workdir`.

    Raises:
        TransferError: see tl_keras.errors.
    """
    start_tensorflow(config)
    processes = joining.join(config.strategy, config.startup_timeout)
    with (
        keras_defaults.use_defaults(),
        processes.run_together(),
        pipeline.raise_read_errors(),
        contextlib.ExitStack() as stack,
    ):
        processes.check_flags(config.flat(), MACHINE_SETTINGS)
        if not processes.is_chief:
            config = dataclasses.replace(config, workdir=str(stack.enter_context(scratch())))
        workdir = stack.enter_context(Workdir(config, apart_from))
        processes.copy_files(workdir.root)
        yield workdir


def set_up(
    config: Config, workdir: Workdir, configs: Sequence[Config] = ()
) -> tuple[ExperimentSetup, Sources]:
    """Open the data and check that everything fits, before any training. Pretraining runs later.

    Args:
        config: the flags.
        workdir: workdir of the experiment.
        configs: the flags of each run, if they differ between runs; these are checked.

    Raises:
        TransferError: see tl_keras.errors.
    """
    LOG.info("workdir: %s", workdir.root)
    processes = cluster.current()
    strategy = distribution.make_strategy(config.strategy, config.replicas)
    file = source_module.open_weights_file(config)
    for one in configs or [config]:
        source_module.check_head(one, file)
    # A workdir keeps the precision it was created with, even on another machine.
    stored = workdir.precision(config)
    precision = Precision(*stored) if stored else choose(config.precision, config.model)
    precision = Precision(*processes.broadcast_from_chief(precision))
    LOG.info("precision: %s for training, %s for frozen layers: %s", *precision)
    origin = file.origin if file else None
    preprocessing = source_module.choose_preprocessing(config, file)
    setup = make_setup(config, strategy, origin, precision, workdir.root, preprocessing)
    source = source_module.load_source(setup, file)
    processes.check_same("the weights of the source", source and source.record["weights_sha256"])
    setup.check(source.weights if source else None, source_flag(config), configs or [config])
    sha256 = file.sha256 if file else ""
    workdir.claim(config, sha256, environment.describe(), precision)
    setup.seals.save()
    data_files.write(setup, workdir.root)
    return setup, Sources(setup, workdir.root, source)


def start_tensorflow(config: Config) -> None:
    """Configure TensorFlow for the process; repeated calls are allowed.

    Args:
        config: the flags. --deterministic enables TensorFlow's deterministic operations on GPUs. On
            processors all operations of the models are deterministic.

    Raises:
        UsageError: TensorFlow is already initialised with other devices, or Keras has another
            backend.
    """
    keras_defaults.check_backend()
    distribution.configure_devices(config.replicas)
    if config.deterministic and tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    # TensorFlow warns of retracing, which is expected: each run has its own model.
    tf.get_logger().setLevel("ERROR")


def measure_zero_shot(
    setup: ExperimentSetup, workdir: Workdir, sources: Sources, seed: int
) -> dict[str, float] | None:
    """Return the target accuracy of the source's model, or None if it lacks a class of the target.

    For a seed of an earlier call the stored result is returned; no source is trained for it.
    """
    config, target = setup.config, setup.target
    source = sources.for_seed(seed) if seed in config.seeds else None
    path = workdir.root / f"zero_shot{sources.suffix(seed)}.json"
    if source is None and path.is_file():
        with contextlib.suppress(DataError):
            return files.read_state(path)
    source_names = source.weights.origin.class_names if source and source.weights.origin else ()
    names = target.dataset.class_names
    if source is None or config.head == "new" or not set(names) <= set(source_names):
        return None
    if path.is_file():
        try:
            return files.read_state(path)
        except DataError as error:
            LOG.warning("%s. It is measured again", error)
    # All rows of the head are copied, because all classes match.
    model = setup.build(target.dataset, 0)
    weights.copy(source.weights, model, names, "match", source_flag(config))
    predictor = Predictor(model, setup.strategy)
    logits = predictor.predict(target.test.images, setup.image_size)
    result = {"accuracy": float(np.mean(logits.argmax(axis=1) == target.test.labels))}
    files.write_state(path, result)
    return result


def _report(
    setup: ExperimentSetup, workdir: Workdir, sources: Sources, records: list[dict[str, Any]]
) -> Report:
    collected = finished_runs.collect(workdir.root, records)
    runs, source_records = target_classes.add_balanced_accuracy(collected), []
    for record in runs:
        if record["arm"] == "transfer":
            seed = record["seed"]
            record["zero_shot"] = measure_zero_shot(setup, workdir, sources, seed)
            source_records += [one for one in [sources.record(seed)] if one]
    config = setup.config.flat()
    correct = collected.correct
    pairs = correct.get("transfer", {}).keys() & correct.get("scratch", {}).keys()
    test_labels = target_classes.get_test_labels(collected)
    counts = target_classes.count_images(setup, runs[0]["seed"], test_labels)
    target_classes.log_test_images(counts)
    report = {
        "config": config,
        **workdir.history,
        "source": source_records[0] if source_records and not sources.are_paired else None,
        "sources": source_records if sources.are_paired else [],
        "class_counts": counts,
        "runs": runs,
        "summary": summary.summarise(runs, correct, summary.describe_coverage(config)),
        "looks": looks.record(workdir.root, sorted(pairs)),
    }
    text = summary.format_table(report)
    files.write_json(workdir.root / "report.json", report)
    files.write_bytes(workdir.root / "report.txt", f"{text}\n".encode())
    return Report(report, text if cluster.current().is_chief else "")
