"""The results of a comparison of methods: Markdown tables, and a plot of the learning curves."""

import io
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tl_keras.config.shots import format_shots
from tl_keras.report import class_counts
from tl_keras.report.metrics import paired_gain, spread, standard_error, verdict

SCRATCH, FINETUNE = "scratch", "finetune"
YARDSTICKS = (FINETUNE, SCRATCH)
MARKS = {"positive": "▲", "negative": "▼", "inconclusive": ""}

# (images,) bool, whether a run has each test image right, by method, labels a class (None for all)
# and seed. The mean is the accuracy of the run.
Correct = Mapping[str, Mapping[int | None, Mapping[int, np.ndarray]]]
# The balanced accuracy of a run, 0 to 1, by the same keys.
Balanced = Mapping[str, Mapping[int | None, Mapping[int, float]]]


def format_markdown(
    title: str,
    found: Correct,
    shots: Sequence[int | None],
    zero_shot: float | None,
    balanced: Balanced | None = None,
) -> str:
    """Return the tables as Markdown.

    Args:
        title: what was compared.
        found: correct test images, with the methods in the order of the rows.
        shots: labels per class, in the order of the columns.
        zero_shot: accuracy of the source's model before any training on the target, or None.
        balanced: balanced accuracies for a second table, or None to leave it out.
    """
    seeds = sorted({s for shot in found.values() for by_seed in shot.values() for s in by_seed})
    head = ["labels a class", *(format_shots(number) for number in shots)]
    rows = [
        [name, *(_format_cell(by_shots.get(n, {})) for n in shots)]
        for name, by_shots in found.items()
    ]
    parts = [
        f"### {title}",
        f"Test accuracy in %, mean ± standard deviation over {_format_seeds(seeds)}; in brackets"
        " the standard error from the number of test images.",
        _format_table([head, *rows]),
    ]
    if zero_shot is not None:
        parts.insert(2, f"Before any training on the target: {100 * zero_shot:.2f} %.")
    if balanced is not None:
        parts += _format_balanced(balanced, head, shots)
    for yardstick in YARDSTICKS:
        others = [name for name in found if name != yardstick]
        if yardstick in found and others and len(seeds) > 1:
            parts += _format_differences(found, yardstick, others, shots)
    return "\n\n".join(parts) + "\n"


def _format_balanced(
    balanced: Balanced, head: Sequence[str], shots: Sequence[int | None]
) -> list[str]:
    rows = [
        [name, *(_format_spread(by_shots.get(n, {}).values()) for n in shots)]
        for name, by_shots in balanced.items()
    ]
    return [
        "Balanced accuracy in %, the mean over the classes that have test images, because the"
        " classes are uneven:",
        _format_table([head, *rows]),
    ]


def format_classes(counts: class_counts.Counts, shots: int | None) -> str:
    """Return the images of each class as Markdown.

    Args:
        counts: from `class_counts.count`, with the labels of one number of labels per class.
        shots: that number, None for all.
    """
    heading = "Images of a class, with " + (
        "all labels" if shots is None else f"{shots} label{'s' * (shots != 1)} a class"
    )
    if even := class_counts.format_even(counts):
        parts = [f"{heading}: {even}."]
    elif len(counts) <= class_counts.MAX_LISTED:
        rows = [
            [cell.replace("|", "\\|") for cell in row] for row in class_counts.list_rows(counts)
        ]
        parts = [f"{heading}:", _format_table(rows)]
    else:
        lines = [f"- {s}: {class_counts.format_split(counts, s)}" for s in class_counts.SPLITS]
        parts = [f"{heading}, {len(counts)} classes:", "\n".join(lines)]
    few = class_counts.format_few(counts)
    return "\n\n".join(parts + ([few] if few else [])) + "\n"


def _format_differences(
    found: Correct, yardstick: str, others: Sequence[str], shots: Sequence[int | None]
) -> list[str]:
    """Return a table of differences from one method, and a line on who lost to it."""
    rows = [["points", *(format_shots(number) for number in shots)]]
    lost = []
    for name in others:
        cells = [name]
        for number in shots:
            gain = paired_gain(found[name].get(number, {}), found[yardstick].get(number, {}))
            cells.append(_format_gain(gain))
            if gain and verdict(gain) == "negative":
                lost.append(f"{name} at {format_shots(number)}")
        rows.append(cells)
    reading = f"Worse than {yardstick}: {', '.join(lost) or 'none'}."
    return [
        f"Difference from {yardstick} in points, with the 95 % interval over seeds and test images,"
        " paired by both (▲ and ▼ where it is wholly above or below zero):",
        _format_table(rows),
        reading,
    ]


def _format_gain(gain: Mapping[str, Any] | None) -> str:
    if not gain:
        return "-"
    text = f"{100 * gain['mean']:+.2f}"
    if gain["ci95"]:
        low, high = (100 * bound for bound in gain["ci95"])
        text += f" ({low:+.2f} to {high:+.2f})"
    return f"{text} {MARKS[verdict(gain)]}".strip()


def _format_cell(by_seed: Mapping[int, np.ndarray]) -> str:
    if not by_seed:
        return "-"
    text = _format_spread([correct.mean() for correct in by_seed.values()])
    return f"{text} ({100 * standard_error(by_seed):.2f})"


def _format_spread(accuracies: Collection[float]) -> str:
    """Return mean ± standard deviation in %, or a dash without accuracies."""
    if not accuracies:
        return "-"
    mean, deviation, _ = spread(accuracies)
    return f"{100 * mean:.2f}" + ("" if deviation is None else f" ± {100 * deviation:.2f}")


def _format_seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' * (len(seeds) != 1)} {', '.join(map(str, seeds))}"


def _format_table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)


def plot(
    title: str,
    found: Correct,
    shots: Sequence[int | None],
    all_labels: float,
    zero_shot: float | None,
) -> bytes:
    """Plot accuracy over labels per class, with a band from the worst to the best seed, as a PNG.

    A second panel has the difference of each method from plain fine-tuning, if there are other
    methods.

    Args:
        title: what was compared.
        found: which test images the runs have right, by method; scratch is drawn as the baseline.
        shots: labels a class, None for all.
        all_labels: how many labels a class "all" are, in the mean.
        zero_shot: accuracy before any training on the target, or None.
    """
    beside = FINETUNE in found and len(found) > 2
    figure = Figure(figsize=(14 if beside else 9, 5.5), dpi=100, layout="constrained")
    panels = figure.subplots(1, 1 + beside, squeeze=False)[0]
    places = {number: all_labels if number is None else number for number in shots}
    palette = colormaps["tab20"]
    looks: dict[str, dict[str, Any]] = {
        name: {"color": palette(index % 20), "marker": "o^sDvP"[index % 6], "markersize": 4}
        for index, name in enumerate(name for name in found if name != SCRATCH)
    }
    looks[SCRATCH] = {"color": "black", "marker": "x", "linestyle": "--"}
    for name, by_shots in found.items():
        known = [number for number in places if by_shots.get(number)]
        values = {
            places[n]: 100 * np.array([correct.mean() for correct in by_shots[n].values()])
            for n in known
        }
        _draw_curve(panels[0], values, name, looks[name], band=True)
        gains = {n: paired_gain(by_shots[n], found[FINETUNE].get(n, {})) for n in known if beside}
        if beside and name not in (SCRATCH, FINETUNE):
            points = {places[n]: np.array([100 * g["mean"]]) for n, g in gains.items() if g}
            _draw_curve(panels[1], points, name, looks[name], band=False)
    if zero_shot is not None:
        panels[0].axhline(100 * zero_shot, color="grey", linestyle=":", label="source, zero labels")
    # A folder's name may contain math notation of matplotlib.
    panels[0].set_title(title, parse_math=False)
    panels[0].set_ylabel("test accuracy, %")
    panels[0].legend(fontsize=8, loc="lower right")
    if beside:
        _format_differences_axes(panels[1])
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xticks(list(places.values()), [format_shots(number) for number in places])
        axes.tick_params(which="minor", bottom=False)
        axes.set_xlabel("labelled target images a class")
        axes.grid(alpha=0.3)
    return _png(figure)


def _format_differences_axes(axes: Axes) -> None:
    """Label the panel with the differences from plain fine-tuning."""
    axes.set_title(f"beside {FINETUNE}")
    axes.set_ylabel("points more than plain fine-tuning, mean over the seeds")
    axes.axhline(0, color="black", linewidth=0.8)
    # A linear scale would compress all other methods if one is far below.
    axes.set_yscale("symlog", linthresh=1, subs=(2, 5))
    axes.yaxis.set_minor_formatter("{x:+g}")
    axes.yaxis.set_major_formatter("{x:+g}")


def _draw_curve(
    axes: Axes, values: Mapping[float, np.ndarray], name: str, look: dict[str, Any], *, band: bool
) -> None:
    """Plot the means of (seeds,) values by position, and a band from the minimum to the maximum."""
    across = sorted(values)
    axes.plot(across, [values[place].mean() for place in across], label=name, **look)
    if band:
        lows, highs = ([end(values[place]) for place in across] for end in (np.min, np.max))
        axes.fill_between(across, lows, highs, alpha=0.12, color=look["color"])


def _png(figure: Figure) -> bytes:
    content = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()
