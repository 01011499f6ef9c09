"""What is decided before anything trains: the data, the shapes, and that both fit the flags."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from tl_keras.config import Config, Training
from tl_keras.config.augmentation import Augmentation
from tl_keras.config.preprocessing import Preprocessing
from tl_keras.config.training import SOURCE_PREFIX
from tl_keras.data import splits
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.fingerprints import DataFingerprints
from tl_keras.data.reading import open_dataset
from tl_keras.data.splits import Split
from tl_keras.distributed import cluster, distribution
from tl_keras.errors import UsageError
from tl_keras.experiment.validate import find_validation_flag, reads_source
from tl_keras.methods import catalog as methods
from tl_keras.methods import unfreezing
from tl_keras.methods.interface import MethodInputs
from tl_keras.models import building, weights
from tl_keras.models import catalog as models
from tl_keras.models.precision import Precision, set_compute_dtype
from tl_keras.models.weights import Origin, Weights
from tl_keras.runtime import seeds


class Images:
    """A dataset with its splits, each read when first asked for, and kept."""

    def __init__(self, dataset: Dataset, image_size: int, seals: DataFingerprints):
        """Read `dataset` for models that see images of `image_size` pixels a side."""
        self.dataset = dataset
        self.image_size = image_size
        self._seals = seals

    @functools.cached_property
    def train(self) -> ImageSet:
        """The training split; a DataError where it is not what the workdir was begun with."""
        return self._read("train")

    @functools.cached_property
    def test(self) -> ImageSet:
        """The test split, likewise; asked for when training is over."""
        return self._read("test")

    def check_test(self) -> None:
        """Look at the labels of the test split, unless an earlier command has read all of it.

        Raises:
            DataError: they are missing, or one is outside of the classes.
        """
        if not self._seals.contains(self.dataset.name, "test"):
            self.dataset.check_test()

    def _read(self, split: str) -> ImageSet:
        images = self.dataset.read(split, self.image_size)
        seal = self._seals.check(self.dataset.name, split, images, self.dataset.class_names)
        named = f"the {split} images of '{self.dataset.name}'"
        cluster.current().check_same(named, seal)
        return images


@dataclass(frozen=True)
class ExperimentSetup:
    """What every run of one experiment shares.

    Attributes:
        config: all flags.
        strategy: under which models are made.
        image_size: side in pixels of what the models see.
        body_channels: channels of what the models' body sees.
        precision: what the models compute in.
        cache: folder of what runs share.
        seals: of the pictures that were read.
        target: the dataset to learn.
        source: the dataset to pretrain on, or to ride along; it also settles the shapes. None where
            weights are given, or there is no source.
        preprocessing: what every model does to pixels; None for what the catalog has.
    """

    config: Config
    strategy: tf.distribute.Strategy
    image_size: int
    body_channels: int
    precision: Precision
    cache: Path
    seals: DataFingerprints
    target: Images
    source: Images | None
    preprocessing: Preprocessing | None = None

    def build(self, dataset: Dataset, seed: int) -> keras.Model:
        """Return a model of `dataset` with fresh weights that a derived seed decides."""
        with self.strategy.scope():
            return building.build(
                self.config.model,
                len(dataset.class_names),
                image_size=self.image_size,
                input_channels=dataset.channels,
                body_channels=self.body_channels,
                dense_units=self.config.dense_units,
                seed=seed,
                synchronised=self.config.sync_batch_norm,
                preprocessing=self.preprocessing,
            )

    def method_inputs(
        self, role: str, training: Training, seed: int, shots: int | None = None
    ) -> MethodInputs:
        """Return a run: a model with fresh weights, and what trains and validates.

        Args:
            role: seeds.SOURCE or seeds.TARGET: of the dataset, and of all that is drawn.
            training: how the model is trained; its batch_norm is recomputed for auto.
            seed: of the run.
            shots: labelled images a class, None for all.
        """
        if training.batch_norm == "auto":
            training = dataclasses.replace(training, batch_norm="recomputed")
        images = self.images(role)
        model = self.build(images.dataset, seeds.derive(seed, role, "model"))
        set_compute_dtype(model, self.precision.training)
        return MethodInputs(
            config=self.config,
            training=training,
            strategy=self.strategy,
            seed=seed,
            model=model,
            precision=self.precision,
            images=images.train,
            split=self.split(role, training, seed, shots),
            image_size=self.image_size,
            augmentation=choose_augmentation(images, training),
            cache=self.cache,
            role=role,
            preprocessing=self.preprocessing,
        )

    def images(self, role: str) -> Images:
        """Return the dataset of a role.

        Raises:
            ValueError: there is no source dataset; `reads_source` tells where there is one.
        """
        images = self.source if role == seeds.SOURCE else self.target
        if images is None:
            raise ValueError("this experiment reads no source dataset")
        return images

    def origin(self, images: Images) -> Origin:
        """Return what is to be said of weights that were trained on `images`."""
        names, config = images.dataset.class_names, self.config
        size, channels, prepared = self.image_size, self.body_channels, self.preprocessing
        return Origin(
            images.dataset.name, names, config.model, size, channels, preprocessing=prepared
        )

    def split(self, role: str, training: Training, seed: int, shots: int | None = None) -> Split:
        """Return which training images train and which validate in the runs of `seed`."""
        images = self.images(role)
        return splits.split(
            images.train.labels,
            images.dataset.class_names,
            seed=seeds.derive(seed, role, "split"),
            shots=shots,
            validation=self.config.validation,
            # Of a pair, both arms leave the same images out.
            needs_validation=any(
                map(find_validation_flag, self._trainings_of_split(role, training))
            ),
        )

    def _trainings_of_split(self, role: str, training: Training) -> tuple[Training, ...]:
        """Return how the models are trained that share a split with this one."""
        if role == seeds.SOURCE:
            return (training,)
        return (training, self.config.training, self.config.scratch)

    def check(self, known: Weights | None, named: str, runs: Sequence[Config]) -> None:
        """Build, copy and split once for nothing: what cannot be is said before any training.

        Args:
            known: the source's weights, where they are there before any training.
            named: the flag that names them, for the error.
            runs: the flags of each run, which have the data and the model in common.

        Raises:
            UsageError: --image_size, --trainable, --unfreeze, --shots or a flag that watches the
                validation set does not fit the model or the data.
            DataError: the weights do not fit the model, or a test split has no labels.
        """
        model = self.build(self.target.dataset, 0)
        if known is not None:
            weights.copy(known, model, self.target.dataset.class_names, "new", named)
        self._check_tests(known)
        for config in runs:
            if config.method.name != "scratch":
                building.set_trainable(model, config.trainable)
                unfreezing.plan_stages(model, config)
            self._check_split(config)

    def _check_tests(self, known: Weights | None) -> None:
        """Look at the labels of the test splits that will be read when training is over."""
        self.target.check_test()
        trains_source = known is None and methods.find(self.config.method).copies_weights
        if self.source and trains_source:
            self.source.check_test()

    def _check_split(self, config: Config) -> None:
        of_target = {p: one for p, one in config.trainings.items() if p != SOURCE_PREFIX}
        for prefix, training in of_target.items():
            flag = find_validation_flag(training)
            for seed in config.seeds:
                chosen = self.split(seeds.TARGET, training, seed, config.shots)
                batch = min(training.batch_size, len(chosen.train))
                distribution.check_shares(batch, self.strategy)
                if flag and not len(chosen.validation):
                    raise UsageError(
                        f"--{flag.format(prefix)} watches a validation set, and no class of"
                        f" --target={config.target} has a training image to spare for it"
                    )


def choose_augmentation(images: Images, training: Training) -> Augmentation:
    """Return how the images that train are augmented: the dataset's own way for "auto"."""
    return images.dataset.augment if training.augment is None else training.augment


def make_setup(
    config: Config,
    strategy: tf.distribute.Strategy,
    origin: Origin | None,
    precision: Precision,
    root: Path,
    preprocessing: Preprocessing | None = None,
) -> ExperimentSetup:
    """Open the datasets and settle the shapes.

    Args:
        config: all flags.
        strategy: under which models will be made.
        origin: what is known of the weights in --source_weights; None without that flag.
        precision: what the models compute in.
        root: the workdir.
        preprocessing: what every model does to pixels; None for what the catalog has.

    Raises:
        UsageError: the flags do not fit the data.
        DataError: the data are missing or damaged.
    """
    seals = DataFingerprints(root / "data.json")
    target = _open_dataset(config.target, config)
    source = None
    if reads_source(config):
        # What is looked at when a dataset is opened is looked at once.
        source = target if config.source == config.target else _open_dataset(config.source, config)
    if source and origin and source.class_names != origin.class_names:
        raise UsageError(
            f"--method={config.method} goes on with the head of --source_weights, which knows the"
            f" classes of {origin.dataset}; --source={config.source} has others: give that dataset"
        )
    image_size = _choose_image_size(config, target, source, origin)
    channels = max(target.channels, source.channels if source else 1)
    if models.find(config.model).function:
        channels = 3
    elif origin is not None:
        channels = origin.body_channels
    return ExperimentSetup(
        config,
        strategy,
        image_size,
        channels,
        precision,
        root / "features",
        seals,
        Images(target, image_size, seals),
        Images(source, image_size, seals) if source else None,
        preprocessing,
    )


def _open_dataset(name: str, config: Config) -> Dataset:
    return open_dataset(
        name,
        framing=config.framing,
        data_dir=config.data_dir,
        max_bad_images=config.max_bad_images,
    )


def _choose_image_size(
    config: Config, target: Dataset, source: Dataset | None, origin: Origin | None
) -> int:
    """Return the side of the images: the flag's, else the weights', the model's or the source's."""
    entry = models.find(config.model)
    known = [
        config.image_size,
        origin.image_size if origin else 0,
        entry.image_size if entry.function else 0,
        source.size if source else 0,
        target.size,
    ]
    size = next((size for size in known if size), 0)
    if not size:
        raise UsageError(
            f"--image_size=0: the pictures of --target={config.target} differ in size; say to"
            " which side in pixels they are to be brought, such as --image_size=64"
        )
    return size
