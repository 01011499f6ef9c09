"""The setup of an experiment: data and shapes, checked against the flags before training."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf

from tl_keras.config import Config, Training
from tl_keras.config.preprocessing import Preprocessing
from tl_keras.config.tfds import SELECTIONS
from tl_keras.config.training import SOURCE_PREFIX
from tl_keras.data import splits
from tl_keras.data.dataset import Dataset
from tl_keras.data.fingerprints import DataFingerprints
from tl_keras.data.reading import open_dataset
from tl_keras.data.splits import Split
from tl_keras.distributed import distribution
from tl_keras.errors import UsageError
from tl_keras.experiment.automatic import choose_augmentation, choose_batch_norm
from tl_keras.experiment.images import Images
from tl_keras.experiment.validate import find_validation_flag, reads_source
from tl_keras.methods import catalog as methods
from tl_keras.methods import unfreezing
from tl_keras.methods.interface import MethodInputs
from tl_keras.models import building, weights
from tl_keras.models import catalog as models
from tl_keras.models.precision import Precision, set_compute_dtype
from tl_keras.models.weights import Origin, Weights
from tl_keras.runtime import seeds


@dataclass(frozen=True)
class ExperimentSetup:
    """What all runs of an experiment share.

    Attributes:
        config: all flags.
        strategy: the strategy under which models are built.
        image_size: side of the models' input images in pixels.
        body_channels: channels of the input of the models' body.
        precision: compute dtypes of the models.
        cache: folder of features that runs share.
        seals: fingerprints of the images that were read.
        target: the dataset to learn.
        source: the dataset to pretrain on or to train on jointly; it also determines the shapes.
            None if weights are given, or there is no source.
        preprocessing: preprocessing of all models; None for that of the model's catalog row.
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
        """Return a model for `dataset` with weights initialised from a derived seed."""
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
        self,
        role: str,
        training: Training,
        seed: int,
        shots: int | None = None,
        *,
        has_weights: bool = False,
    ) -> MethodInputs:
        """Return the inputs of a method: a model with initial weights, images and their split.

        Args:
            role: seeds.SOURCE or seeds.TARGET: selects the dataset and the random streams.
            training: the training settings. The inputs have its choice for batch_norm "auto".
            seed: seed of the run.
            shots: labelled images per class, None for all.
            has_weights: whether the model gets the weights of a source.
        """
        batch_norm = choose_batch_norm(training, self.config.model, has_weights=has_weights)
        training = dataclasses.replace(training, batch_norm=batch_norm)
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
            augmentation=choose_augmentation(images.dataset, training),
            cache=self.cache,
            role=role,
            preprocessing=self.preprocessing,
        )

    def images(self, role: str) -> Images:
        """Return the dataset of a role.

        Raises:
            ValueError: there is no source dataset; see `reads_source`.
        """
        images = self.source if role == seeds.SOURCE else self.target
        if images is None:
            raise ValueError("this experiment reads no source dataset")
        return images

    def origin(self, images: Images) -> Origin:
        """Return the metadata of weights that were trained on `images`."""
        names, config = images.dataset.class_names, self.config
        size, channels = self.image_size, self.body_channels
        return Origin(
            images.dataset.name, names, config.model, size, channels,
            preprocessing=self.preprocessing, form=images.form(config.fit),
        )  # fmt: skip

    def split(self, role: str, training: Training, seed: int, shots: int | None = None) -> Split:
        """Return the split of the training images into training and validation for `seed`."""
        images = self.images(role)
        return splits.split(
            images.train.labels,
            images.dataset.class_names,
            seed=seeds.derive(seed, role, "split"),
            shots=shots,
            validation=self.config.validation,
            # Both arms of a seed hold out the same images.
            needs_validation=any(
                map(find_validation_flag, self._trainings_of_split(role, training))
            ),
            groups=images.train.groups,
            is_validation=images.train.is_validation,
        )

    def _trainings_of_split(self, role: str, training: Training) -> tuple[Training, ...]:
        """Return the training settings of all models that share a split with this one."""
        if role == seeds.SOURCE:
            return (training,)
        return (training, self.config.training, self.config.scratch)

    def check(self, source_weights: Weights | None, flag: str, runs: Sequence[Config]) -> None:
        """Build, copy and split once as a check, so that errors appear before any training.

        Args:
            source_weights: the source's weights, if they exist before training.
            flag: the flag that names them, for errors.
            runs: the flags of each run; all have the same data and model.

        Raises:
            UsageError: --image_size, --trainable, --unfreeze, --shots or a flag that needs a
                validation set does not fit the model or the data.
            DataError: the weights do not fit the model, or a test split has no labels.
        """
        model = self.build(self.target.dataset, 0)
        if source_weights is not None:
            weights.copy(source_weights, model, self.target.dataset.class_names, "new", flag)
        self._check_tests(source_weights)
        for config in runs:
            if config.method.name != "scratch":
                building.set_trainable(model, config.trainable)
                unfreezing.plan_stages(model, config)
            self._check_split(config)

    def _check_tests(self, source_weights: Weights | None) -> None:
        """Check the labels of the test splits that are read after training."""
        self.target.check_test()
        trains_source = source_weights is None and methods.find(self.config.method).copies_weights
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
                        f"--{flag.format(prefix)} needs a validation set, and no class of"
                        f" --target={config.target} has enough training images for one. Raise"
                        f" --shots, or remove --{flag.format(prefix).partition('=')[0]}"
                    )


def make_setup(
    config: Config,
    strategy: tf.distribute.Strategy,
    origin: Origin | None,
    precision: Precision,
    root: Path,
    preprocessing: Preprocessing | None = None,
) -> ExperimentSetup:
    """Open the datasets and determine the shapes.

    Args:
        config: all flags.
        strategy: the strategy under which models are built.
        origin: metadata of the weights in --source_weights; None without that flag.
        precision: compute dtypes of the models.
        root: the workdir.
        preprocessing: preprocessing of all models; None for that of the model's catalog row.

    Raises:
        UsageError: the flags do not fit the data.
        DataError: the data are missing or damaged.
    """
    seals = DataFingerprints(root / "data.json")
    target = _open_dataset(config.target, config, "tfds")
    source = None
    if reads_source(config):
        # The checks at opening run once if both are the same dataset.
        same = config.source == config.target and config.source_tfds == config.tfds
        source = target if same else _open_dataset(config.source, config, "source_tfds")
    if source and origin and source.class_names != origin.class_names:
        raise UsageError(
            f"--method={config.method} continues with the head of --source_weights, which has the"
            f" classes of {origin.dataset}, and --source={config.source} has others. Give that"
            " dataset as --source"
        )
    image_size = _choose_image_size(config, target, source, origin)
    same = source is target
    target_size = _choose_stored_size(target, image_size, config)
    target = _decode(target, target_size)
    source_size = _choose_stored_size(source, image_size, config) if source else 0
    source = target if same else source and _decode(source, source_size)
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
        Images(target, image_size, seals, target_size),
        Images(source, image_size, seals, source_size) if source else None,
        preprocessing,
    )


def _open_dataset(name: str, config: Config, selection: str) -> Dataset:
    """Open a dataset, with the features and splits of a field of `SELECTIONS`."""
    return open_dataset(
        name,
        framing=config.framing,
        data_dir=config.data_dir,
        pictures=config,
        tfds=getattr(config, selection),
        tfds_prefix=SELECTIONS[selection],
    )


def _decode(dataset: Dataset, image_size: int) -> Dataset:
    """Decode the files of a dataset, if it consists of such."""
    return dataset.decode(image_size) if dataset.decode else dataset


def _choose_stored_size(dataset: Dataset, image_size: int, config: Config) -> int:
    """Return the side of the decoded images of a dataset whose images differ in size.

    It is that of the model, or more if an augmentation uses more.
    """
    augmentations = (choose_augmentation(dataset, one) for one in config.trainings.values())
    return math.ceil(image_size * max(one.enlargement for one in augmentations))


def _choose_image_size(
    config: Config, target: Dataset, source: Dataset | None, origin: Origin | None
) -> int:
    """Return the image side: that of the flag, else of the weights, the model or the source."""
    entry = models.find(config.model)
    sizes = [
        config.image_size,
        origin.image_size if origin else 0,
        entry.image_size if entry.function else 0,
        source.size if source else 0,
        target.size,
    ]
    size = next((size for size in sizes if size), 0)
    if not size:
        raise UsageError(
            f"--image_size=0: the images of --target={config.target} differ in size. Give the side"
            " in pixels that they are resized to, such as --image_size=64"
        )
    return size
