"""Whether the network that a file describes is the one its weights are taken over into.

Weights alone do not make a network: the same kernels behind another activation, stride or pooling
give other features. Both networks are compared as graphs, from the pixels on, so that neither the
names of layers without weights matter, nor models inside of models.
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
    "Choose the --model it was made with, or build your model anew with the layers of"
    " keras.applications"
)


class Network(NamedTuple):
    """A network whose nodes have signatures: two nodes with the same one compute the same.

    Attributes:
        nodes: in an order in which each stands after what it takes.
        signatures: of each node.
        names: of each node, as our model has it.
    """

    nodes: Sequence[Node]
    signatures: list[int]
    names: list[str]


def read_model(model: keras.Model) -> list[Node]:
    """Return the nodes of a model that `building.build` made.

    Raises:
        ValueError: they cannot be found.
    """
    nodes = file_config.read(json.loads(model.to_json()))
    if isinstance(nodes, str):
        raise ValueError(nodes)
    return nodes


def find_preprocessing(model: keras.Model) -> file_preprocessing.InputPreprocessing:
    """Return what a model that `building.build` made does to pixels."""
    layers = named_layers(model)

    def tensors(name: str) -> list[list[float]]:
        return [value.ravel().tolist() for value in layers[name].get_weights()]

    return file_preprocessing.find(read_model(model), tensors)


def check(
    nodes: Sequence[Node], images: frozenset[int], structure: Structure, model: keras.Model
) -> None:
    """Raise DataError where a file's network is another than the model's, below the features.

    Args:
        nodes: of the file.
        images: the numbers of those that only prepare the pixels.
        structure: of the file.
        model: one that `building.build` made.
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
    """Return the network with signatures, which are numbers that `known` keeps."""
    signatures: list[int] = []
    names = []
    for number, node in enumerate(nodes):
        name = canonical_name(node.name) if node.kind in classes else node.name
        names.append(name)
        taken = [signatures[one] if isinstance(one, int) else repr(one) for one in node.inputs]
        if file_preprocessing.is_identity(node) and taken and isinstance(taken[0], int):
            signatures.append(taken[0])
            continue
        # By name, because it is by name that weights are taken over.
        owner = name if node.kind in classes else ""
        key: Any = (node.kind, repr(sorted(node.settings.items())), owner, tuple(taken))
        if number in images:
            key = "pixels"
        signatures.append(known.setdefault(key, len(known)))
    return Network(nodes, signatures, names)


def _inputs(node: Node) -> list[int]:
    return [one for one in node.inputs if isinstance(one, int)]


def _ancestors(nodes: Sequence[Node], last: int) -> list[int]:
    """Return the numbers of a node and all below it, in their order."""
    found = {last}
    for number in range(last, -1, -1):
        if number in found:
            found.update(_inputs(nodes[number]))
    return sorted(found)


def _check_pooling(theirs: Network, pooled: int, structure: Structure, model: keras.Model) -> None:
    """Check what a file does with the map that our model averages; to end there is fine."""
    for number, node in enumerate(theirs.nodes):
        if pooled not in [theirs.signatures[one] for one in _inputs(node)]:
            continue
        width = model.get_layer(FEATURES).output.shape[-1]
        if node.kind in OTHER_POOLINGS and _find_flat_width(theirs, number, structure) != width:
            raise DataError(
                f"pools its features by {node.name!r}, a {node.kind}, and --model={model.name} by"
                f" a {AVERAGE}: the head would see other features. Give the network below the"
                " pooling, saved as a model of its own, or build yours with an average"
            )


def _find_flat_width(theirs: Network, number: int, structure: Structure) -> int | None:
    """Return how many numbers a Flatten gives to the Dense after it; None where nobody knows.

    As many as there are channels are those of a map of 1x1 pixels, of which it is the average too.
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
    """Return what a file has where our model has the node of that number."""
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
            f"has no layer that does what {name!r}, a {node.kind}, does in --model={model.name}."
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
    """Return a layer's class and what sets it apart, short enough for one line."""
    names = differing if node.kind == other.kind else node.settings
    described = ", ".join(f"{name} {node.settings.get(name)!r}"[:60] for name in list(names)[:4])
    return ascii(node.kind[:100])[1:-1] + (f" with {described}" if described else "")
