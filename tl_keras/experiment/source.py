"""The weights to transfer: from a file, from ImageNet, or from pretraining."""

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

from tl_keras.config import PAIRED, Config
from tl_keras.config.preprocessing import Preprocessing
from tl_keras.errors import DataError, UsageError
from tl_keras.experiment import train_and_test
from tl_keras.experiment.cleanup import release_models
from tl_keras.experiment.setup import ExperimentSetup
from tl_keras.experiment.validate import find_head_user
from tl_keras.methods import catalog as methods
from tl_keras.models import building, weights
from tl_keras.models import catalog as models
from tl_keras.models import preprocessing as preprocessings
from tl_keras.models.weights import Origin, Weights
from tl_keras.models.weights_file import WeightsFile
from tl_keras.runtime import seeds
from tl_keras.storage import files, results

LOG = logging.getLogger(__name__)

WEIGHTS = "source.weights.h5"
# The folder of the pretraining in the workdir; with --source_seed=paired it ends with the seed.
FOLDER = "source"


class Source(NamedTuple):
    """The weights to transfer, and their part of report.json."""

    weights: Weights
    record: dict[str, Any]


class Sources:
    """The source of each seed's runs: a shared one, or a pretraining for each seed."""

    def __init__(self, setup: ExperimentSetup, root: Path, shared: Source | None):
        """Store the setup and the shared source.

        Args:
            setup: setup of the experiment.
            root: the workdir.
            shared: the source that exists before training; None with pretraining, or no source.
        """
        self._setup, self._root, self._shared = setup, root, shared
        self._pretrained: dict[str, Source] = {}

    @property
    def are_paired(self) -> bool:
        """Whether each seed has its own pretraining."""
        return self._pretrains and self._setup.config.source_seed == PAIRED

    @property
    def _pretrains(self) -> bool:
        method = methods.find(self._setup.config.method)
        has_images = self._setup.source is not None
        return self._shared is None and has_images and method.copies_weights

    def suffix(self, seed: int) -> str:
        """Return the suffix of file names that belong to the source of `seed`."""
        return f"-{seed}" if self.are_paired else ""

    def record(self, seed: int) -> dict[str, Any] | None:
        """Return the report of the source of `seed`, or None; nothing is trained."""
        if not self._pretrains:
            return self._shared.record if self._shared else None
        if source := self._pretrained.get(self.suffix(seed)):
            return source.record
        return results.read(self._folder(seed), "left out of the report")

    def _folder(self, seed: int) -> Path:
        return self._root / f"{FOLDER}{self.suffix(seed)}"

    def for_seed(self, seed: int) -> Source | None:
        """Return the source of the runs of `seed`, and pretrain it if necessary."""
        if not self._pretrains:
            return self._shared
        suffix, shared_seed = self.suffix(seed), self._setup.config.source_seed
        if suffix not in self._pretrained:
            source_seed = seed if isinstance(shared_seed, str) else shared_seed
            with release_models():
                source = pretrain(self._setup, self._folder(seed), source_seed)
            self._pretrained[suffix] = source
        return self._pretrained[suffix]


def source_flag(config: Config) -> str:
    """Return the flag that names the source, with its value."""
    if config.source_weights:
        return f"--source_weights={config.source_weights}"
    return f"--source={config.source}"


def open_weights_file(config: Config) -> WeightsFile | None:
    """Open the file in --source_weights if the method uses it. No tensor is read yet.

    Raises:
        DataError: the file cannot be used, or names another --model.
    """
    if not config.source_weights or not methods.find(config.method).copies_weights:
        return None
    path = files.expand_user(config.source_weights)
    file = WeightsFile(path, source_flag(config), config.source_weights_sha256)
    if file.origin is not None and file.origin.model != config.model:
        raise DataError(
            f"{source_flag(config)} holds {file.origin.model}, not --model={config.model}. Give"
            f" --model={file.origin.model}, or another file"
        )
    return file


def choose_preprocessing(config: Config, file: WeightsFile | None) -> Preprocessing | None:
    """Return the preprocessing of the weights in --source_weights; None for the catalog's.

    The log names a preprocessing that is read from the file or assumed.

    Raises:
        UsageError: --source_preprocessing contradicts the file.
    """
    if file is None:
        return None
    usual = preprocessings.of_entry(models.find(config.model))
    said = file.preprocessing or (usual if file.origin else None)
    chosen, flag = config.source_preprocessing, config.flat()["source_preprocessing"]
    if chosen and said and not chosen.is_equivalent(said):
        raise UsageError(
            f"--source_preprocessing={flag} contradicts {source_flag(config)}, which says {said}."
            " Remove --source_preprocessing, or give other weights"
        )
    preprocessing = said or chosen or usual
    if file.passed:
        LOG.info("%s: skipped %s, for training only", source_flag(config), ", ".join(file.passed))
    if said is None:
        LOG.info(
            "%s does not name its preprocessing. Assumed: %s, %s. That of --model=%s is %s",
            *(
                source_flag(config),
                preprocessing,
                f"by --source_preprocessing={flag}",
                config.model,
                usual,
            ),
        )
    elif not said.is_equivalent(usual):
        LOG.info(
            "%s has the preprocessing %s, which all models here use. That of --model=%s is %s",
            *(source_flag(config), said, config.model, usual),
        )
    return None if preprocessing.is_equivalent(usual) else preprocessing


def check_head(config: Config, file: WeightsFile | None) -> None:
    """Raise UsageError if the method needs a source head that --source_weights lacks."""
    classes = file.origin.class_names if file and file.origin else ()
    if file and not classes and (user := find_head_user(config)):
        raise UsageError(
            f"{user} continues with the source's head, and {source_flag(config)} has none with"
            " class names. Give weights that tl_keras trained with labels, or choose another"
            " --method"
        )


def load_source(setup: ExperimentSetup, file: WeightsFile | None) -> Source | None:
    """Return the source if it exists before training: a file, or ImageNet weights.

    Raises:
        DataError: the weights do not fit the model, or are not finite.
    """
    config = setup.config
    if file is not None:
        tensors, origin = file.read(setup.build(setup.target.dataset, 0))
        if origin is None:
            size, channels = setup.image_size, setup.body_channels
            origin = Origin(
                file.path.name, (), config.model, size, channels,
                preprocessing=setup.preprocessing,
            )  # fmt: skip
    elif config.source == "imagenet" and methods.find(config.method).copies_weights:
        tensors, origin = _load_imagenet(setup)
    else:
        return None
    sha256 = weights.hash_tensors(tensors)
    record: dict[str, Any] = {
        "dataset": origin.dataset,
        "test": origin.test,
        "weights_sha256": sha256,
    }
    if file is not None:
        record["files"] = {file.path.name: file.sha256}
    return Source(Weights(tensors, origin), record)


def _load_imagenet(setup: ExperimentSetup) -> tuple[weights.Tensors, Origin]:
    config = setup.config
    model = building.build(
        config.model,
        1,
        image_size=setup.image_size,
        input_channels=3,
        body_channels=3,
        dense_units=config.dense_units,
        weights="imagenet",
    )
    tensors = weights.get_tensors(model)
    body = {name: value for name, value in tensors.items() if not name.startswith(weights.HEAD)}
    return body, Origin("imagenet", (), config.model, setup.image_size, 3)


def pretrain(setup: ExperimentSetup, folder: Path, seed: int) -> Source:
    """Train on the source, or read the result of an earlier call, and return the weights."""
    config, images = setup.config, setup.images(seeds.SOURCE)
    path = folder / WEIGHTS
    if (record := results.read(folder)) is not None:
        LOG.info("source: %s is already trained", config.source)
        file = WeightsFile(path, str(path), record["files"][WEIGHTS])
        return Source(file.read(setup.build(images.dataset, 0)), record)
    LOG.info(
        "source: training %s on %s, %s, seed %d", config.model, config.source, config.pretrain, seed
    )
    inputs = setup.method_inputs(seeds.SOURCE, config.source_training, seed)
    outputs = methods.find_pretraining(config.pretrain).prepare(inputs)
    title, origin = f"source {config.source}", setup.origin(images)
    if methods.find_pretraining(config.pretrain).uses_labels:
        outcome = train_and_test.train_and_test(inputs, outputs, images, folder, title, origin)
        test = {name: outcome.test[name] for name in ("accuracy", "loss")}
    else:
        outcome = train_and_test.train_body(inputs, outputs, images, folder, title)
        origin = dataclasses.replace(origin, class_names=())
        test = outcome.test
    origin = dataclasses.replace(origin, test=test)
    outcome.files[WEIGHTS] = weights.save(path, outcome.tensors, origin)
    record = {"dataset": config.source, "seed": seed, **outcome.record(), "test": test}
    results.write(folder, record)
    figures_text = ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}" for name, value in test.items()
    )
    LOG.info("source: on its test images, %s", figures_text)
    return Source(Weights(outcome.tensors, origin), record)
