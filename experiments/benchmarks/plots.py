"""The picture of growth: time and memory against images and epochs."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

LOOKS: dict[str, Any] = {"marker": "o", "markersize": 4}


def growth(findings: Sequence[Mapping[str, Any]]) -> bytes:
    """Draw a row of two panels for each finding of growth; a PNG."""
    figure = Figure(figsize=(11, 4.2 * len(findings)), dpi=100, layout="constrained")
    for finding, (times, peaks) in zip(
        findings, figure.subplots(len(findings), 2, squeeze=False), strict=True
    ):
        times.set_ylabel("time, in that of the smallest run")
        peaks.set_ylabel("peak of memory, MB")
        for name, along in finding["lines"].items():
            known = [point for point in along if point["time"]]
            _draw(times, known, [point["time"]["median"] for point in known], name)
            _draw(peaks, known, [point["peak_mb"] for point in known], name)
            lows, highs = ([point["time"][end] for point in known] for end in ("low", "high"))
            times.fill_between([point["at"] for point in known], lows, highs, alpha=0.15)
        sizes = [point["at"] for point in next(iter(finding["lines"].values()))]
        for axes in (times, peaks):
            axes.set_xlabel(finding["axis"])
            axes.set_xscale("log")
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
            # From zero: what hardly grows shall look so.
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8)
    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def _draw(axes: Axes, along: Sequence[Mapping[str, Any]], values: list[float], name: str) -> None:
    axes.plot([point["at"] for point in along], values, label=name, **LOOKS)
