"""Measure the comparisons: `python -m experiments.benchmarks [--quick] [--rows=REGEX] [--out=DIR]`.

All of them take hours on two cores; --rows=REGEX measures those whose names it is found in, and
leaves what was found of the others. --quick takes minutes, shows that everything works, and writes
nothing unless --out says where.
"""

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import machine, processes, rows
from experiments.benchmarks.results import Book, shown
from experiments.benchmarks.rows import Row
from experiments.benchmarks.turns import FailedError
from tl_keras.storage import files

FOLDER = Path(__file__).resolve().parent
GROWTH = "growth.png"


def main(argv: Sequence[str]) -> int:
    """Measure the rows that `argv` asks for; return 0, or 2 where there are none."""
    parser = argparse.ArgumentParser(prog="python -m experiments.benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="few rounds of a few small rows")
    parser.add_argument("--rows", default="", help="a regular expression, searched in their names")
    parser.add_argument("--out", type=Path, help=f"a folder; usually {FOLDER.name}, quick: none")
    chosen = parser.parse_args(argv[1:])
    table = rows.table(chosen.quick)
    try:
        wanted = [row for row in table if re.search(chosen.rows, row.name)]
    except re.error as error:
        parser.error(f"--rows={chosen.rows} is not a regular expression: {error}")
    if not wanted:
        names = "\n  ".join(row.name for row in table)
        parser.error(f"--rows={chosen.rows} is found in no row; there are\n  {names}")
    folder = chosen.out or (None if chosen.quick else FOLDER)
    # So that processes which are stopped are ended, as they are with Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    measure(wanted, Book(folder, machine.describe(), [row.name for row in table]), folder)
    return 0


def measure(wanted: Sequence[Row], book: Book, folder: Path | None) -> None:
    """Measure rows one by one; print and write what each found."""
    for number, row in enumerate(wanted, 1):
        print(f"[{number}/{len(wanted)}] {row.name}", flush=True)
        finding = found(row)
        if folder is not None and finding["kind"] == "growth":
            draw(folder, [*(one for one in book.findings if one["row"] != row.name), finding])
        book.add(finding)
        print("\n\n".join(shown(finding["kind"], [finding])), flush=True)


def found(row: Row) -> dict[str, Any]:
    """Return what a row found, or why it could not be measured."""
    try:
        with processes.cores_awake():
            return row.measure()
    except FailedError as error:
        return {"row": row.name, "kind": "failed", "error": str(error)}


def draw(folder: Path, findings: Sequence[Any]) -> None:
    """Write the picture of all that was found of growth."""
    # Only here: it takes memory and a second to import, and most rows do without.
    from experiments.benchmarks import plots

    growing = [one for one in findings if one["kind"] == "growth"]
    files.write_bytes(folder / GROWTH, plots.growth(growing))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
