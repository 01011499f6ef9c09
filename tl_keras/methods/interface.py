"""The interface of methods: their inputs and outputs.

A method decides what trains, which terms the objective has, whether source images are part of each
step, and whether features are computed once. The training loop is shared.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tl_keras.config import Config, Training
from tl_keras.config.augmentation import Augmentation
from tl_keras.config.preprocessing import Preprocessing
from tl_keras.data import splits
from tl_keras.data.dataset import ImageSet
from tl_keras.data.pipeline import NO_AUGMENTATION, Stream
from tl_keras.data.splits import Split
from tl_keras.models.building import named_weights
from tl_keras.models.precision import Precision
from tl_keras.models.weights import HEAD, Weights
from tl_keras.runtime import seeds
from tl_keras.training.prediction import Predictor
from tl_keras.training.task import (
    Batch,
    CrossEntropy,
    Objective,
    ObjectiveFunction,
    Task,
    accuracy,
)

# Returns terms of the objective by name, each () float32, from inputs and the model's outputs.
Extra = Callable[[tf.Tensor, Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]


@dataclass(frozen=True)
class MethodInputs:
    """The inputs of a method: one run, complete except for what the method decides.

    Attributes:
        config: all flags.
        training: the training settings of this model.
        strategy: the strategy under which models and variables are made.
        seed: seed of the run; each random draw uses a seed that `seed_for` derives from it.
        model: the built model, with the source's weights if the method's row has `copies_weights`.
        precision: compute dtypes of the model.
        images: the training split of the dataset.
        split: indices of the images that train and that validate.
        image_size: side of the model's input images in pixels.
        augmentation: augmentation of training images.
        cache: folder of features that runs of this workdir share.
        source_weights: None without a source.
        source_train: the source's training images; None unless the row's `streams` has "source".
        source_augmentation: augmentation of the source's training images.
        role: seeds.SOURCE for the pretraining, else seeds.TARGET.
        preprocessing: preprocessing of the model; None for that of its catalog row.
    """

    config: Config
    training: Training
    strategy: tf.distribute.Strategy
    seed: int
    model: keras.Model
    precision: Precision
    images: ImageSet
    split: Split
    image_size: int
    augmentation: Augmentation
    cache: Path
    source_weights: Weights | None = None
    source_train: ImageSet | None = None
    source_augmentation: Augmentation = NO_AUGMENTATION
    role: str = seeds.TARGET
    preprocessing: Preprocessing | None = None

    def seed_for(self, *purpose: str | int) -> int:
        """Return the seed for one purpose; see `seeds.derive`."""
        return seeds.derive(self.seed, self.role, *purpose)

    @property
    def source(self) -> Weights:
        """The source's weights.

        Raises:
            ValueError: there is no source; set `needs_source` in the method's row.
        """
        if self.source_weights is None:
            raise ValueError("this method needs the weights of a source")
        return self.source_weights

    @property
    def source_images(self) -> ImageSet:
        """The source's training images.

        Raises:
            ValueError: they were not read; add "source" to `streams` in the method's row.
        """
        if self.source_train is None:
            raise ValueError("this method needs the images of a source")
        return self.source_train

    @property
    def num_classes(self) -> int:
        """The number of classes of the model."""
        return self.model.output["logits"].shape[-1]

    @property
    def source_classes(self) -> int:
        """The number of classes of the source's head."""
        return len(self.source.tensors[f"{HEAD}bias"])

    @property
    def cross_entropy(self) -> CrossEntropy:
        """The loss of the training flags, with class weights from the training images."""
        labels = self.images.labels[self.split.train]
        return _cross_entropy(self.training, labels, self.num_classes)

    @property
    def source_cross_entropy(self) -> CrossEntropy:
        """The loss of the source's training flags on the source's images."""
        labels = self.source_images.labels
        return _cross_entropy(self.config.source_training, labels, self.source_classes)

    def source_head(self) -> keras.layers.Dense:
        """Return a copy of the source's head: from (batch, d) features to logits."""
        kernel, bias = (self.source.tensors[f"{HEAD}{name}"] for name in ("kernel", "bias"))
        with self.strategy.scope():
            head = keras.layers.Dense(len(bias), name="source_head")
            head.build((None, len(kernel)))
            head.set_weights([kernel, bias])
        return head

    def source_stream(self) -> Stream:
        """Return batches of the source's images, with the source's augmentation."""
        return dataclasses.replace(
            self.stream(self.source_images, views=self.config.cached_views, name="source"),
            augmentation=self.source_augmentation,
            num_classes=self.source_classes,
        )

    def stream(
        self,
        images: ImageSet,
        chosen: np.ndarray | None = None,
        views: int = 0,
        name: str = "target",
    ) -> Stream:
        """Return a stream of images with this run's seed and augmentation.

        Args:
            images: the images.
            chosen: indices of the images to use; None for all.
            views: augmented views per image, which epochs use in turn; 0: a new one in each epoch.
            name: name of the stream, from which its random seed is derived.
        """
        return Stream(
            inputs=images.images,
            labels=images.labels,
            batch_size=self.training.batch_size,
            seed=self.seed_for("stream", name),
            image_size=self.image_size,
            augmentation=self.augmentation,
            views=views,
            chosen=chosen,
            num_classes=self.num_classes,
        )


@dataclass(frozen=True)
class MethodOutputs:
    """The outputs of a method.

    Attributes:
        task: what the loop trains.
        model: the whole model from images to logits; complete once `task` is trained.
        predict: returns the logits of that model for a whole split, (examples, classes) float32.
    """

    task: Task
    model: keras.Model
    predict: Callable[[ImageSet], np.ndarray]


@dataclass(frozen=True)
class PretrainingOutputs:
    """The outputs of a pretraining without labels. Its model has no trained head.

    Attributes:
        task: what the loop trains; all of its streams have the same images.
        model: the model whose body trains.
        evaluate: returns figures of a whole split by name, including "loss".
        rebuild: returns reconstructions of (n, image_size, image_size, channels) uint8 images, in
            the same shape, float32 from 0 to 255. None if the method makes no images.
    """

    task: Task
    model: keras.Model
    evaluate: Callable[[ImageSet], dict[str, float]]
    rebuild: Callable[[np.ndarray], np.ndarray] | None = None


def find_body_variables(model: keras.Model) -> list[keras.Variable]:
    """Return all trainable variables below the head."""
    variables = named_weights(model).items()
    return [
        variable for name, variable in variables if variable.trainable and not name.startswith(HEAD)
    ]


def _cross_entropy(training: Training, labels: np.ndarray, classes: int) -> CrossEntropy:
    kind = training.class_weights
    weights = None if kind == "none" else splits.class_weights(kind, labels, classes)
    return CrossEntropy(training.label_smoothing, weights)


def make_cross_entropy_objective(
    model: keras.Model, loss: CrossEntropy, extra: Extra | None = None
) -> ObjectiveFunction:
    """Return the objective of supervised training of `model` on the target's batches.

    Args:
        model: a model that returns features and logits.
        loss: the loss on the logits.
        extra: returns further terms by name from the inputs and the model's outputs.
    """

    def objective(batch: Batch, _: tf.Tensor) -> Objective:
        inputs, labels = batch["target"]
        outputs = model(inputs, training=True)
        logits = outputs["logits"]
        terms = {"cross_entropy": loss(labels, logits)}
        if extra is not None:
            terms |= extra(inputs, outputs)
        return Objective(terms, {"accuracy": accuracy(labels, logits)})

    return objective


def prepare_supervised(run: MethodInputs, views: int = 0) -> MethodOutputs:
    """Prepare training of the model's trainable variables on the mean cross-entropy.

    Args:
        run: the inputs of the method.
        views: see `MethodInputs.stream`.
    """
    model = run.model
    task = Task(
        model=model,
        variables=model.trainable_variables,
        streams={"target": run.stream(run.images, run.split.train, views)},
        objective=make_cross_entropy_objective(model, run.cross_entropy),
        validation=run.images.take(run.split.validation),
        image_size=run.image_size,
    )
    predictor = Predictor(model, run.strategy)
    return MethodOutputs(
        task, model, lambda images: predictor.predict(images.images, run.image_size)
    )
