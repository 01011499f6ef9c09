"""Fold BatchNormalization into the preceding convolutions, for faster inference.

BatchNormalization in inference mode is a scale and an offset of each channel, which can be part of
the preceding kernel and bias. The results are equal up to rounding.
"""

from collections import defaultdict
from typing import Any

import keras
import numpy as np

from tl_keras.models.building import copy_weights
from tl_keras.models.norms import is_plain_norm

# Layers with a kernel whose last axis are the output channels, and a bias per output channel.
KERNELS = {
    keras.layers.Conv2D: "kernel",
    keras.layers.Dense: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
}


class _FoldedNorm(keras.layers.Identity):
    """Replaces a BatchNormalization that was folded into the preceding layer."""


def fold_norms(model: keras.Model) -> keras.Model:
    """Return a copy of `model` for inference, with BatchNormalization folded into preceding layers.

    BatchNormalization after another operation, such as a sum or a padding, is kept.

    Args:
        model: from `building.build`, with each layer called once. It is not changed. Later changes
            of its weights do not affect the copy.
    """
    norms = _find_norms(model)
    gone = {id(norm) for norm in norms.values()}
    copies: dict[int, keras.Layer] = {}

    def copy_layer(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if id(layer) in gone:
            return _FoldedNorm()
        if id(layer) in norms:
            config["use_bias"] = True
        return copies.setdefault(id(layer), type(layer).from_config(config))

    def call_layer(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        return args[0] if isinstance(layer, _FoldedNorm) else layer(*args, **kwargs)

    result = keras.models.clone_model(model, clone_function=copy_layer, call_function=call_layer)
    for layer in model.layers:
        if id(layer) in norms:
            _fold(copies[id(layer)], layer, norms[id(layer)])
        elif layer.weights and id(layer) not in gone:
            copy_weights(layer, copies[id(layer)])
    return result


def _find_norms(model: keras.Model) -> dict[int, keras.layers.BatchNormalization]:
    """Return, by the id of a layer, the BatchNormalization that is the only user of its output."""
    uses: dict[int, list[keras.Operation]] = defaultdict(list)
    for operation in model.operations:
        if not isinstance(operation, keras.layers.InputLayer):
            for tensor in keras.tree.flatten(operation.input):
                uses[id(tensor)].append(operation)
    results = {id(tensor) for tensor in keras.tree.flatten(model.output)}
    return {
        id(layer): uses[id(layer.output)][0]
        for layer in model.layers
        if type(layer) in KERNELS
        and layer.activation is keras.activations.linear
        and id(layer.output) not in results
        and [is_plain_norm(use) for use in uses[id(layer.output)]] == [True]
    }


def _fold(copy: keras.Layer, layer: keras.Layer, norm: keras.layers.BatchNormalization) -> None:
    """Set the weights of `copy` so that it computes `layer` followed by `norm`."""
    variance = norm.moving_variance.numpy().astype(np.float64)
    scale = (norm.gamma.numpy() if norm.scale else 1.0) / np.sqrt(variance + norm.epsilon)
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    offset = norm.beta.numpy() if norm.center else 0.0
    copy.bias.assign((bias - norm.moving_mean.numpy()) * scale + offset)
    name = KERNELS[type(layer)]
    for variable in layer.weights:
        value = variable.numpy()
        if variable.name == name:
            # The last two axes of a depthwise kernel together are the output channels.
            channels = value.shape[-2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else -1
            getattr(copy, name).assign(value * scale.reshape(channels))
        elif variable.name != "bias":
            getattr(copy, variable.name).assign(value)
