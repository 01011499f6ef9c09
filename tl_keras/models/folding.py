"""A frozen model with its normalisation folded away: the same function, computed sooner.

Behind a convolution, normalisation in inference mode is a scale and an offset of each channel, and
these can as well be part of the kernel and of the bias. What is left is equal up to rounding.
"""

from collections import defaultdict
from typing import Any

import keras
import numpy as np

from tl_keras.models.building import copy_weights
from tl_keras.models.norms import is_plain_norm

# What has a kernel whose last axis are the output's channels, and a bias for each of these.
KERNELS = {
    keras.layers.Conv2D: "kernel",
    keras.layers.Dense: "kernel",
    keras.layers.DepthwiseConv2D: "kernel",
    keras.layers.SeparableConv2D: "pointwise_kernel",
}


class _FoldedNorm(keras.layers.Identity):
    """Stands for a norm that was folded into the layer before it."""


def fold_norms(model: keras.Model) -> keras.Model:
    """Return a copy of `model` for inference, in which layers have taken in the norms behind them.

    A norm that follows something else, such as a sum or a padding, stays a layer of its own.

    Args:
        model: one that `building.build` made, and that calls each layer once. It is not changed,
            nor does the copy follow it when it changes.
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
    """Return, by the id of the layer, the norm that is all that becomes of the layer's output."""
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
    """Give the copy of `layer` the weights with which it does what `layer` and `norm` do."""
    variance = norm.moving_variance.numpy().astype(np.float64)
    scale = (norm.gamma.numpy() if norm.scale else 1.0) / np.sqrt(variance + norm.epsilon)
    bias = layer.bias.numpy() if layer.use_bias else 0.0
    offset = norm.beta.numpy() if norm.center else 0.0
    copy.bias.assign((bias - norm.moving_mean.numpy()) * scale + offset)
    name = KERNELS[type(layer)]
    for variable in layer.weights:
        value = variable.numpy()
        if variable.name == name:
            # Of a depthwise kernel the last two axes together are the output's channels.
            channels = value.shape[-2:] if isinstance(layer, keras.layers.DepthwiseConv2D) else -1
            getattr(copy, name).assign(value * scale.reshape(channels))
        elif variable.name != "bias":
            getattr(copy, variable.name).assign(value)
