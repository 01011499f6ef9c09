"""Read the layers of a Keras model configuration as a flat list. No code in it is executed.

Light to import: `file_structure` parses foreign files in a separate process. The result is small:
for each layer its name, its class, the settings that affect its output, and its inputs.
"""

import re
from collections.abc import Container, Iterator
from typing import Any, NamedTuple

from tl_keras.errors import DataError

MAX_NODES = 20_000
MAX_DEPTH = 20
MAX_VALUES = 64
MAX_TEXT = 1000
MAX_NUMBER = 1e30

# The settings of a layer that affect its output in inference, with the value of a missing setting.
SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("filters", "units", "kernel_size", "strides", "padding", "pool_size", "size")),
    **dict.fromkeys(("depth_multiplier", "groups"), 1),
    **dict.fromkeys(("dilation_rate",), [1, 1]),
    **dict.fromkeys(("epsilon", "axis", "max_value", "cropping", "target_shape", "use_bias")),
    **dict.fromkeys(("negative_slope", "threshold"), 0),
    **dict.fromkeys(("center", "scale", "offset", "mean", "variance", "height", "width")),
    **dict.fromkeys(("keepdims", "invert", "rms_scaling", "crop_to_aspect_ratio"), False),
    **dict.fromkeys(("pad_to_aspect_ratio",), False),
    **dict.fromkeys(("alpha", "interpolation", "function", "repeats")),
    "data_format": "channels_last",
    "batch_shape": None,
}
ALIASES = {"swish": "silu", "hard_swish": "hard_silu", "relu_6": "relu6"}
# Arguments of a call that do not affect the output.
IGNORED_ARGUMENTS = ("training", "mask", "name")


class Node(NamedTuple):
    """One call of a layer or operation.

    Attributes:
        name: of the layer.
        kind: name of its class.
        settings: those in `SETTINGS` that differ from the default.
        inputs: in order, the number of a node, or a constant from `simplify` as a list of one item.
    """

    name: str
    kind: str
    settings: dict[str, Any]
    inputs: list[Any]


def read(config: Any) -> list[Node] | str:
    """Return the layers of a model in topological order.

    Nested models are replaced by their layers. An activation that is a setting of a layer becomes a
    separate node.

    Args:
        config: the content of `config.json`.

    Returns:
        The nodes, or the reason why the configuration cannot be read.
    """
    reader = _Reader()
    try:
        reader.model(config, [], 0)
    except DataError as error:
        return str(error)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        return f"its layers are not described as Keras does ({ascii(str(error)[:100])})"
    return reader.nodes


def simplify(value: Any) -> Any:
    """Return a constant as numbers, strings and short lists of them, or {"unknown": ...}."""
    if value is None or isinstance(value, (bool, str)):
        return value[:MAX_TEXT] if isinstance(value, str) else value
    if isinstance(value, (int, float)):
        # This also limits integers of thousands of digits, and is false for NaN.
        return value if abs(value) < MAX_NUMBER else {"unknown": "a number"}
    if isinstance(value, list):
        found = [simplify(one) for one in value[: MAX_VALUES + 1]]
        return found if _count(found) <= MAX_VALUES else {"unknown": "a long list"}
    if isinstance(value, dict):
        kind, inner = value.get("class_name"), value.get("config")
        if kind in ("__tensor__", "__numpy__") and isinstance(inner, dict):
            return simplify(inner.get("value"))
        if kind == "__ellipsis__":
            return "..."
        if kind == "__slice__" and isinstance(inner, dict):
            return {"slice": [simplify(inner.get(one)) for one in ("start", "stop", "step")]}
        if kind == "__tuple__" or "items" in value:
            return simplify(value.get("items"))
    return {"unknown": "an object"}


def _count(value: Any) -> int:
    return sum(map(_count, value)) if isinstance(value, list) else 1


class _Reader:
    """Collects the nodes of a model and of its nested models."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def model(self, part: dict[str, Any], given: list[int], depth: int) -> list[int]:
        """Add the nodes of a model that is called with the nodes `given`. Return its outputs."""
        if depth > MAX_DEPTH:
            raise DataError("its models are nested too deeply")
        config = part["config"]
        # Keras 2 wrote a Sequential as the list of its layers.
        layers = config["layers"] if isinstance(config, dict) else config
        if part["class_name"] == "Sequential":
            return self._sequential(part, layers, given, depth)
        return self._functional(config, layers, given, depth)

    def _sequential(
        self, part: dict[str, Any], layers: list[Any], given: list[int], depth: int
    ) -> list[int]:
        current = given
        for layer in layers:
            if layer["class_name"] == "InputLayer":
                current = current or [self._add_layer(layer, [])]
                continue
            if not current:
                shape = layer["config"].get("batch_input_shape")
                shape = shape or part["config"].get("build_input_shape")
                settings = {"batch_shape": simplify(shape)}
                current = [self._add(Node("input", "InputLayer", settings, []))]
            current = self._call(layer, list(current), depth)
        return current

    def _functional(
        self, config: dict[str, Any], layers: list[Any], given: list[int], depth: int
    ) -> list[int]:
        # A nested functional model has one additional call before the others.
        models = {one["name"]: one["class_name"] for one in layers if _has_layers(one)}
        made: dict[tuple[str, int, int], int] = {}
        for (name, *_), node in zip(_read_histories(config["input_layers"]), given, strict=False):
            made[name, 0, 0] = node
        waiting = [
            (layer, number, call)
            for layer in layers
            for number, call in enumerate(_read_calls(layer, models))
            if (layer["name"], number, 0) not in made
        ]
        while waiting:
            late = []
            for layer, number, call in waiting:
                if any(key not in made for key in _needed_outputs(call)):
                    late.append((layer, number, call))
                    continue
                inputs = [made[one] if isinstance(one, tuple) else one for one in call]
                outputs = self._call(layer, inputs, depth)
                made |= {(layer["name"], number, at): one for at, one in enumerate(outputs)}
            if len(late) == len(waiting):
                raise DataError("its layers have inputs that no layer produces")
            waiting = late
        return [
            made[name, number - (models.get(name, "Sequential") != "Sequential"), output]
            for name, number, output in _read_histories(config["output_layers"])
        ]

    def _call(self, layer: dict[str, Any], inputs: list[Any], depth: int) -> list[int]:
        if _has_layers(layer):
            return self.model(layer, [one for one in inputs if isinstance(one, int)], depth + 1)
        return [self._add_layer(layer, inputs)]

    def _add_layer(self, layer: dict[str, Any], inputs: list[Any]) -> int:
        config, kind = layer["config"], str(layer["class_name"])[:MAX_TEXT]
        name = str(layer.get("name") or config.get("name"))[:MAX_TEXT]
        settings = _read_settings(kind, config)
        if kind == "ReLU" and set(settings) <= {"max_value"}:
            bounded = {None: "relu", 6: "relu6"}.get(settings.get("max_value"))
            if bounded:
                kind, settings = "Activation", {"activation": bounded}
        activation = _read_activation(config.get("activation", "linear"))
        if kind == "Activation":
            return self._add(Node(name, kind, {"activation": activation, **settings}, inputs))
        node = self._add(Node(name, kind, settings, inputs))
        if activation == "linear":
            return node
        return self._add(Node(name, "Activation", {"activation": activation}, [node]))

    def _add(self, node: Node) -> int:
        if len(self.nodes) >= MAX_NODES:
            raise DataError(f"it has more than {MAX_NODES:,} layers")
        self.nodes.append(node)
        return len(self.nodes) - 1


def _has_layers(layer: dict[str, Any]) -> bool:
    return isinstance(layer["config"], list) or "layers" in layer["config"]


def _read_settings(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    found = {
        name: simplify(config[name])
        for name, missing in SETTINGS.items()
        if name in config and config[name] != missing
    }
    if kind == "InputLayer" and "batch_input_shape" in config:
        found["batch_shape"] = simplify(config["batch_input_shape"])
    if found.get("axis") in (3, [3], [-1]):
        # Other notations of the last of four axes.
        found["axis"] = -1
    if kind == "Cast":
        found["dtype"] = simplify(config.get("dtype"))
    return found


def _read_activation(value: Any) -> str:
    """Return the name of an activation in Keras 3."""
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
        if isinstance(value, str):
            value = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", value).lower()
    text = "linear" if value is None else str(value)[:MAX_TEXT]
    return ALIASES.get(text, text)


def _read_histories(value: Any) -> list[tuple[str, int, int]]:
    """Return (name, call, output) of one or several layer outputs."""
    if isinstance(value, dict):
        value = list(value.values())
    if value and isinstance(value[0], str):
        value = [value]
    return [(name, int(call), int(output)) for name, call, output in value]


def _read_calls(layer: dict[str, Any], models: Container[str]) -> list[list[Any]]:
    """Return the inputs of each call: layer outputs as tuples, and constants.

    Args:
        layer: its configuration.
        models: names of the layers that are models. Keras 2 counts their calls from one.
    """
    found = []
    for call in layer["inbound_nodes"]:
        if isinstance(call, dict):
            kwargs = {k: v for k, v in call["kwargs"].items() if k not in IGNORED_ARGUMENTS}
            arguments = [*call["args"], *(v for v in kwargs.values() if v is not None)]
            found.append([one for argument in arguments for one in _read_argument(argument)])
        else:
            # Keras 2: [[name, call, output, arguments], ...].
            several = [call] if isinstance(call[0], str) else call
            kept: list[Any] = []
            for name, number, output, *rest in several:
                kept.append((name, int(number) - (name in models), int(output)))
                named = rest[0] if rest else {}
                kept += [
                    [simplify(v)]
                    for k, v in named.items()
                    if k not in IGNORED_ARGUMENTS and v is not None
                ]
            found.append(kept)
    return found or ([[]] if layer["class_name"] == "InputLayer" else [])


def _read_argument(argument: Any) -> list[Any]:
    tensors = list(_find_tensors(argument, 0))
    return tensors or [[simplify(argument)]]


def _find_tensors(value: Any, depth: int) -> Iterator[tuple[str, int, int]]:
    """Yield the layer outputs in an argument, in order."""
    if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
        name, call, output = value["config"]["keras_history"]
        yield name, int(call), int(output)
    elif isinstance(value, (list, dict)) and depth < MAX_DEPTH:
        for one in value if isinstance(value, list) else value.values():
            yield from _find_tensors(one, depth + 1)


def _needed_outputs(call: list[Any]) -> list[tuple[str, int, int]]:
    return [one for one in call if isinstance(one, tuple)]
