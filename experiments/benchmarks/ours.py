"""Our side of the comparisons, driven through the parts that the program itself is made of."""

import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from experiments.benchmarks import pictures
from experiments.benchmarks.worker import Rounds
from tl_keras.config import Config, from_flat
from tl_keras.config.pace import Pace
from tl_keras.config.trainable import Trainable
from tl_keras.data import pipeline
from tl_keras.data.catalog import DIGITS
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.fingerprints import DataFingerprints
from tl_keras.data.pipeline import NO_AUGMENTATION
from tl_keras.distributed import distribution, joining
from tl_keras.experiment.cleanup import release_models
from tl_keras.experiment.experiment import start_tensorflow
from tl_keras.experiment.images import Images
from tl_keras.experiment.setup import ExperimentSetup, make_setup
from tl_keras.methods import catalog as methods
from tl_keras.methods.frozen_part import FrozenPart
from tl_keras.methods.interface import MethodInputs
from tl_keras.models import catalog as models
from tl_keras.models import weights
from tl_keras.models.building import set_trainable
from tl_keras.models.precision import choose
from tl_keras.pictures.arrays import Images as ImageRows
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
    _train(rounds, _plan({**flags, **_endless(steps)}, images, size, channels), steps)


def train_on_files(
    rounds: Rounds, flags: dict[str, Any], folder: str, size: int, steps: int, digests: str
) -> None:
    """Train without end on the files of a folder; a round is `steps` steps.

    Args:
        rounds: when to.
        flags: of the command line, by name.
        folder: of the picture files.
        size: side of the decoded pictures in pixels.
        steps: of a round.
        digests: a file that takes a line for each round: the sha256 of the weights after it.
    """
    # Few pictures would be copied to memory before the first step, streamed or not.
    pipeline.MAX_COPY_BYTES = 0
    data = {"target": f"folder:{folder}", "image_size": size, "picture_cache_gb": 0.0}
    config = _config({**data, **flags, **_endless(steps)})
    strategy = distribution.make_strategy(config.strategy, config.replicas)
    precision = choose(config.precision, config.model)
    plan = make_setup(config, strategy, None, precision, Path(tempfile.mkdtemp()))

    def note(model: keras.Model) -> None:
        with Path(digests).open("a", encoding="utf-8") as file:
            file.write(f"{weights.hash_tensors(weights.get_tensors(model))}\n")

    _train(rounds, plan, steps, note)


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


def _frozen(plan: ExperimentSetup) -> tuple[FrozenPart, ImageRows]:
    """Return what computes features, and the images to compute them of."""
    setting = plan.method_inputs(seeds.TARGET, plan.config.training, seed=0)
    model = setting.model
    set_trainable(model, Trainable("head"))
    part = FrozenPart(setting, keras.Model(model.input, model.output["features"]))
    return part, plan.target.train.images


def _endless(steps: int) -> dict[str, int]:
    """Return the flags of a training without end that has a record after each `steps` steps."""
    return {"steps": ENDLESS, "eval_steps": RECORDS_PER_VALIDATION * steps}


def _train(
    rounds: Rounds,
    plan: ExperimentSetup,
    steps: int,
    note: Callable[[keras.Model], None] = lambda _model: None,
) -> None:
    """Train; `note` is called with the model after each round, and its time does not count."""
    setting = plan.method_inputs(seeds.TARGET, plan.config.training, seed=0)
    rounds.after = lambda: note(setting.model)
    pauses = _Pauses(rounds, steps * plan.config.training.batch_size)
    _loop(setting, pauses, plan.cache.parent / "run").run()


def _loop(setting: MethodInputs, recorder: _Pauses | _Waits, folder: Path) -> Loop:
    prepared = methods.find(setting.config.method).prepare(setting)
    return Loop(
        prepared.task, setting.training, setting.strategy, folder, recorder, "benchmark", NEVER
    )


def _plan(flags: dict[str, Any], images: int, size: int, channels: int) -> ExperimentSetup:
    """Return what the program settles before it trains, on random pictures."""
    config = _config({"target": "random", "image_size": size, **flags})

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


def _config(flags: dict[str, Any]) -> Config:
    """Return the configuration of a training without source and validation; start TensorFlow.

    Raises:
        ValueError: a flag is none of the program's; nothing shall be measured without it.
    """
    if unknown := set(flags) - set(Config().flat()):
        raise ValueError(
            f"tl_keras has no flag {', '.join(f'--{name}' for name in sorted(unknown))}"
        )
    config = from_flat({"source": "none", "validation": 0.0, "min_steps": 0, **flags})
    start_tensorflow(config)
    joining.join(config.strategy, config.startup_timeout)
    return config
