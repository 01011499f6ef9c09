"""Our side of the comparisons, driven through the parts that the program itself is made of."""

import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from experiments.benchmarks import pictures
from experiments.benchmarks.worker import Rounds
from tl_keras.config import Config, from_flat
from tl_keras.config.pace import Pace
from tl_keras.config.trainable import Trainable
from tl_keras.data.catalog import DIGITS
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.fingerprints import DataFingerprints
from tl_keras.data.pipeline import NO_AUGMENTATION
from tl_keras.distributed import distribution, joining
from tl_keras.experiment.cleanup import release_models
from tl_keras.experiment.experiment import start_tensorflow
from tl_keras.experiment.images import Images
from tl_keras.experiment.setup import ExperimentSetup
from tl_keras.methods import catalog as methods
from tl_keras.methods.frozen_part import FrozenPart
from tl_keras.methods.interface import MethodInputs
from tl_keras.models import catalog as models
from tl_keras.models.building import set_trainable
from tl_keras.models.precision import choose
from tl_keras.runtime import seeds
from tl_keras.training.loop import RECORDS_PER_VALIDATION, Loop, Record

# Other contenders save nothing while they train, so neither do we.
NEVER = Pace(steps=0, seconds=0.0)
ENDLESS = 10**8


class _Pauses:
    """A recorder for whom a round of the comparison goes from one record to the next."""

    def __init__(self, rounds: Rounds, images: int):
        self._rounds = rounds
        self._images = images
        self._waited = 0.0

    def resume(self, records: Sequence[Record]) -> None:
        """Wait for the first round."""
        self._rounds.begin()

    def write(self, step: int, values: dict[str, float]) -> None:
        """End a round, and wait for the next."""
        self._rounds.end(self._images, self._waited)
        self._rounds.begin()

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Keep how long the model waited in the round before, for this one to tell."""
        self._waited = values["train/input_wait"]


class _Waits:
    """A recorder that keeps how long the model waited for its input, and nothing else."""

    def __init__(self) -> None:
        self._shares: list[float] = []

    @property
    def mean(self) -> float:
        """The share of the time in which it did."""
        return sum(self._shares) / len(self._shares)

    def resume(self, records: Sequence[Record]) -> None:
        """Begin."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Keep nothing."""

    def watch(self, step: int, values: dict[str, float]) -> None:
        """Keep the share since the last record; there is as much time between any two."""
        self._shares.append(values["train/input_wait"])


def train(
    rounds: Rounds, flags: dict[str, Any], images: int, size: int, channels: int, steps: int
) -> None:
    """Train without end; a round is `steps` steps.

    Args:
        rounds: when to.
        flags: of the command line, by name.
        images: how many there are.
        size: side of them in pixels.
        channels: of them, 1 or 3.
        steps: of a round.
    """
    endless = {"steps": ENDLESS, "eval_steps": RECORDS_PER_VALIDATION * steps}
    plan = _plan({**flags, **endless}, images, size, channels)
    setting = plan.method_inputs(seeds.TARGET, plan.config.training, seed=0)
    pauses = _Pauses(rounds, steps * plan.config.training.batch_size)
    _loop(setting, pauses, plan.cache.parent / "run").run()


def short_training(
    rounds: Rounds, flags: dict[str, Any], images: int, size: int, epochs: int
) -> None:
    """Train a fresh model for some epochs in each round, with all that comes after building it."""
    plan = _plan({**flags, "epochs": float(epochs)}, images, size, 3)
    for number in itertools.count():
        folder = plan.cache.parent / str(number)
        with release_models():
            # Each round computes what it caches anew.
            fresh = dataclasses.replace(plan, cache=folder / "features")
            setting = fresh.method_inputs(seeds.TARGET, plan.config.training, seed=0)
            waits = _Waits()
            rounds.begin()
            _loop(setting, waits, folder).run()
            rounds.end(images * epochs, waits.mean)


def features(rounds: Rounds, flags: dict[str, Any], images: int, size: int) -> None:
    """Compute the features of all images in each round."""
    part, rows = _frozen(_plan(flags, images, size, 3))
    while True:
        rounds.begin()
        part.compute(rows)
        rounds.end(images)


def _frozen(plan: ExperimentSetup) -> tuple[FrozenPart, np.ndarray]:
    """Return what computes features, and the images to compute them of."""
    setting = plan.method_inputs(seeds.TARGET, plan.config.training, seed=0)
    model = setting.model
    set_trainable(model, Trainable("head"))
    part = FrozenPart(setting, keras.Model(model.input, model.output["features"]))
    return part, plan.target.train.images


def _loop(setting: MethodInputs, recorder: _Pauses | _Waits, folder: Path) -> Loop:
    prepared = methods.find(setting.config.method).prepare(setting)
    return Loop(
        prepared.task, setting.training, setting.strategy, folder, recorder, "benchmark", NEVER
    )


def _plan(flags: dict[str, Any], images: int, size: int, channels: int) -> ExperimentSetup:
    """Return what the program settles before it trains, on random pictures.

    Raises:
        ValueError: a flag is none of the program's; nothing shall be measured without it.
    """
    if unknown := set(flags) - set(Config().flat()):
        raise ValueError(
            f"tl_keras has no flag {', '.join(f'--{name}' for name in sorted(unknown))}"
        )
    config = from_flat(
        {
            **{"source": "none", "target": "random", "validation": 0.0, "image_size": size},
            **{"min_steps": 0, **flags},
        }
    )
    start_tensorflow(config)
    joining.join(config.strategy, config.startup_timeout)

    def read(split: str, image_size: int) -> ImageSet:
        return ImageSet(pictures.pictures(images, size, channels), pictures.labels(images))

    root = Path(tempfile.mkdtemp())
    seals = DataFingerprints(root / "data.json")
    return ExperimentSetup(
        config=config,
        strategy=distribution.make_strategy(config.strategy, config.replicas),
        image_size=size,
        body_channels=3 if models.find(config.model).function else channels,
        precision=choose(config.precision, config.model),
        cache=root / "features",
        seals=seals,
        target=Images(
            Dataset("random", DIGITS, channels, size, NO_AUGMENTATION, read), size, seals
        ),
        source=None,
    )
