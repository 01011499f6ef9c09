"""The comparison of methods: many experiments on one source, in one process.

    WORKDIR/source/ (or source-SEED/)  features/  METHOD/LABELS/transfer-SEED/
            scratch/LABELS/scratch-SEED/  comparison.json  comparison.md  comparison.png

Data are read once, the source is trained once, features are computed once for all methods, and
scratch runs once for each number of labels and seed. Finished runs are not repeated.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_keras.config import Config
from tl_keras.config.comparison import ComparedMethod, ComparisonConfig
from tl_keras.config.shots import format_shots, parse_shots
from tl_keras.config.terms import Term
from tl_keras.distributed import cluster
from tl_keras.experiment import experiment, target_classes
from tl_keras.experiment.arm import run_arm
from tl_keras.experiment.cleanup import release_models
from tl_keras.experiment.setup import ExperimentSetup
from tl_keras.experiment.source import Sources
from tl_keras.methods import catalog as methods
from tl_keras.report import class_counts, curves, summary
from tl_keras.storage import files, finished_runs
from tl_keras.storage.workdir import (
    Workdir,
    digest,
    refuse_other_settings,
    safe_name,
    write_settings,
)

LOG = logging.getLogger(__name__)

# Settings that may change in a workdir: the common method is one of those that are compared, and
# more methods can be added later.
VARYING_SETTINGS = ("method",)


def run(comparison_config: ComparisonConfig) -> str:
    """Run or continue a comparison, and return its tables.

    Raises:
        TransferError: see tl_keras.errors; finished runs are kept.
    """
    common = comparison_config.common
    if not common.workdir:
        common = dataclasses.replace(common, workdir=str(Path("runs") / _default_name(common)))
    with experiment.open_workdir(common, apart_from=VARYING_SETTINGS) as workdir:
        for name, reason in comparison_config.left_out.items():
            LOG.info("left out: %s, because %s", name, reason)
        cells = _list_cells(comparison_config, common, workdir.root)
        asked = [(name, config.flat()) for _, name, config in cells]
        cluster.current().check_same("--methods or --shots", asked)
        for folder, _, config in cells:
            refuse_other_settings(folder / "config.json", config)
        configs = [config for _, _, config in cells]
        setup, sources = experiment.set_up(common, workdir, configs)
        shown = dataclasses.replace(common, shots=_choose_shown(comparison_config.shots))
        target_classes.log_training_images(dataclasses.replace(setup, config=shown))
        records: list[dict[str, Any]] = []
        correct: dict[str, dict[int | None, dict[int, np.ndarray]]] = {}
        for folder, name, config in cells:
            write_settings(folder / "config.json", config)
            cell_setup = dataclasses.replace(setup, config=config)
            runs = [_run(cell_setup, folder, sources, name, seed) for seed in common.seeds]
            cell = finished_runs.collect(folder, runs)
            about = {"method": name, "shots": config.flat()["shots"]}
            cell_records = target_classes.add_balanced_accuracy(cell)
            records += [{**record, **about} for record in cell_records]
            correct.setdefault(name, {})[config.shots] = cell.correct[_choose_arm(name)]
            test_labels = target_classes.get_test_labels(cell)
        counts = _count_images(setup, comparison_config.shots, records, test_labels)
        return _report(setup, workdir, sources, comparison_config, records, correct, counts)


def _default_name(common: Config) -> str:
    name = safe_name(f"compare_{common.source}_to_{common.target}")
    settings = {
        flag: value for flag, value in common.experiment().items() if flag not in VARYING_SETTINGS
    }
    return f"{name}-{digest(settings)}"


def _list_cells(
    comparison_config: ComparisonConfig, common: Config, root: Path
) -> list[tuple[Path, str, Config]]:
    """Return (folder, name, settings) of each cell of the table, scratch first."""
    scratch = ComparedMethod(
        curves.SCRATCH, dataclasses.replace(common, method=Term(curves.SCRATCH))
    )
    return [
        (
            root / one.name / format_shots(shots),
            one.name,
            dataclasses.replace(one.config, shots=shots, seeds=common.seeds, workdir=""),
        )
        for shots in comparison_config.shots
        for one in (scratch, *comparison_config.compared_methods)
    ]


def _choose_arm(name: str) -> str:
    return "scratch" if name == curves.SCRATCH else "transfer"


def _run(
    setup: ExperimentSetup, folder: Path, sources: Sources, name: str, seed: int
) -> dict[str, Any]:
    arm, source = _choose_arm(name), sources.for_seed(seed)
    with release_models():
        return run_arm(setup, folder / f"{arm}-{seed}", source, arm, setup.config.method.name, seed)


def _list_unpaired_penalties(comparison_config: ComparisonConfig) -> list[str]:
    """Return the methods with a penalty that needs no source and that scratch does not have."""
    of_scratch = methods.get_penalties(
        dataclasses.replace(comparison_config.common, method=Term(curves.SCRATCH))
    )
    return [
        one.name
        for one in comparison_config.compared_methods
        for name in methods.get_penalties(one.config)
        if not methods.PENALTIES[name].needs_source and name not in of_scratch
    ]


def _list_unconverged(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return which runs had not converged: how many of each line and column."""
    cells: dict[str, list[bool]] = {}
    for record in records:
        cell = f"{record['method']} at {record['shots']}"
        cells.setdefault(cell, []).append(record["converged"])
    return [
        f"{cell} ({found.count(False)} of {len(found)})"
        for cell, found in cells.items()
        if not all(found)
    ]


def _choose_shown(shots: Sequence[int | None]) -> int | None:
    """Return the largest number of labels per class, whose class counts are logged and shown."""
    return None if None in shots else max(number for number in shots if number is not None)


def _count_images(
    setup: ExperimentSetup,
    shots: Sequence[int | None],
    records: Sequence[Mapping[str, Any]],
    test_labels: np.ndarray,
) -> dict[int | None, dict[str, dict[str, int]]]:
    """Return the images of each class by number of labels, in the split of the first seed."""
    seed = min(record["seed"] for record in records)
    found = {}
    for number in shots:
        config = dataclasses.replace(setup.config, shots=number)
        one = dataclasses.replace(setup, config=config)
        found[number] = target_classes.count_images(one, seed, test_labels)
    target_classes.log_test_images(found[shots[0]])
    return found


def _group_balanced(records: Sequence[Mapping[str, Any]]) -> curves.Balanced:
    """Return the balanced accuracies by method, labels per class and seed."""
    found: dict[str, dict[int | None, dict[int, float]]] = {}
    for record in records:
        by_shots = found.setdefault(record["method"], {})
        by_seed = by_shots.setdefault(parse_shots(str(record["shots"])), {})
        by_seed[record["seed"]] = record["test"]["balanced_accuracy"]
    return found


def _format_notes(comparison_config: ComparisonConfig, records: Sequence[Mapping[str, Any]]) -> str:
    """Return the paragraphs on what limits the comparison."""
    notes = [
        f"Left out: {name}, because {reason}."
        for name, reason in comparison_config.left_out.items()
    ]
    if unfinished := _list_unconverged(records):
        notes.append(f"Not converged: {', '.join(unfinished)}.")
    if alone := _list_unpaired_penalties(comparison_config):
        notes.append(f"Scratch has no penalty: {', '.join(alone)} regularise their own line alone.")
    return "".join(f"\n{note}\n" for note in notes)


def _report(
    setup: ExperimentSetup,
    workdir: Workdir,
    sources: Sources,
    comparison_config: ComparisonConfig,
    records: list[dict[str, Any]],
    correct: curves.Correct,
    counts: Mapping[int | None, class_counts.Counts],
) -> str:
    common, shots = setup.config, comparison_config.shots
    source_records, zero_shots = [], []
    for seed in sorted({record["seed"] for record in records}):
        record = sources.record(seed)
        zero_shot = experiment.measure_zero_shot(setup, workdir, sources, seed)
        source_records += [record] if record else []
        zero_shots += [zero_shot["accuracy"]] if zero_shot else []
    accuracy = float(np.mean(zero_shots)) if zero_shots else None
    report = {
        "config": common.flat(),
        **workdir.history,
        "methods": {one.name: one.config.flat() for one in comparison_config.compared_methods},
        "left_out": comparison_config.left_out,
        "source": source_records[0] if source_records and not sources.are_paired else None,
        "sources": source_records if sources.are_paired else [],
        "zero_shot": None if accuracy is None else {"accuracy": accuracy},
        "class_counts": {format_shots(number): found for number, found in counts.items()},
        "runs": records,
    }
    title = f"{summary.describe_source(report)} -> {common.target}, {common.model}"
    # Bytes of a path that are not UTF-8 become surrogates, which no font can draw.
    title = title.encode(errors="backslashreplace").decode()
    labels = setup.target.train.labels
    shown = _choose_shown(shots)
    balanced = _group_balanced(records) if class_counts.is_uneven(counts[shown]) else None
    text = curves.format_markdown(title, correct, shots, accuracy, balanced)
    text += f"\n{curves.format_classes(counts[shown], shown)}"
    text += _format_notes(comparison_config, records)
    picture = curves.plot(
        title, correct, shots, float(np.mean(np.bincount(labels)[np.unique(labels)])), accuracy
    )
    files.write_json(workdir.root / "comparison.json", report)
    files.write_bytes(workdir.root / "comparison.md", text.encode())
    files.write_bytes(workdir.root / "comparison.png", picture)
    if not cluster.current().is_chief:
        return ""
    return f"{text}\nIn {workdir.root}: comparison.md, comparison.png, comparison.json"
