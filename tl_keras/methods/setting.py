"""What a method is given, and what it gives back.

A method says what a transfer may change: what trains, which terms the objective has, whether source
images ride along, whether features can be computed once. It owns no loop.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tl_keras.config import Config, Training
from tl_keras.data import augment_spec
from tl_keras.data.dataset import ImageSet
from tl_keras.data.pipeline import Stream
from tl_keras.data.splits import Split
from tl_keras.models.weights import Weights
from tl_keras.training.prediction import Outputs, Predictor
from tl_keras.training.task import Batch, Task, cross_entropy


@dataclass(frozen=True)
class Setting:
    """One run, ready but for what the method decides.

    Attributes:
        config: all flags.
        training: how this model is trained.
        strategy: under which models and variables are made.
        seed: of everything random in this run.
        model: built, and holding the source's weights where the method starts from them.
        images: the dataset's training split.
        split: which of them train and which validate.
        image_size: side in pixels of what the model sees.
        augment: specification of the augmentation, "auto" resolved.
        cache: folder for what other runs of this workdir can use too.
        source_weights: None without a source.
        source_train: what the source trained on; None where the method does not ask for it.
        source_augment: specification of its augmentation, "auto" resolved.
    """

    config: Config
    training: Training
    strategy: tf.distribute.Strategy
    seed: int
    model: keras.Model
    images: ImageSet
    split: Split
    image_size: int
    augment: str
    cache: Path
    source_weights: Weights | None = None
    source_train: ImageSet | None = None
    source_augment: str = "none"

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
            ValueError: they were not read; `source_images` in the method's row asks for them.
        """
        if self.source_train is None:
            raise ValueError("this method needs the images of a source")
        return self.source_train

    def source_stream(self) -> Stream:
        """Return batches of the source's images, with the source's augmentation."""
        augmentation = augment_spec.parse(self.source_augment)
        return dataclasses.replace(self.stream(self.source_images), augmentation=augmentation)

    def stream(self, images: ImageSet, chosen: np.ndarray | None = None) -> Stream:
        """Return batches of images, or of features, with this run's seed and augmentation."""
        return Stream(
            inputs=images.images,
            labels=images.labels,
            batch_size=self.training.batch_size,
            seed=self.seed,
            image_size=self.image_size if images.images.ndim == 4 else 0,
            augmentation=augment_spec.parse(self.augment),
            chosen=chosen,
        )


@dataclass(frozen=True)
class Prepared:
    """What a method gives back.

    Attributes:
        task: what the loop trains.
        model: the whole model from images to logits; complete once `task` is trained.
        predict: gives what that model says of a whole split.
    """

    task: Task
    model: keras.Model
    predict: Callable[[ImageSet], Outputs]


Terms = Callable[[Batch], tuple[dict[str, tf.Tensor], tf.Tensor]]


def cross_entropy_of(model: keras.Model) -> Terms:
    """Return the objective of plain supervised training of `model` on the target's batches."""

    def terms(batch: Batch) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        inputs, labels = batch["target"]
        logits = model(inputs, training=True)["logits"]
        return {"cross_entropy": cross_entropy(labels, logits)}, logits

    return terms


def supervised(setting: Setting) -> Prepared:
    """Prepare plain training of what is trainable in the setting's model: mean cross-entropy."""
    model = setting.model
    task = Task(
        model=model,
        variables=model.trainable_variables,
        streams={"target": setting.stream(setting.images, setting.split.train)},
        terms=cross_entropy_of(model),
        validation=setting.images.take(setting.split.validation),
        image_size=setting.image_size,
    )
    predictor = Predictor(model, setting.strategy)
    return Prepared(
        task, model, lambda images: predictor.predict(images.images, setting.image_size)
    )
