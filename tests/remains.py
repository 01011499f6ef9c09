"""What a finished run leaves in its workdir, so that it can be compared with what another left."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

# At any depth of result.json, report.json and the checkpoints' manifests.
OF_THE_TIME = {"seconds", "images_per_second", "workdir"}

CHECKPOINTS_KEPT = 2


def different(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the names under which there is not the same in both."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def facts(workdir: Path) -> dict[str, str]:
    """Return the sha256 of everything in a workdir that no kill may change, by name."""
    found = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if path.name in ("log.txt", "lock") or path.is_dir() or path.parent.name == "checkpoints":
            continue
        # Event files have times in them. There is one in each run's folder.
        is_event_file = path.name.startswith("events.out.tfevents.")
        name = f"{path.parent.name}/events" if is_event_file else name
        # Features are the same to the bit, and so is what lists them.
        matches_sha256 = name.startswith("features/")
        data = (
            path.read_bytes() if matches_sha256 else b"" if is_event_file else _without_times(path)
        )
        found[name] = hashlib.sha256(data).hexdigest()
    for folder in workdir.glob("*/checkpoints"):
        for path in [*sorted(folder.glob("*.json"))[-1:], *sorted(folder.glob("*.npz"))[-1:]]:
            name = str(path.relative_to(workdir))
            found[name] = hashlib.sha256(_without_times(path)).hexdigest()
    return found


def _without_times(path: Path) -> bytes:
    if path.name == "report.txt":
        # The table's last two columns are the time of a run and the images in a second.
        rows = [re.split(r"\s{2,}", line.strip()) for line in path.read_text().splitlines()]
        return json.dumps([row[:-2] if len(row) == 8 else row for row in rows]).encode()
    if path.suffix != ".json":
        return path.read_bytes()
    values = json.loads(path.read_text(), object_hook=_timeless)
    # It covers the times.
    values.pop("sha256", None)
    return json.dumps(values).encode()


def _timeless(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in OF_THE_TIME}


def leftovers(workdir: Path) -> list[str]:
    """Return what a finished run should not leave."""
    found = [p for kind in ("*unfinished*", "*.damaged") for p in workdir.rglob(kind)]
    for folder in workdir.glob("*/checkpoints"):
        states = sorted(folder.glob("*.json"))
        kept = {path for s in states[-CHECKPOINTS_KEPT:] for path in (s, s.with_suffix(".npz"))}
        found += [path for path in folder.iterdir() if path not in kept]
    for folder in {path.parent for path in workdir.rglob("events.out.tfevents.*")}:
        found += sorted(folder.glob("events.out.tfevents.*"))[1:]
    return sorted({str(path.relative_to(workdir)) for path in found})
