"""Split a model into a frozen part, whose outputs can be cached, and the part that trains.

The frozen part has no trainable weights and no random layers, so its output depends on the image
alone.
"""

import inspect
from typing import NamedTuple

import keras

from tl_keras.models import norms
from tl_keras.models.building import find_head
from tl_keras.models.feature_maps import find_bottlenecks
from tl_keras.models.naming import leaves


class FrozenSplit(NamedTuple):
    """The two parts of a model. They share its layers.

    Attributes:
        frozen: from images to the tensor at the split.
        rest: from that tensor to the outputs of the model.
    """

    frozen: keras.Model
    rest: keras.Model


def split_frozen(model: keras.Model) -> FrozenSplit | None:
    """Split off the largest possible frozen part, or return None if it has no weights.

    Args:
        model: after `building.train_only` or `set_trainable`.
    """
    place = None
    is_bottleneck = find_bottlenecks(model)
    # The split may be at the features, which are an output of the model themselves.
    results = keras.tree.flatten({k: v for k, v in model.output.items() if k != "features"})
    results = {id(tensor) for tensor in results}
    for number, operation in enumerate(model.operations):
        if any(_varies(leaf) for leaf in leaves(operation)):
            break
        tensors = keras.tree.flatten(operation.output)
        if is_bottleneck[number] and len(tensors) == 1 and id(tensors[0]) not in results:
            place = number
    before = model.operations[: (place or 0) + 1]
    if place is None or not any(leaf.weights for one in before for leaf in _layers(one)):
        return None
    tensor = model.operations[place].output
    frozen = keras.Model(model.input, tensor, name=f"{model.name}_frozen")
    if tensor is not model.output["features"]:
        return FrozenSplit(frozen, keras.Model(tensor, model.output, name=model.name))
    # In a Keras model, a tensor that is input and output must be an Input.
    features = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name="features")
    outputs = {"features": features, "logits": find_head(model)(features)}
    return FrozenSplit(frozen, keras.Model(features, outputs, name=model.name))


def _layers(operation: keras.Operation) -> list[keras.Layer]:
    return [leaf for leaf in leaves(operation) if isinstance(leaf, keras.Layer)]


def _varies(operation: keras.Operation) -> bool:
    """Return whether the output for a fixed input may change from step to step."""
    return bool(getattr(operation, "trainable_variables", None)) or differs_in_training(operation)


def differs_in_training(operation: keras.Operation) -> bool:
    """Return whether an operation behaves differently in training and inference, like dropout.

    A BatchNormalization with frozen statistics does not: it uses its moving statistics in both.
    """
    if isinstance(operation, keras.layers.BatchNormalization):
        return norms.updates_statistics(operation)
    # Dense has the argument for quantisation only, and behaves the same.
    is_told = "training" in inspect.signature(operation.call).parameters
    return is_told and not isinstance(operation, keras.layers.Dense)
