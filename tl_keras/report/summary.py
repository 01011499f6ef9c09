"""What an experiment found: the summary in report.json, and the table in report.txt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tl_keras.report.metrics import paired_gain, spread, verdict

ARMS = ("transfer", "scratch")
SEEDS_A_LINE = 8


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the `summary` of report.json.

    Args:
        runs: one a seed and arm, with at least {"arm": "transfer" or "scratch", "seed": int,
            "test": {"accuracy": 0 to 1}}.

    Returns:
        {"transfer": {"mean", "std", "n"}, "scratch": the same, "gain": {"mean", "ci95"},
        "verdict": str}, accuracies from 0 to 1; None for what the runs do not tell.
    """
    accuracies = {arm: _accuracies(runs, arm) for arm in ARMS}
    gain = paired_gain(accuracies["transfer"], accuracies["scratch"])
    spreads = {
        arm: spread(by_seed.values())._asdict() if by_seed else None
        for arm, by_seed in accuracies.items()
    }
    return {**spreads, "gain": gain, "verdict": verdict(gain) if gain else None}


def table(report: Mapping[str, Any]) -> str:
    """Return the text that is printed at the end and written to report.txt.

    Args:
        report: report.json as a dict, with "config" (settings by flag name), "changes" (those that
            differed in earlier calls, in words; may be left out), "source" ({"dataset",
            "test"} or None), "runs" (see `summarise`, with "steps", "seconds",
            "images_per_second" and "zero_shot" too) and "summary".

    Returns:
        Lines of up to 100 characters where no name is long; accuracies in %, gains in points.
    """
    parts = [
        _task(report),
        _before_training(report),
        _arms(report["runs"], report["summary"]),
        _seeds(report["runs"]),
        [_conclusion(report["runs"], report["summary"])],
    ]
    return "\n\n".join("\n".join(lines) for lines in parts if lines)


def _accuracies(runs: Iterable[Mapping[str, Any]], arm: str) -> dict[int, float]:
    return {run["seed"]: run["test"]["accuracy"] for run in runs if run["arm"] == arm}


def source_name(report: Mapping[str, Any]) -> str:
    """Return what was learned from, and how; `report` has the "config" and "source" of `table`."""
    config = report["config"]
    source = (report.get("source") or {}).get("dataset") or config["source"]
    if config.get("source_weights"):
        source += f" ({config['source_weights']})"
    elif config.get("pretrain", "supervised") != "supervised":
        source += f" ({config['pretrain']}, without labels)"
    return source


def _task(report: Mapping[str, Any]) -> list[str]:
    config = report["config"]
    has_transfer = any(run["arm"] == "transfer" for run in report["runs"])
    shots = config["shots"]
    how = [
        f"{config['method']} of {config['model']}" if has_transfer else config["model"],
        f"{_count(shots, 'labelled image')} a class" if shots else "all labelled images",
        _seed_list(sorted({run["seed"] for run in report["runs"]})),
    ]
    target = config["target"]
    title = f"{source_name(report)} -> {target}" if has_transfer else target
    changes = [f"changed on the way: {text}" for text in report.get("changes", ())]
    return [title, ", ".join(how), *changes]


def _seed_list(seeds: Sequence[int]) -> str:
    if len(seeds) > SEEDS_A_LINE:
        return f"{len(seeds)} seeds from {seeds[0]} to {seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _before_training(report: Mapping[str, Any]) -> list[str]:
    """Return the lines on what the source knew before it saw the target's labels."""
    lines = []
    source = report.get("source")
    if source and source.get("test"):
        found, name = _source_figure(source["test"]), source["dataset"]
        lines.append(f"source      {found} on the test images of {name}")
    zero_shot = [run["zero_shot"]["accuracy"] for run in report["runs"] if run.get("zero_shot")]
    if zero_shot:
        target = report["config"]["target"]
        mean = _percent(float(np.mean(zero_shot)))
        lines.append(
            f"zero-shot   {mean} %  on the test images of {target}, before any training on its own"
        )
    return lines


def _source_figure(test: Mapping[str, float]) -> str:
    """Return what tells how well the source was learned: with its labels, or without."""
    if "accuracy" in test:
        return f"{_percent(test['accuracy'])} % "
    if "contrastive_accuracy" in test:
        return f"{_percent(test['contrastive_accuracy'])} %  contrastive accuracy"
    return f"{test['mean_squared_error']:8.4f}  mean squared error"


def _arms(runs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> list[str]:
    rows = [("test", "accuracy", "std", "steps", "time a run", "images/s")]
    for arm in ARMS:
        if summary[arm]:
            mean, std = summary[arm]["mean"], summary[arm]["std"]
            own = [run for run in runs if run["arm"] == arm]
            rows.append(
                (
                    arm,
                    f"{_percent(mean)} %",
                    "-" if std is None else f"{100 * std:.2f}",
                    _steps([run["steps"] for run in own]),
                    _duration(float(np.mean([run["seconds"] for run in own]))),
                    _rate([run["images_per_second"] for run in own]),
                )
            )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append("   ".join([f"{name:9}", *right]))
    return lines + _gain_line(runs, summary["gain"])


def _gain_line(runs: Sequence[Mapping[str, Any]], gain: Mapping[str, Any] | None) -> list[str]:
    if not gain:
        return []
    line = f"{'gain':9}   {100 * gain['mean']:+6.2f}  points"
    if gain["ci95"]:
        low, high = (100 * bound for bound in gain["ci95"])
        pairs = len(_pairs(runs))
        line += f"; 95 % interval {low:+.2f} to {high:+.2f} (Student's t, {pairs} pairs of runs)"
    return [line]


def _seeds(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the accuracies seed by seed, as many to a line as fit; nothing for a single seed."""
    by_arm = {arm: _accuracies(runs, arm) for arm in ARMS}
    seeds = sorted(by_arm["transfer"].keys() | by_arm["scratch"].keys())
    if len(seeds) < 2:
        return []
    cells: dict[str, dict[int, str]] = {"seed": {seed: str(seed) for seed in seeds}}
    for arm, by_seed in by_arm.items():
        if by_seed:
            cells[arm] = {seed: _percent(accuracy).strip() for seed, accuracy in by_seed.items()}
    pairs = _pairs(runs)
    if pairs:
        cells["gain"] = {
            seed: f"{100 * (by_arm['transfer'][seed] - by_arm['scratch'][seed]):+.2f}"
            for seed in pairs
        }
    width = max(7, *(len(str(seed)) for seed in seeds)) + 1
    lines = []
    for start in range(0, len(seeds), SEEDS_A_LINE):
        block = seeds[start : start + SEEDS_A_LINE]
        lines += [""] if start else []
        lines += [
            f"{name:9} " + "".join(row.get(seed, "-").rjust(width) for seed in block)
            for name, row in cells.items()
        ]
    return lines


def _conclusion(runs: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> str:
    gain = summary["gain"]
    if not gain and summary["transfer"] and summary["scratch"]:
        return "Verdict: none. No seed has both runs, so there is nothing to compare."
    if not gain:
        arm = "transfer" if summary["transfer"] else "scratch"
        return f"Verdict: none. There are only {arm} runs, and nothing to compare them with."
    if not gain["ci95"]:
        return (
            "Verdict: inconclusive. One pair of runs has no interval: the gain may be the luck of"
            "\nthis seed. More seeds would tell, such as --seeds=0,1,2,3,4."
        )
    over = f"over {len(_pairs(runs))} seeds"
    return {
        "positive": f"Verdict: positive. Transfer beats training from scratch {over}: the whole"
        "\ninterval is above zero.",
        "negative": f"Verdict: negative. Transfer does harm here, {over}: the whole interval is"
        "\nbelow zero.",
        "inconclusive": f"Verdict: inconclusive. The interval {over} holds zero: transfer may help"
        "\nor harm here. More seeds make the interval narrower.",
    }[summary["verdict"]]


def _pairs(runs: Sequence[Mapping[str, Any]]) -> list[int]:
    transfer, scratch = (_accuracies(runs, arm) for arm in ARMS)
    return sorted(transfer.keys() & scratch.keys())


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:6.2f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _steps(steps: Sequence[int]) -> str:
    low, high = min(steps), max(steps)
    return f"{low}" if low == high else f"{low}-{high}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _rate(rates: Sequence[float | None]) -> str:
    """Return the mean rate; a run of no steps has none."""
    known = [rate for rate in rates if rate]
    return f"{np.mean(known):,.0f}" if known else "-"
