"""The row from picture files to a trained head: whole runs of programs, with their accuracy."""

import json
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from experiments.benchmarks import picture_files
from experiments.benchmarks.picture_files import Files
from experiments.benchmarks.processes import Program, run
from experiments.benchmarks.turns import FailedError, Found, Pace, ratio, take_turns

MODEL, SIZE, BATCH_SIZE, LEARNING_RATE = "mobilenet_v2_035", 224, 32, 1e-3
WEIGHTS = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_224_no_top.h5"
KERAS, TORCH = (
    "experiments.benchmarks.peers_keras_files",
    "experiments.benchmarks.peers_torch_files",
)
FIRST = "tl_keras, first command"
KEPT = "tl_keras, new workdir, pictures kept"
SAME = "tl_keras, next seed in the same workdir"
KERAS_GUIDE, PYTORCH = "Keras, transfer guide", "PyTorch, frozen network, 2 workers"
# Threads of PyTorch that wait for each other would take the cores from those that decode: the run
# takes three times as long with libgomp's default.
TORCH_VARIABLES = {"OMP_WAIT_POLICY": "PASSIVE"}


@dataclass
class Contender:
    """A program, and the test accuracies of its runs from 0 to 1, without the prepared one."""

    program: Program
    accuracies: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Transfer:
    """A head on frozen MobileNetV2, trained on picture files by several programs.

    Attributes:
        name: of the row.
        files: how many, and their size.
        epochs: of the head.
        pace: how many rounds.
    """

    name: str
    files: Files
    epochs: int
    pace: Pace

    def measure(self) -> dict[str, Any]:
        """Return what `finding` makes of the runs.

        Raises:
            FailedError: random weights cannot be written.
        """
        with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
            root = Path(place)
            picture_files.write(root, self.files)
            home, kind = find_weights(root)
            contenders = self.contenders(root, home)
            found = take_turns([one.program for one in contenders], self.pace)
        work = (
            f"{self.files.describe()} in 8 classes, {MODEL} at {SIZE} px with"
            f" {kind} weights, {self.epochs} epochs of the head, batch {BATCH_SIZE}, Adam"
        )
        accuracies = {one.program.name: one.accuracies for one in contenders}
        return finding(self.name, work, found, accuracies)

    def contenders(self, root: Path, home: Path) -> list[Contender]:
        """Return all programs.

        Args:
            root: a folder with `pictures`; takes what is kept between the runs.
            home: the folder of Keras, whose `models` have the weights.
        """
        pictures, path = str(root / "pictures"), str(home / "models" / WEIGHTS)
        epochs = str(self.epochs)

        def first(place: Path, _number: int) -> list[str]:
            return self.command(pictures, place / "run", place / "kept", 0)

        def kept(place: Path, _number: int) -> list[str]:
            return self.command(pictures, place / "run", root / "kept", 0)

        def same(_place: Path, number: int) -> list[str]:
            return self.command(pictures, root / "run", root / "kept for the same", number)

        def keras(place: Path, _number: int) -> list[str]:
            return ["-m", KERAS, pictures, epochs, str(place / "result.json")]

        def torch(place: Path, _number: int) -> list[str]:
            return ["-m", TORCH, pictures, path, epochs, str(place / "result.json")]

        made = []
        for name, words, is_prepared in (
            *((FIRST, first, False), (KEPT, kept, True), (SAME, same, True)),
            *((KERAS_GUIDE, keras, False), (PYTORCH, torch, False)),
        ):
            accuracies: list[float] = []
            reader = _Reader(accuracies, root / "run" if name == SAME else None)
            variables = {"KERAS_HOME": str(home), **(TORCH_VARIABLES if name == PYTORCH else {})}
            program = Program(
                name,
                self.files.number,
                words,
                is_prepared=is_prepared,
                finish=reader.read,
                variables=variables,
            )
            made.append(Contender(program, accuracies))
        return made

    def command(self, pictures: str, workdir: Path, kept: Path, seed: int) -> list[str]:
        """Return what Python is given for a transfer by this program, without the scratch arm."""
        return [
            *("-m", "tl_keras.main", "--source=imagenet", f"--target=folder:{pictures}"),
            *(f"--model={MODEL}", f"--image_size={SIZE}", "--method=features", "--baseline=false"),
            *(f"--epochs={self.epochs}", f"--batch_size={BATCH_SIZE}", "--optimizer=adam"),
            *(f"--learning_rate={LEARNING_RATE}", "--schedule=constant", "--min_steps=0"),
            *("--validation=0", f"--seeds={seed}", f"--workdir={workdir}"),
            f"--picture_cache={kept}",
        ]


@dataclass(frozen=True)
class _Reader:
    """Reads the accuracy that a run wrote: `result.json` of a peer, or `report.json` of ours.

    Attributes:
        accuracies: takes those of all runs but the prepared one.
        workdir: that of all runs; None if each has its own.
    """

    accuracies: list[float]
    workdir: Path | None

    def read(self, place: Path, number: int) -> None:
        """Append the accuracy of a run, or raise a FailedError if it wrote none."""
        if number == 0:
            return
        seed = number if self.workdir else 0
        result, report = place / "result.json", (self.workdir or place / "run") / "report.json"
        try:
            if result.is_file():
                accuracy = json.loads(result.read_text(encoding="utf-8"))["accuracy"]
            else:
                runs = json.loads(report.read_text(encoding="utf-8"))["runs"]
                [accuracy] = [one["test"]["accuracy"] for one in runs if one["seed"] == seed]
        except (OSError, ValueError, KeyError) as error:
            raise FailedError(f"it wrote no accuracy: {error}") from error
        self.accuracies.append(accuracy)


def find_weights(root: Path) -> tuple[Path, str]:
    """Return the folder of Keras with weights of the model, and "ImageNet" or "random".

    Args:
        root: takes random weights if those of ImageNet are not there; the time is the same.

    Raises:
        FailedError: random weights cannot be written.
    """
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    if (home / "models" / WEIGHTS).is_file():
        return home, "ImageNet"
    path = root / "keras" / "models" / WEIGHTS
    code = (
        "from pathlib import Path\n"
        f"from {KERAS} import write_random_weights\n"
        f"write_random_weights(Path({str(path)!r}))"
    )
    run(["-c", code], root)
    return root / "keras", "random"


def finding(
    name: str, work: str, found: Mapping[str, Found], accuracies: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Return what was found, ready for JSON; times are in that of the first command.

    Args:
        name: of the row.
        work: what a run is, in words.
        found: of each contender, by name; the first is the yardstick.
        accuracies: of each contender's runs, from 0 to 1.
    """
    yardstick = next(iter(found.values()))
    contenders = []
    for contender, own in found.items():
        times = ratio(yardstick, own)
        values = accuracies[contender]
        contenders.append(
            {
                "name": contender,
                "time": times._asdict() if times else None,
                "accuracy": statistics.fmean(values) if values else None,
                "accuracies": list(values),
                **asdict(own),
            }
        )
    return {"row": name, "kind": "transfer", "work": work, "contenders": contenders}
