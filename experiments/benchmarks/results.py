"""The results as JSON, and as Markdown that says ratios and no absolute times."""

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tl_keras.storage import files

Finding = Mapping[str, Any]

NAME = "results"
MEANING = """\
A ratio says how many times faster ours is, above 1, or slower, below 1. All contenders of a row
were measured on one machine in one go and in turn (A, B, C, A, B, C, ...) on the same random
pictures with the same batch size, each in a process of its own that was stopped while others
worked, while processes of idle priority kept the cores from sleeping; the first rounds warm up
and do not count. A ratio is the median of the ratios of the
rounds, with the least and the most in brackets. For frozen features ours chooses its batch size
itself, and the others have 32. `fit` and `predict` are Keras' own with their defaults,
PyTorch is eager, with channels last. Input wait is the share of our steps' time in which the model
had no batch to work on, the median of the rounds; computing features has no steps. Peaks of memory
are those of the whole process. Rows on picture files read photographs in place of random pictures.
Where a row says CPU time, speeds are in pictures of a second of CPU time of all processes."""


class Book:
    """All findings, in results.json and results.md of a folder; nowhere where there is none."""

    def __init__(self, folder: Path | None, machine: Mapping[str, str], order: Sequence[str]):
        """Go on with the findings that the folder has of the same machine and the same rows.

        Args:
            folder: takes the files; None keeps them in memory.
            machine: what is measured on, by name.
            order: names of all rows there are.
        """
        self._folder = folder
        self._machine = dict(machine)
        self._order = list(order)
        self._findings: dict[str, Finding] = {}
        path = folder / f"{NAME}.json" if folder else None
        if path is not None and path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before["machine"] == self._machine:
                self._findings = {one["row"]: one for one in before["rows"]}

    @property
    def findings(self) -> list[Finding]:
        """Those of rows that there are, in the order of the table."""
        return [self._findings[name] for name in self._order if name in self._findings]

    def add(self, finding: Finding) -> None:
        """Take in what a row found, in the place of what it found before; write both files."""
        self._findings[finding["row"]] = finding
        if self._folder is not None:
            values = {"machine": self._machine, "rows": self.findings}
            files.write_json(self._folder / f"{NAME}.json", values)
            files.write_bytes(self._folder / f"{NAME}.md", self.markdown().encode())

    def markdown(self) -> str:
        """Return all findings as Markdown."""
        machine = table([["", "measured on"], *([name, v] for name, v in self._machine.items())])
        parts = ["# Comparisons with Keras and PyTorch", "`make bench` writes this page."]
        parts += [machine, MEANING]
        sections = {"speed": "Speed", "transfer": "From files to a trained head"}
        sections |= {"accuracy": "Accuracy", "growth": "Growth"}
        for kind, title in sections.items():
            if own := [one for one in self.findings if one["kind"] == kind]:
                parts += [f"## {title}", *shown(kind, own)]
        if self._folder is not None and (self._folder / "growth.png").is_file():
            parts.append("![How time and memory grow with images and epochs](growth.png)")
        if failed := [one for one in self.findings if one["kind"] == "failed"]:
            rows = [["row", "why"], *([one["row"], one["error"]] for one in failed)]
            parts += ["## Not measured", table(rows)]
        return "\n\n".join(parts) + "\n"


def shown(kind: str, findings: Sequence[Finding]) -> Iterator[str]:
    """Yield the Markdown of findings of one kind."""
    if kind == "speed":
        head = ["row", "against", "ratio", "goal", "", "input wait", "peak, ours", "peak, theirs"]
        yield table([head, *(line for one in findings for line in speed_lines(one))])
        yield "\n".join(f"- {one['row']}: a round is {one['work']}." for one in findings)
    elif kind == "accuracy":
        head = ["recipe", "seeds", "float32", "bfloat16", "points lost", "goal", ""]
        yield table([head, *(accuracy_line(one) for one in findings)])
    elif kind == "transfer":
        for one in findings:
            yield f"{one['row']} ({one['work']}; a time of 2 is twice the first line's):"
            yield table(transfer_lines(one))
    elif kind == "growth":
        for one in findings:
            yield f"{one['row']} ({one['work']}):"
            yield table(growth_lines(one))
    else:
        yield table([["row", "why"], *([one["row"], one["error"]] for one in findings)])


def speed_lines(finding: Finding) -> Iterator[list[str]]:
    """Yield one line for each opponent."""
    ours = finding["ours"]
    for one in finding["against"]:
        measured = span(one["ratio"])
        if not measured:
            failed = one if one["error"] else ours
            measured = f"{failed['name']} failed: {failed['error']}"
        goal = f"{one['goal']:g}" if one["goal"] else "–"
        peaks = [memory(ours["peak_mb"]), memory(one["peak_mb"])]
        verdict, wait = reached(one["reached"]), waiting(ours["input_waits"])
        yield [finding["row"], one["name"], measured, goal, verdict, wait, *peaks]


def transfer_lines(finding: Finding) -> Iterator[list[str]]:
    """Yield the head, and one line for each contender."""
    yield ["program", "time", "test accuracy", "peak"]
    for one in finding["contenders"]:
        accuracy = "–" if one["accuracy"] is None else f"{100 * one['accuracy']:.1f} %"
        yield [
            one["name"],
            span(one["time"]) or one["error"] or "–",
            accuracy,
            memory(one["peak_mb"]),
        ]


def accuracy_line(finding: Finding) -> list[str]:
    """Return a line of the table."""
    exact, rough = (f"{finding['means'][name]:.2f} %" for name in ("float32", "bfloat16"))
    seeds = ", ".join(map(str, finding["seeds"]))
    lost, goal = f"{finding['lost']:+.2f}", f"at most {finding['goal']:g}"
    return [finding["recipe"], seeds, exact, rough, lost, goal, reached(finding["reached"])]


def growth_lines(finding: Finding) -> Iterator[list[str]]:
    """Yield the head, and one line for each size."""
    lines = finding["lines"]
    yield [finding["axis"], *(f"{what}, {name}" for name in lines for what in ("time", "peak"))]
    for along in zip(*lines.values(), strict=True):
        cells = [f"{along[0]['at']:,}"]
        for point in along:
            cells += [span(point["time"]) or point["error"] or "–", memory(point["peak_mb"])]
        yield cells


def span(ratio: Mapping[str, float] | None) -> str:
    """Return a ratio with its least and its most; nothing where there is none."""
    if ratio is None:
        return ""
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"


def waiting(shares: Sequence[float]) -> str:
    """Return the median share of waiting; a dash where none was measured."""
    return f"{100 * statistics.median(shares):.1f} %" if any(shares) else "–"


def memory(megabytes: float) -> str:
    """Return a peak of memory; a dash where nothing was measured."""
    return f"{megabytes:,.0f} MB" if megabytes else "–"


def reached(verdict: bool | None) -> str:
    """Return what is to be said of a goal; nothing where there is none, or no ratio."""
    return {True: "reached", False: "missed", None: ""}[verdict]


def table(rows: Any) -> str:
    """Return rows of cells, the first the head, as Markdown."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "| " + " | ".join("-" * max(width, 3) for width in widths) + " |")
    return "\n".join(lines)
