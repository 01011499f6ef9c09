"""Names of layers and weights that are the same in every process.

Keras numbers unnamed layers by a counter of the process: InceptionV3's first layer is `conv2d` or
`conv2d_94`. Here the numbers start from zero in every model, as in a new process.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol, TypeVar

import keras


class Named(Protocol):
    """An object with a name that Keras may have numbered: a layer, an operation, a variable."""

    name: str


N = TypeVar("N", bound=Named)


def canonical_names(named: Sequence[Named]) -> list[str]:
    """Return the names, with automatic names numbered from zero in the order of creation.

    Raises:
        ValueError: two names are equal.
    """
    names = [one.name for one in named]
    numbered: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, one in enumerate(named):
        automatic = _snake_case(type(one).__name__)
        found = re.fullmatch(rf"{automatic}(?:_(\d+))?", one.name)
        if found:
            numbered[automatic].append((int(found[1] or 0), index))
    for automatic, members in numbered.items():
        for number, (_, index) in enumerate(sorted(members)):
            names[index] = f"{automatic}_{number}" if number else automatic
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"more than one is named {', '.join(sorted(twice))}")
    return names


def _snake_case(class_name: str) -> str:
    """Return Keras' name for the first object of a class: conv2d for Conv2D."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", class_name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def rename(model: keras.Model) -> None:
    """Rename the layers of `model` to their canonical names, which appear in files and logs."""
    operations = model.operations
    for operation, name in zip(operations, canonical_names(operations), strict=True):
        operation.name = name


def named_layers(model: keras.Model) -> dict[str, keras.Layer]:
    """Return the layers of `model` with weights, by canonical name, in order.

    A nested model is replaced by its layers.
    """
    layers = [layer for layer in leaves(model) if layer.weights]
    return dict(zip(canonical_names(layers), layers, strict=True))


def leaves(layer: keras.Layer) -> list[keras.Layer]:
    """Return the layer itself, or the leaf layers of a nested model."""
    inner = getattr(layer, "layers", None)
    return [layer] if inner is None else [leaf for one in inner for leaf in leaves(one)]


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Return all weights of `model`, trainable or not, by the name `layer/variable`.

    The names and their order depend on the architecture only. The state of seed generators is
    excluded.
    """
    return {
        f"{layer_name}/{variable_name}": variable
        for layer_name, layer in named_layers(model).items()
        for variable_name, variable in _variables_by_name(layer).items()
    }


def _variables_by_name(layer: keras.Layer) -> dict[str, keras.Variable]:
    """Return the weights of a layer by name. ConvNeXt's LayerScale has an unnamed one."""
    return dict(zip(canonical_names(layer.weights), layer.weights, strict=True))
