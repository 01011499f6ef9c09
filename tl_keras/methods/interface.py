"""What a method is given, and what it gives back.

A method says what a transfer may change: what trains, which terms the objective has, whether source
images ride along, whether features can be computed once. It owns no loop.
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

# Gives terms of the objective by name, each () float32, of inputs and the model's outputs.
Extra = Callable[[tf.Tensor, Mapping[str, tf.Tensor]], dict[str, tf.Tensor]]


@dataclass(frozen=True)
class MethodInputs:
    """One run, ready but for what the method decides.

    Attributes:
        config: all flags.
        training: how this model is trained.
        strategy: under which models and variables are made.
        seed: of everything random in this run; draws take what `seed_for` derives of it.
        model: built, and holding the source's weights where the method starts from them.
        precision: what it computes in.
        images: the dataset's training split.
        split: which of them train and which validate.
        image_size: side in pixels of what the model sees.
        augmentation: of the images that train.
        cache: folder for what other runs of this workdir can use too.
        source_weights: None without a source.
        source_train: what the source trained on; None where the method does not ask for it.
        source_augmentation: of those.
        role: seeds.SOURCE where this is the pretraining, else seeds.TARGET.
        preprocessing: what the model does to pixels first; None for what is usual for it.
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
        """Return the seed of one kind of draw, as `seeds.derive` does."""
        return seeds.derive(self.seed, self.role, *purpose)

    @property
    def source(self) -> Weights:
        """The source's weights.

        Raises:
            ValueError: there is no source; `needs_source` in the method's row keeps users from it.
        """
        if self.source_weights is None:
            raise ValueError("this method needs the weights of a source")
        return self.source_weights

    @property
    def source_images(self) -> ImageSet:
        """The source's training images.

        Raises:
            ValueError: they were not read; `streams` in the method's row asks for them.
        """
        if self.source_train is None:
            raise ValueError("this method needs the images of a source")
        return self.source_train

    @property
    def num_classes(self) -> int:
        """How many classes the model tells apart."""
        return self.model.output["logits"].shape[-1]

    @property
    def source_classes(self) -> int:
        """How many classes the source's head tells apart."""
        return len(self.source.tensors[f"{HEAD}bias"])

    @property
    def cross_entropy(self) -> CrossEntropy:
        """The loss that the training flags ask for, on the images that train."""
        labels = self.images.labels[self.split.train]
        return _cross_entropy(self.training, labels, self.num_classes)

    @property
    def source_cross_entropy(self) -> CrossEntropy:
        """The loss of the source's images, as its own training flags ask for it."""
        labels = self.source_images.labels
        return _cross_entropy(self.config.source_training, labels, self.source_classes)

    def source_head(self) -> keras.layers.Dense:
        """Return a copy of the source's head: logits of its classes from (batch, d) features."""
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
        """Return batches of images with this run's seed and augmentation.

        Args:
            images: of which they are.
            chosen: those that take part; None for all.
            views: how many epochs differ in their augmentation; 0 for all.
            name: of the stream; those of different names draw different numbers.
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
    """What a method gives back.

    Attributes:
        task: what the loop trains.
        model: the whole model from images to logits; complete once `task` is trained.
        predict: gives what that model says of a whole split: its logits, (examples, classes)
            float32.
    """

    task: Task
    model: keras.Model
    predict: Callable[[ImageSet], np.ndarray]


@dataclass(frozen=True)
class PretrainingOutputs:
    """What a pretraining without labels gives back: nothing of it says anything of classes.

    Attributes:
        task: what the loop trains; all of its streams are of the same images.
        model: whose body learns.
        evaluate: gives figures of a whole split by name, "loss" among them.
        rebuild: gives what is made of (n, image_size, image_size, channels) uint8 images: the same
            shape, float32 from 0 to 255. None where no images are made.
    """

    task: Task
    model: keras.Model
    evaluate: Callable[[ImageSet], dict[str, float]]
    rebuild: Callable[[np.ndarray], np.ndarray] | None = None


def body_variables(model: keras.Model) -> list[keras.Variable]:
    """Return all that trains below the head."""
    named = named_weights(model).items()
    return [
        variable for name, variable in named if variable.trainable and not name.startswith(HEAD)
    ]


def _cross_entropy(training: Training, labels: np.ndarray, classes: int) -> CrossEntropy:
    kind = training.class_weights
    weights = None if kind == "none" else splits.class_weights(kind, labels, classes)
    return CrossEntropy(training.label_smoothing, weights)


def cross_entropy_of(
    model: keras.Model, loss: CrossEntropy, extra: Extra | None = None
) -> ObjectiveFunction:
    """Return the objective of supervised training of `model` on the target's batches.

    Args:
        model: gives features and logits.
        loss: on the logits.
        extra: gives further terms by name, of the inputs and of what the model made of them.
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


def supervised(run: MethodInputs, views: int = 0) -> MethodOutputs:
    """Prepare training of what is trainable in the setting's model: mean cross-entropy.

    Args:
        run: of the run.
        views: as of `MethodInputs.stream`.
    """
    model = run.model
    task = Task(
        model=model,
        variables=model.trainable_variables,
        streams={"target": run.stream(run.images, run.split.train, views)},
        objective=cross_entropy_of(model, run.cross_entropy),
        validation=run.images.take(run.split.validation),
        image_size=run.image_size,
    )
    predictor = Predictor(model, run.strategy)
    return MethodOutputs(
        task, model, lambda images: predictor.predict(images.images, run.image_size)
    )
