"""Small things that several tests are made of: pictures that can be learned, settings, sources."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from tl_keras.config import Config, from_flat
from tl_keras.config.pace import Pace
from tl_keras.data.dataset import ImageSet
from tl_keras.data.pipeline import NO_AUGMENTATION, Stream
from tl_keras.data.splits import Split
from tl_keras.distributed import local_cluster
from tl_keras.methods.feature_cache import FeatureCache
from tl_keras.methods.interface import MethodInputs, make_cross_entropy_objective
from tl_keras.models import building, weights
from tl_keras.models.precision import Precision
from tl_keras.models.weights import Origin, Weights
from tl_keras.training.loop import Loop
from tl_keras.training.task import CrossEntropy, Task

ROOT = Path(__file__).resolve().parents[1]


# An experiment of some seconds. The fixture `finished_run` is of this one.
QUICK_RUN = {
    **{"source": "mnist_5k", "target": "digits", "shots": 5, "dense_units": 16},
    **{"source_steps": 60, "steps": 30, "seeds": (0, 1)},
}

# One architecture of ours, one with depthwise convolutions and one with sums.
THREE = ("conv4", "mobilenet_v2_035", "resnet50")


def sweep(values: Iterable[Any], fast: Iterable[Any] = THREE) -> list[Any]:
    """Return the parameters of a test of which all but the fast ones are slow.

    Raises:
        ValueError: a fast one is not among them.
    """
    values, fast = list(values), list(fast)
    if missing := [value for value in fast if value not in values]:
        raise ValueError(f"{missing} cannot be fast: they are not among {values}")
    return [
        value
        if value in fast
        else pytest.param(*(value if isinstance(value, tuple) else [value]), marks=pytest.mark.slow)
        for value in values
    ]


def pictures(count: int, seed: int = 0) -> ImageSet:
    """Return (count, 8, 8, 1) noise of three classes, each with a bright band of its own."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.integers(0, 80, (count, 8, 8, 1))
    for label in range(3):
        images[labels == label, 2 * label : 2 * label + 2] += 120
    return ImageSet(images.astype(np.uint8), labels)


def small_model(seed: int = 1):
    """Return a small_cnn for such pictures."""
    return building.build(
        "small_cnn", 3, image_size=8, input_channels=1, body_channels=1, dense_units=8, seed=seed
    )


def source_weights(seed: int = 5) -> Weights:
    """Return what a source of the classes a, b, c knows."""
    origin = Origin("bands", ("a", "b", "c"), "small_cnn", 8, 1)
    return Weights(weights.get_tensors(small_model(seed)), origin)


def setting(tmp_path, model=None, **flags) -> MethodInputs:
    """Return what a method is given: 40 pictures, 30 to train and 10 to validate."""
    config: Config = from_flat({"steps": 20, "batch_size": 16, "learning_rate": 0.01, **flags})
    batch_norm = config.training.batch_norm.replace("auto", "recomputed")
    known = source_weights()
    if model is None:
        model = small_model()
        weights.copy(known, model, ("a", "b", "c"), config.head, "--source=bands")
    return MethodInputs(
        config=config,
        training=dataclasses.replace(config.training, batch_norm=batch_norm),
        strategy=tf.distribute.get_strategy(),
        seed=0,
        model=model,
        precision=Precision("float32", "float32", "small"),
        images=pictures(40),
        split=Split(np.arange(30), np.arange(30, 40)),
        image_size=8,
        augmentation=NO_AUGMENTATION,
        cache=tmp_path / "features",
        source_weights=known,
        source_train=pictures(50, seed=8),
    )


def task(model=None, train: int = 60, validation: int = 15, batch_size: int = 16) -> Task:
    """Return supervised training of a model, a fresh small_cnn by default, on such pictures."""
    model = model or small_model()
    images = pictures(train)
    return Task(
        model=model,
        variables=model.trainable_variables,
        streams={"target": Stream(images.images, images.labels, batch_size, seed=3)},
        objective=make_cross_entropy_objective(model, CrossEntropy()),
        validation=pictures(validation, seed=1) if validation else None,
    )


def kept(path: Path) -> Weights:
    """Return what stands in a weights file of ours, without any of its checks."""
    with h5py.File(path, "r") as file:
        tensors = {
            f"{layer}/{name}": file[layer][name][()] for layer in file for name in file[layer]
        }
        origin = weights.parse_origin(file.attrs[weights.METADATA])
    return Weights(tensors, origin)


def program(module: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module` from the project's folder and return what it printed."""
    return subprocess.run(
        [sys.executable, "-m", module, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def program_help(name: str) -> str:
    """Return what `python -m tl_keras.NAME --help` prints, and see that it loads nothing heavy."""
    code = (
        f"import sys; from tl_keras.{name} import main; code = main(['{name}', '--help']);"
        "sys.exit(99 if 'tensorflow' in sys.modules or 'numpy' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def connected(*codes: str) -> list[Any]:
    """Run each code in a process of one cluster; return what each prints last, which is JSON."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={"TF_CPP_MIN_LOG_LEVEL": "3", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT / "tests",
        )
        for code, environment in zip(
            codes, local_cluster.make_environments(len(codes)), strict=True
        )
    ]
    try:
        told = [process.communicate(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, told, strict=True):
        assert process.returncode == 0, err[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in told]


class Records(list):
    """A recorder that keeps all it is told, and can fail at a step as a killed process would."""

    def __init__(self, fail_at: int | None = None):
        super().__init__()
        self.fail_at = fail_at

    def resume(self, records) -> None:
        """Begin with what was recorded before."""
        self[:] = records

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Keep nothing of what is another each time."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Keep `values`."""
        if step == self.fail_at:
            raise KeyboardInterrupt
        self.append((step, values))


def train(prepared, given: MethodInputs, folder: Path, records: Records | None = None) -> Records:
    """Train what a method or a pretraining prepared, and return what was recorded."""
    records = Records() if records is None else records
    pace = Pace(steps=4)
    Loop(prepared.task, given.training, given.strategy, folder, records, "test", pace).run()
    return records


def assert_continues_to_the_bit(tmp_path, prepare, given) -> None:
    """Train once whole, and once killed at step 15 and given again; both must be the same.

    Args:
        tmp_path: for the runs.
        prepare: of the method or pretraining.
        given: returns a setting of 24 steps, with a model of its own each time.
    """

    def run(folder, records):
        own = given()
        prepared = prepare(own)
        train(prepared, own, folder, records)
        return weights.hash_tensors(weights.get_tensors(prepared.model))

    expected, records = Records(), Records(fail_at=15)
    whole = run(tmp_path / "whole", expected)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", records)
    records.fail_at = None
    assert run(tmp_path / "killed", records) == whole
    assert records == expected


def sharing(replicas: int, processes: int = 1, process: int = 0) -> tf.distribute.InputContext:
    """Return what a process that has some of the replicas is told of its input."""
    return tf.distribute.InputContext(processes, process, replicas)


def count_computed_rows(monkeypatch) -> list[int]:
    """Return a list to which every piece of a feature cache that is computed adds its length."""
    counts: list[int] = []
    rows = FeatureCache.rows
    monkeypatch.setattr(
        FeatureCache,
        "rows",
        lambda self, indices, compute: rows(
            self, indices, lambda chosen: counts.append(len(chosen)) or compute(chosen)
        ),
    )
    return counts
