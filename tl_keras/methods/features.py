"""Feature transfer: a new head on the features of the frozen source model.

The frozen part sees each picture once in the life of a workdir; its features lie on disk. What is
trained on them is the head of the whole model itself, so that nothing has to be put together after.
"""

from typing import Any

import keras
import numpy as np

from tl_keras.data.dataset import ImageSet
from tl_keras.data.seals import fingerprint
from tl_keras.methods.feature_cache import FeatureCache
from tl_keras.methods.setting import Prepared, Setting, cross_entropy_of
from tl_keras.models import weights
from tl_keras.models.building import head_of, set_trainable
from tl_keras.models.folding import folded
from tl_keras.models.precision import compute_in
from tl_keras.training.prediction import Outputs, Predictor
from tl_keras.training.task import Task


def prepare(setting: Setting) -> Prepared:
    """Prepare a linear head, or a small MLP, on features of the frozen model.

    Also called proxy collection. The body of `setting.model` does not change.

    Raises:
        WriteError: the features cannot be kept on disk.
    """
    body = setting.model
    set_trainable(body, "head")
    with setting.strategy.scope():
        frozen = folded(body)
        compute_in(frozen, setting.precision.frozen)
        whole, head = _heads(setting, body)
    store = _Features(setting, Predictor(frozen, setting.strategy))
    split = setting.split
    task = Task(
        model=head,
        variables=head.trainable_variables,
        streams={"target": setting.stream(store.of(setting.images, split.train))},
        objective=cross_entropy_of(head, setting.cross_entropy),
        validation=store.of(setting.images, split.validation) if len(split.validation) else None,
    )
    predictor = Predictor(head, setting.strategy)

    def predict(images: ImageSet) -> Outputs:
        return predictor.predict(store.of(images, np.arange(len(images.labels))).images)

    return Prepared(task, whole, predict)


def _heads(setting: Setting, body: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the whole model, and the part of it that trains, from features to logits."""
    features = body.output["features"]
    inputs = keras.Input(features.shape[1:], name="features")
    layers = [head_of(body)]
    if setting.config.feature_head == "mlp":
        seeds = iter(np.random.SeedSequence((setting.seed, 1)).generate_state(2).tolist())
        classes = body.output["logits"].shape[-1]
        layers = [
            _dense(setting.config.feature_units, "relu", "head_hidden", next(seeds)),
            _dense(classes, None, "head", next(seeds)),
        ]
    logits, whole_logits = inputs, features
    for layer in layers:
        logits, whole_logits = layer(logits), layer(whole_logits)
    head = keras.Model(inputs, {"features": inputs, "logits": logits}, name="head_on_features")
    if len(layers) == 1:
        return body, head
    outputs = {"features": features, "logits": whole_logits}
    return keras.Model(body.input, outputs, name=body.name), head


def _dense(units: int, activation: str | None, name: str, seed: int) -> keras.layers.Dense:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer, name=name)


class _Features:
    """The features of image sets under one frozen model, through the caches on disk."""

    def __init__(self, setting: Setting, predictor: Predictor):
        tensors = weights.tensors_of(setting.model)
        body = {n: value for n, value in tensors.items() if not n.startswith(weights.HEAD)}
        self._folder = setting.cache
        self._key = {
            "model": setting.config.model,
            "weights": weights.digest(body),
            "image_size": setting.image_size,
            "precision": setting.precision.frozen,
        }
        self._image_size = setting.image_size
        self._predictor = predictor

    def of(self, images: ImageSet, indices: np.ndarray) -> ImageSet:
        """Return the features, in place of images, and labels of the examples at `indices`."""
        key: dict[str, Any] = {**self._key, "images": fingerprint(images.images)}
        cache = FeatureCache(self._folder, key)
        rows = cache.rows(indices, lambda i: self._compute(images.images[i]))
        return ImageSet(rows, images.labels[indices])

    def _compute(self, images: np.ndarray) -> np.ndarray:
        return self._predictor.predict(images, self._image_size).features
