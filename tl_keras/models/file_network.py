"""Compare the network that a file describes with the model that takes its weights.

With the same kernels, another activation, stride or pooling gives other features. Both networks are
compared as graphs, from the pixels on. The names of layers without weights, and the nesting of
models, do not matter.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import keras

from tl_keras.errors import DataError
from tl_keras.models import file_config, file_layers, file_preprocessing
from tl_keras.models.file_config import Node
from tl_keras.models.file_structure import Structure
from tl_keras.models.naming import named_layers

FEATURES = "features"
AVERAGE = "GlobalAveragePooling2D"
OTHER_POOLINGS = ("GlobalMaxPooling2D", "MaxPooling2D", "AveragePooling2D", "Flatten")

REMEDY = (
    "Choose the --model that it was saved from, or build your model with the layers of"
    " keras.applications"
)


class Network(NamedTuple):
    """A network with signatures: two nodes with the same signature have the same output.

    Attributes:
        nodes: in topological order.
        signatures: of each node.
        names: of each node in our model.
    """

    nodes: Sequence[Node]
    signatures: list[int]
    names: list[str]


def read_model(model: keras.Model) -> list[Node]:
    """Return the nodes of a model that `building.build` made.

    Raises:
        ValueError: the configuration cannot be read.
    """
    nodes = file_config.read(json.loads(model.to_json()))
    if isinstance(nodes, str):
        raise ValueError(nodes)
    return nodes


def find_preprocessing(model: keras.Model) -> file_preprocessing.InputPreprocessing:
    """Return the input preprocessing of a model that `building.build` made."""
    layers = named_layers(model)

    def tensors(name: str) -> list[list[float]]:
        return [value.ravel().tolist() for value in layers[name].get_weights()]

    return file_preprocessing.find(read_model(model), tensors)


def check(
    nodes: Sequence[Node], images: frozenset[int], structure: Structure, model: keras.Model
) -> None:
    """Raise DataError if a file's network differs from the model, up to the features.

    Args:
        nodes: of the file.
        images: numbers of the nodes of the preprocessing.
        structure: of the file.
        model: from `building.build`.
    """
    classes = {type(layer).__name__ for layer in named_layers(model).values()}
    weighted = [node.name for node in nodes if node.kind in classes]
    canonical = file_layers.renumber_layers({name: [name] for name in weighted}, model)
    names = {file_name: name for name, (file_name,) in canonical.items()}
    known: dict[Any, int] = {}
    ours_nodes = read_model(model)
    ours_images = find_preprocessing(model).images
    ours = _sign(ours_nodes, ours_images, known, classes, lambda name: name)
    theirs = _sign(nodes, images, known, classes, lambda name: names.get(name, name))
    features = next(number for number, node in enumerate(ours_nodes) if node.name == FEATURES)
    last = ours.signatures[features]
    has = set(theirs.signatures)
    for number in _ancestors(ours_nodes, features):
        node, signature = ours_nodes[number], ours.signatures[number]
        if signature in has or file_preprocessing.is_identity(node):
            continue
        if node.kind == AVERAGE and signature == last:
            _check_pooling(theirs, ours.signatures[_inputs(node)[0]], structure, model)
            continue
        raise DataError(_describe_difference(ours, number, theirs, model))


def _sign(
    nodes: Sequence[Node],
    images: frozenset[int],
    known: dict[Any, int],
    classes: set[str],
    canonical_name: Callable[[str], str],
) -> Network:
    """Return the network with signatures, numbers that are stored in `known`."""
    signatures: list[int] = []
    names = []
    for number, node in enumerate(nodes):
        name = canonical_name(node.name) if node.kind in classes else node.name
        names.append(name)
        taken = [signatures[one] if isinstance(one, int) else repr(one) for one in node.inputs]
        if file_preprocessing.is_identity(node) and taken and isinstance(taken[0], int):
            signatures.append(taken[0])
            continue
        # The name is part of the signature, because weights are copied by name.
        owner = name if node.kind in classes else ""
        key: Any = (node.kind, repr(sorted(node.settings.items())), owner, tuple(taken))
        if number in images:
            key = "pixels"
        signatures.append(known.setdefault(key, len(known)))
    return Network(nodes, signatures, names)


def _inputs(node: Node) -> list[int]:
    return [one for one in node.inputs if isinstance(one, int)]


def _ancestors(nodes: Sequence[Node], last: int) -> list[int]:
    """Return the numbers of a node and all its ancestors, in order."""
    found = {last}
    for number in range(last, -1, -1):
        if number in found:
            found.update(_inputs(nodes[number]))
    return sorted(found)


def _check_pooling(theirs: Network, pooled: int, structure: Structure, model: keras.Model) -> None:
    """Check how a file pools the map that our model averages. A file may also end with the map."""
    for number, node in enumerate(theirs.nodes):
        if pooled not in [theirs.signatures[one] for one in _inputs(node)]:
            continue
        width = model.get_layer(FEATURES).output.shape[-1]
        if node.kind in OTHER_POOLINGS and _find_flat_width(theirs, number, structure) != width:
            raise DataError(
                f"pools its features by {node.name!r}, a {node.kind}, and --model={model.name} by"
                f" a {AVERAGE}. Save the network without the pooling as a separate model, or build"
                f" it with a {AVERAGE}"
            )


def _find_flat_width(theirs: Network, number: int, structure: Structure) -> int | None:
    """Return the output width of a Flatten, from the Dense after it, or None if it is not known.

    If it equals the number of channels, the map has 1x1 pixels, and Flatten equals the average.
    """
    if theirs.nodes[number].kind != "Flatten":
        return None
    signature = theirs.signatures[number]
    for node in theirs.nodes:
        if signature in [theirs.signatures[one] for one in _inputs(node)] and node.kind == "Dense":
            paths = file_layers.find_tensors(structure, node.name) or []
            shapes = [structure.tensors[path].shape for path in paths]
            return next((shape[0] for shape in shapes if len(shape) == 2), None)
    return None


def _describe_difference(ours: Network, number: int, theirs: Network, model: keras.Model) -> str:
    """Describe the difference between a file and our model at a node of our model."""
    node, name = ours.nodes[number], ours.names[number]
    taken = [ours.signatures[one] for one in _inputs(node)]
    known = set(ours.signatures)
    others = [
        at
        for at, other in enumerate(theirs.nodes)
        if [theirs.signatures[one] for one in _inputs(other)] == taken
        and theirs.signatures[at] not in known
    ]
    others.sort(key=lambda at: (theirs.names[at] != name, theirs.nodes[at].kind != node.kind))
    if not others:
        return (
            f"has no layer that corresponds to {name!r}, a {node.kind}, in --model={model.name}."
            f" {REMEDY}"
        )
    other = theirs.nodes[others[0]]
    both = {**node.settings, **other.settings}
    differing = [one for one in both if node.settings.get(one) != other.settings.get(one)]
    return (
        f"has {other.name[:100]!r} as {_describe_layer(other, node, differing)}, and"
        f" --model={model.name} has {name!r} as {_describe_layer(node, other, differing)}. {REMEDY}"
    )


def _describe_layer(node: Node, other: Node, differing: Iterable[str]) -> str:
    """Return a layer's class and its differing settings, in one line."""
    names = differing if node.kind == other.kind else node.settings
    described = ", ".join(f"{name} {node.settings.get(name)!r}"[:60] for name in list(names)[:4])
    return ascii(node.kind[:100])[1:-1] + (f" with {described}" if described else "")
