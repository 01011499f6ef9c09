"""Assign the tensors of a Keras weights file to the layers of a model.

Keras 3 writes a group of numbered variables for each layer. Keras 2 writes lists of names. Both
keep the order of a layer's variables.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

import keras

from tl_keras.errors import DataError
from tl_keras.models.building import HEAD
from tl_keras.models.file_structure import Structure
from tl_keras.models.naming import named_layers

VARIABLE = re.compile(r"(?:(?P<layer>.*)/)?vars/(?P<number>[0-9]{1,9})")
NUMBERED = re.compile(r"(?P<kind>.*?)(?:_(?P<number>[0-9]{1,9}))?")

# Layer name in the model -> paths of its tensors in the file, in order.
Layers = dict[str, list[str]]


def find_layers(structure: Structure, model: keras.Model) -> Layers | None:
    """Return the layers in a file, or None if its tensors are not stored as Keras stores them.

    Layers that the model lacks are included. Layers whose name is not unique are left out.

    Args:
        structure: of the file.
        model: one that `building.build` made.

    Raises:
        DataError: the file names tensors that it does not have. The message continues the file's
            name.
    """
    if any(VARIABLE.fullmatch(path) for path in structure.tensors):
        return _find_keras_3_layers(structure, model)
    for place in ("", "model_weights"):
        if any(name.startswith("layer_names") for name in structure.texts.get(place, {})):
            return renumber_layers(_find_keras_2_layers(structure, place), model)
    return None


def _find_keras_3_layers(structure: Structure, model: keras.Model) -> Layers:
    """Return the paths of each layer's tensors, such as "layers/conv2d_1/vars/0".

    The name of a group has the class, and the index among the model's layers of that class. Newer
    files have the layer's name too.
    """
    groups = _group_tensors(structure)
    if names := _find_layer_names(structure, groups):
        named = [(name, groups[group]) for group, name in names.items()]
        return renumber_layers(_drop_duplicates(named), model)
    of_class: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for group in groups:
        container, _, last = group.rpartition("/")
        kind, number = _split(last)
        of_class[kind].append((container, number, group))
    layers: Layers = {}
    for kind, places in _layers_by_class(model).items():
        known = sorted(of_class.get(kind, []))
        # With nested models, the order of the layers is not known.
        if len({container for container, *_ in known}) == 1:
            layers |= {
                name: groups[group] for name, (*_, group) in zip(places, known, strict=False)
            }
    return layers


def _group_tensors(structure: Structure) -> Layers:
    """Return the paths of each group's numbered tensors, in order."""
    numbered: dict[str, dict[int, str]] = defaultdict(dict)
    for path in structure.tensors:
        if match := VARIABLE.fullmatch(path):
            numbered[match["layer"] or ""][int(match["number"])] = path
    return {group: [paths[number] for number in sorted(paths)] for group, paths in numbered.items()}


def _find_layer_names(structure: Structure, groups: Iterable[str]) -> dict[str, str]:
    """Return the layer name of each group that has one."""
    return {
        group: name
        for group in groups
        for name in structure.texts.get(f"{group}/vars", {}).get("name", [])[:1]
    }


def find_tensors(structure: Structure, layer: str) -> list[str] | None:
    """Return the paths of a layer's tensors by its name in the file, in order.

    In a file without names, they are those of its only Normalization. None if they are not known.
    """
    for place in ("", "model_weights"):
        if any(name.startswith("layer_names") for name in structure.texts.get(place, {})):
            return _find_keras_2_layers(structure, place).get(layer)
    groups = _group_tensors(structure)
    if names := _find_layer_names(structure, groups):
        return _drop_duplicates((name, groups[group]) for group, name in names.items()).get(layer)
    of_class = [g for g in groups if _split(g.rpartition("/")[2])[0] == "normalization"]
    return groups[of_class[0]] if len(of_class) == 1 else None


def _layers_by_class(model: keras.Model) -> Layers:
    """Return the names of the body's layers by class, in order, with the class as in `_split`."""
    layers: Layers = defaultdict(list)
    for name, layer in named_layers(model).items():
        if name != HEAD:
            layers[type(layer).__name__.lower()].append(name)
    return layers


def _split(name: str) -> tuple[str, int]:
    """Return class and number of an automatic name: depthwise_conv2d_3 is depthwiseconv2d, 3."""
    match = NUMBERED.fullmatch(name)
    kind, number = (match["kind"], match["number"]) if match else (name, None)
    return kind.replace("_", "").lower(), int(number or 0)


def _find_keras_2_layers(structure: Structure, place: str) -> Layers:
    """Return the paths of each layer's tensors, as listed in the attributes of Keras 2."""
    found = []
    for layer in _join_list(structure.texts[place], "layer_names"):
        group = f"{place}/{layer}".lstrip("/")
        names = _join_list(structure.texts.get(group, {}), "weight_names")
        missing = [name for name in names if f"{group}/{name}" not in structure.tensors]
        if missing:
            raise DataError(f"is damaged: it names {missing[0]!r}, and does not contain it")
        # A nested model has tensors of many layers. The tensor names contain the layer names.
        owners: dict[str, list[str]] = defaultdict(list)
        for name in names:
            owners[name.rpartition("/")[0].rpartition("/")[2]].append(f"{group}/{name}")
        found += list(owners.items()) if len(owners) > 1 else [(layer, sum(owners.values(), []))]
    return _drop_duplicates(found)


def _join_list(texts: dict[str, list[str]], name: str) -> list[str]:
    """Return a list that Keras may have split into `name0`, `name1` and so on."""
    parts = [texts.get(name, [])]
    while (part := texts.get(f"{name}{len(parts) - 1}")) is not None:
        parts.append(part)
    return [text for part in parts for text in part]


def _drop_duplicates(layers: Iterable[tuple[str, list[str]]]) -> Layers:
    """Return the layers by name, without those whose name is not unique."""
    paths: dict[str, list[list[str]]] = defaultdict(list)
    for name, tensors in layers:
        paths[name].append(tensors)
    return {name: tensors[0] for name, tensors in paths.items() if len(tensors) == 1}


def renumber_layers(layers: Layers, model: keras.Model) -> Layers:
    """Return the layers with automatic names numbered from zero, as in `naming`.

    If the process built another model before, it saves the first Conv2D as conv2d_94.
    """
    classes = {type(layer).__name__.lower() for layer in named_layers(model).values()}
    counts: dict[str, int] = defaultdict(int)
    renamed = {}
    for name in sorted(layers, key=lambda name: _split(name)[1]):
        kind, number = _split(name)
        prefix = name.removesuffix(f"_{number}")
        if kind in classes:
            count = counts[prefix]
            counts[prefix] += 1
            renamed[f"{prefix}_{count}" if count else prefix] = layers[name]
        else:
            renamed[name] = layers[name]
    return renamed
