"""Feature transfer: a new head on the features of the frozen source model.

The frozen body runs once per image and workdir, and its features are cached on disk. The head that
trains on them belongs to the whole model, so the whole model is complete after training.
"""

import dataclasses

import keras
import numpy as np

from tl_keras.config.trainable import Trainable
from tl_keras.data.dataset import ImageSet
from tl_keras.methods import catalog
from tl_keras.methods.frozen_part import FrozenPart, check_cache_size
from tl_keras.methods.interface import MethodInputs, MethodOutputs, make_cross_entropy_objective
from tl_keras.models.building import find_head, set_trainable
from tl_keras.models.precision import FLOAT32
from tl_keras.training.prediction import Predictor
from tl_keras.training.task import Stage, Task


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare a linear head, or a small MLP, on features of the frozen model.

    The body of `run.model` does not change.

    Raises:
        UsageError: the features exceed --cache_gb.
    """
    body = run.model
    set_trainable(body, Trainable("head"))
    with run.strategy.scope():
        whole, head = _build_heads(run, body)
        frozen = keras.Model(body.input, body.output["features"])
        part = FrozenPart(run, frozen)
    split, config = run.split, run.config
    images = run.stream(run.images, split.train, views=config.cached_views)
    check_cache_size(run, part, max(1, images.views) * len(split.train) + len(split.validation))
    # The loop needs the number of examples before the features are computed.
    task = Task(
        model=head,
        variables=head.trainable_variables,
        streams={"target": images},
        objective=make_cross_entropy_objective(head, run.cross_entropy),
    )

    def enter() -> Task:
        validation = split.validation
        return dataclasses.replace(
            task,
            streams={"target": part.stream(images)},
            validation=part.transform(run.images, validation) if len(validation) else None,
        )

    predictor = Predictor(head, run.strategy)

    def predict(images: ImageSet) -> np.ndarray:
        # The saved model computes in float32, so its test features do too.
        is_exact = run.precision.frozen == FLOAT32
        exact = part if is_exact else FrozenPart(run, frozen, FLOAT32)
        return predictor.predict(exact.transform(images, np.arange(len(images.labels))).images)

    return MethodOutputs(dataclasses.replace(task, stages=[Stage(0.0, enter)]), whole, predict)


def _build_heads(run: MethodInputs, body: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the whole model, and its trainable part from features to logits."""
    features = body.output["features"]
    inputs = keras.Input(features.shape[1:], name="features")
    layers = [find_head(body)]
    [units] = catalog.get_strengths("features", run.config)
    if units:
        sequence = np.random.SeedSequence(run.seed_for("mlp"))
        seeds = iter(sequence.generate_state(2).tolist())
        classes = body.output["logits"].shape[-1]
        layers = [
            _make_dense(int(units), "relu", "head_hidden", next(seeds)),
            _make_dense(classes, None, "head", next(seeds)),
        ]
    logits, whole_logits = inputs, features
    for layer in layers:
        logits, whole_logits = layer(logits), layer(whole_logits)
    head = keras.Model(inputs, {"features": inputs, "logits": logits}, name="head_on_features")
    if len(layers) == 1:
        return body, head
    outputs = {"features": features, "logits": whole_logits}
    return keras.Model(body.input, outputs, name=body.name), head


def _make_dense(units: int, activation: str | None, name: str, seed: int) -> keras.layers.Dense:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, activation, kernel_initializer=initializer, name=name)
