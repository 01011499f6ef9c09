"""Where a model can be cut: a frozen part, whose results can be kept, before the part that trains.

Up to the cut nothing trains and nothing is random, so a picture always gives the same tensor there.
"""

import inspect
from typing import NamedTuple

import keras

from tl_keras.models import norms
from tl_keras.models.building import find_head
from tl_keras.models.feature_maps import find_bottlenecks
from tl_keras.models.naming import leaves


class FrozenSplit(NamedTuple):
    """A model in two parts, which share its layers.

    Attributes:
        frozen: from images to the tensor at the cut.
        rest: from that tensor to what the model gives.
    """

    frozen: keras.Model
    rest: keras.Model


def split_frozen(model: keras.Model) -> FrozenSplit | None:
    """Cut a model behind as many of its frozen layers as can be; None where there is nothing to do.

    Args:
        model: of which `building.train_only` or `set_trainable` has chosen what trains.
    """
    place = None
    is_bottleneck = find_bottlenecks(model)
    # The features may be where the cut is, and come out of both parts.
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
    # Keras has no model whose input is an output too, unless it is an Input.
    features = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name="features")
    outputs = {"features": features, "logits": find_head(model)(features)}
    return FrozenSplit(frozen, keras.Model(features, outputs, name=model.name))


def _layers(operation: keras.Operation) -> list[keras.Layer]:
    return [leaf for leaf in leaves(operation) if isinstance(leaf, keras.Layer)]


def _varies(operation: keras.Operation) -> bool:
    """Tell whether what this makes of the same input may differ from step to step."""
    return bool(getattr(operation, "trainable_variables", None)) or differs_in_training(operation)


def differs_in_training(operation: keras.Operation) -> bool:
    """Tell whether this does something else in training than in inference, such as dropout.

    A BatchNormalization that is frozen, or whose statistics are, does not: it goes by its moving
    statistics in both.
    """
    if isinstance(operation, keras.layers.BatchNormalization):
        return norms.updates_statistics(operation)
    # Dense is told too, for the sake of quantisation, and does the same.
    is_told = "training" in inspect.signature(operation.call).parameters
    return is_told and not isinstance(operation, keras.layers.Dense)
