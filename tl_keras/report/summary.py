"""The results of an experiment: the summary in report.json, and the table in report.txt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tl_keras.config import PAIRED
from tl_keras.config.shots import ALL
from tl_keras.report import class_counts
from tl_keras.report.conclusion import conclude
from tl_keras.report.metrics import paired_gain, spread, standard_error, verdict
from tl_keras.storage.finished_runs import ARMS

SEEDS_PER_LINE = 8


def summarise(
    runs: Sequence[Mapping[str, Any]],
    correct: Mapping[str, Mapping[int, np.ndarray]],
    covers: str = "",
) -> dict[str, Any]:
    """Return the `summary` of report.json.

    Args:
        runs: one per seed and arm, with at least {"arm": "transfer" or "scratch", "seed": int,
            "test": {"accuracy": 0 to 1}}.
        correct: arm -> seed -> (images,) bool, whether the run classifies each test image
            correctly.
        covers: from `describe_coverage`.

    Returns:
        {"transfer": {"mean", "std", "n", "se_images"}, "scratch": the same, "gain": as
        `metrics.paired_gain` returns it, "verdict": str, "covers": str}, accuracies from 0 to 1;
        None for unknown values. "std" is over seeds. "se_images" is the standard error due to the
        number of test images.
    """
    spreads = {
        arm: {**spread(accuracies.values())._asdict(), "se_images": standard_error(correct[arm])}
        if (accuracies := _accuracies(runs, arm))
        else None
        for arm in ARMS
    }
    gain = paired_gain(correct.get("transfer", {}), correct.get("scratch", {}))
    result = verdict(gain) if gain else None
    return {**spreads, "gain": gain, "verdict": result, "covers": covers}


def describe_coverage(config: Mapping[str, Any]) -> str:
    """Return the source that a verdict covers, to continue "over 3 seeds and 797 test images".

    Args:
        config: settings by flag name. If "source_seed" is "paired", each seed has its own
            pretraining. Otherwise all seeds share one source, and the interval does not cover other
            sources.
    """
    if config.get("source_weights"):
        return "of this one weights file"
    if config["source"] == "imagenet":
        return "of ImageNet's weights"
    if config.get("source_seed") == PAIRED:
        return "with one pretraining for each seed"
    return "of this one pretrained source"


def format_table(report: Mapping[str, Any]) -> str:
    """Return the text of report.txt, which is also printed.

    Args:
        report: report.json as a dict, with "config" (settings by flag name), "changes" (those that
            differed in earlier calls, in words), "source" ({"dataset", "test"} or None) or
            "sources" (a list of those, one for each seed), "runs" (see `summarise`, with "steps",
            "seconds", "images_per_second", "zero_shot" and "converged" (bool or None) too),
            "summary", "looks" (lists of seeds that the comparison was read with), and
            "class_counts" (see `class_counts`). "changes", "sources", "converged", "looks" and
            "class_counts" may be left out. With uneven classes in the test split, see
            `class_counts.is_uneven`, each "test" has its "balanced_accuracy".

    Returns:
        Lines of up to 100 characters, unless a name is long. Accuracies are in %, gains in points.
    """
    counts = report.get("class_counts", {})
    parts = [
        _format_task(report) + (class_counts.format_counts(counts) if counts else []),
        _format_source(report),
        _format_arms(report["runs"], report["summary"], class_counts.is_uneven(counts)),
        _format_seed_table(report["runs"]),
        conclude(report["runs"], report["summary"], report.get("looks", ())),
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _accuracies(runs: Iterable[Mapping[str, Any]], arm: str) -> dict[int, float]:
    return {run["seed"]: run["test"]["accuracy"] for run in runs if run["arm"] == arm}


def describe_source(report: Mapping[str, Any]) -> str:
    """Return the source and how it was pretrained; `report` is as in `format_table`."""
    config, records = report["config"], _sources(report)
    source = (records[0]["dataset"] if records else "") or config["source"]
    if config.get("source_weights"):
        source += f" ({config['source_weights']})"
    elif config.get("pretrain", "supervised") != "supervised":
        source += f" ({config['pretrain']}, without labels)"
    return source


def _format_task(report: Mapping[str, Any]) -> list[str]:
    config = report["config"]
    has_transfer = any(run["arm"] == "transfer" for run in report["runs"])
    shots = config["shots"]
    how = [
        f"{config['method']} of {config['model']}" if has_transfer else config["model"],
        f"{_format_count(shots, 'labelled image')} a class"
        if shots != ALL
        else "all labelled images",
        _format_seeds(sorted({run["seed"] for run in report["runs"]})),
    ]
    target = config["target"]
    title = f"{describe_source(report)} -> {target}" if has_transfer else target
    changes = [f"changed on the way: {text}" for text in report.get("changes", ())]
    return [title, ", ".join(how), *changes]


def _format_seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > SEEDS_PER_LINE:
        return f"{len(seeds)} seeds from {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _sources(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of the sources: one shared by all seeds, or one for each seed."""
    shared = [report["source"]] if report.get("source") else []
    return list(report.get("sources") or shared)


def _format_source(report: Mapping[str, Any]) -> list[str]:
    """Return the lines on the source's test accuracy and the zero-shot accuracy."""
    lines = []
    tested = [source for source in _sources(report) if source.get("test")]
    if tested:
        found = _format_source_test([source["test"] for source in tested])
        lines.append(f"source      {found} on the test images of {tested[0]['dataset']}")
    zero_shot = [run["zero_shot"]["accuracy"] for run in report["runs"] if run.get("zero_shot")]
    if zero_shot:
        target = report["config"]["target"]
        # A source shared by all seeds has one value and no deviation.
        apart = bool(report.get("sources"))
        found = _format_mean(zero_shot if apart else zero_shot[:1])
        lines.append(
            f"zero-shot   {found}  on the test images of {target}, before any training on its own"
        )
    return lines


def _format_source_test(tests: Sequence[Mapping[str, float]]) -> str:
    """Return the test metric of the sources, pretrained with labels or without."""
    if "accuracy" in tests[0]:
        return f"{_format_mean([test['accuracy'] for test in tests])} "
    if "contrastive_accuracy" in tests[0]:
        found = _format_mean([test["contrastive_accuracy"] for test in tests])
        return f"{found}  contrastive accuracy"
    mean, std, _ = spread(test["mean_squared_error"] for test in tests)
    deviation = "" if std is None else f" ± {std:.4f}"
    return f"{mean:8.4f}{deviation}  mean squared error"


def _format_mean(accuracies: Sequence[float]) -> str:
    """Return the mean in %, with the standard deviation of several values."""
    mean, std, _ = spread(accuracies)
    return _format_percent(mean) + ("" if std is None else f" ± {100 * std:.2f}") + " %"


def _format_arms(
    runs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any], is_uneven: bool
) -> list[str]:
    """Return the table of the arms, with the balanced accuracy of uneven classes, and the gain."""
    heading = ["test", "accuracy", "std (seeds)", "se (images)"]
    heading += ["balanced"] if is_uneven else []
    rows = [[*heading, "converged", "steps", "time a run", "images/s"]]
    for arm in ARMS:
        if summary[arm]:
            mean, std = summary[arm]["mean"], summary[arm]["std"]
            own = [run for run in runs if run["arm"] == arm]
            cells = [
                arm,
                f"{_format_percent(mean)} %",
                "-" if std is None else f"{100 * std:.2f}",
                f"{100 * summary[arm]['se_images']:.2f}",
            ]
            if is_uneven:
                balanced = spread(run["test"]["balanced_accuracy"] for run in own)
                cells.append(f"{_format_percent(balanced.mean)} %")
            cells += [
                _format_converged([run.get("converged") for run in own]),
                _format_steps([run["steps"] for run in own]),
                _format_duration(float(np.mean([run["seconds"] for run in own]))),
                _format_rate([run["images_per_second"] for run in own]),
            ]
            rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        # With one more column, narrower gaps keep the lines within 100 characters.
        gap = "  " if is_uneven else "   "
        lines.append(f"{name:9}   {gap.join(right)}")
    return lines + _format_gain(summary["gain"])


def _format_converged(result: Sequence[bool | None]) -> str:
    """Return how many of the known runs converged."""
    known = [one for one in result if one is not None]
    if not known:
        return "-"
    if len(set(known)) == 1:
        return "yes" if known[0] else "no"
    return f"{sum(known)} of {len(known)}"


def _format_gain(gain: Mapping[str, Any] | None) -> list[str]:
    """Return the gain with its interval, and a line with the parts of the margin."""
    if not gain:
        return []
    line = f"{'gain':9}   {100 * gain['mean']:+6.2f}  points"
    if gain["ci95"]:
        low, high = (100 * bound for bound in gain["ci95"])
        line += f"; 95 % interval {low:+.2f} to {high:+.2f}"
    sizes = (
        f"{_format_count(gain['seeds'], 'seed')} and {_format_count(gain['images'], 'test image')}"
    )
    parts = [_format_margin(gain[f"margin_{name}"], name) for name in ("seeds", "images")]
    return [f"{line} ({sizes})", f"{'':11} {', '.join(parts)}"]


def _format_margin(margin: float | None, name: str) -> str:
    return f"± unknown by {name}" if margin is None else f"±{100 * margin:.2f} by {name}"


def _format_seed_table(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the accuracies of each seed, or nothing for a single seed."""
    by_arm = {arm: _accuracies(runs, arm) for arm in ARMS}
    seeds = sorted(by_arm["transfer"].keys() | by_arm["scratch"].keys())
    if len(seeds) < 2:
        return []
    cells: dict[str, dict[int, str]] = {"seed": {seed: str(seed) for seed in seeds}}
    for arm, by_seed in by_arm.items():
        if by_seed:
            cells[arm] = {
                seed: _format_percent(accuracy).strip() for seed, accuracy in by_seed.items()
            }
    pairs = _pairs(runs)
    if pairs:
        cells["gain"] = {
            seed: f"{100 * (by_arm['transfer'][seed] - by_arm['scratch'][seed]):+.2f}"
            for seed in pairs
        }
    width = max(7, *(len(str(seed)) for seed in seeds)) + 1
    lines = []
    for start in range(0, len(seeds), SEEDS_PER_LINE):
        block = seeds[start : start + SEEDS_PER_LINE]
        lines += [""] if start else []
        lines += [
            f"{name:9} " + "".join(row.get(seed, "-").rjust(width) for seed in block)
            for name, row in cells.items()
        ]
    return lines


def _pairs(runs: Sequence[Mapping[str, Any]]) -> list[int]:
    transfer, scratch = (_accuracies(runs, arm) for arm in ARMS)
    return sorted(transfer.keys() & scratch.keys())


def _format_percent(accuracy: float) -> str:
    return f"{100 * accuracy:6.2f}"


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _format_steps(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    return f"{low}" if low == high else f"{low}-{high}"


def _format_duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _format_rate(rates: Sequence[float | None]) -> str:
    """Return the mean rate. A run without steps has no rate."""
    known = [rate for rate in rates if rate]
    return f"{np.mean(known):,.0f}" if known else "-"
