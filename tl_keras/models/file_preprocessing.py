"""What a file's network does to pixels before its first layer with a kernel, as one map.

Layers that only act in training are passed over. Whatever else stands there is refused by name:
what it does to the pixels would be missing in our model.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tl_keras.models.file_config import Node
from tl_keras.models.preprocessing import Preprocessing, narrowed

# They return what they are given when a model predicts.
TRAINING_ONLY = {
    *("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
    *("ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom"),
    *("RandomTranslation", "RandomContrast", "RandomBrightness", "RandomHeight", "RandomWidth"),
    *("RandomHue", "RandomSaturation", "RandomColorJitter", "RandomColorDegeneration"),
    *("RandomGrayscale", "RandomGaussianBlur", "RandomSharpness", "RandomShear"),
    *("RandomPerspective", "RandomErasing", "RandomPosterization", "RandomElasticTransform"),
    *("RandomInvert", "RandAugment", "AugMix", "MixUp", "CutMix", "StochasticDepth", "Identity"),
}
# The networks of the catalog, and most others, begin with one of these.
FIRST_LAYERS = {
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "ZeroPadding2D", "BatchNormalization"),
    *("Dense", "Flatten"),
}
FLOATS = ("float32", "float64")
ARITHMETIC = ("TrueDivide", "Divide", "Multiply", "Add", "Subtract", "Negative")
PIXEL_LAYERS = ("Rescaling", "Normalization", *ARITHMETIC)

# Of a layer: the values of its tensors, in order; None where the file does not tell which they are.
TensorLookup = Callable[[str], Sequence[Sequence[float]] | None]


class UnsupportedLayerError(Exception):  # noqa: N818
    """A layer before the first kernel does what cannot become part of our model."""


class Channel(NamedTuple):
    """A channel as a function of one channel of the pixels: scale * pixel + offset."""

    source: int
    scale: float = 1.0
    offset: float = 0.0

    def affine(self, scale: float, offset: float) -> "Channel":
        """Return scale * this + offset."""
        return Channel(self.source, self.scale * scale, self.offset * scale + offset)


# An image, by its channels. One without an axis of channels is a list of one, in a tuple.
State = tuple[Channel, ...]


class InputPreprocessing(NamedTuple):
    """What stands before the first layer with a kernel.

    Attributes:
        preprocessing: the map; None where there is no layer that could change a pixel.
        passed: names of the layers that only act in training.
        unknown: which layer is not understood, and why; "" where all are.
        images: the numbers of the nodes that only prepare the pixels.
    """

    preprocessing: Preprocessing | None
    passed: tuple[str, ...]
    unknown: str
    images: frozenset[int]


def find(nodes: Sequence[Node], tensors: TensorLookup) -> InputPreprocessing:
    """Return what the layers before the first one with a kernel do to pixels.

    Args:
        nodes: of the file, as `file_config.read` returns them.
        tensors: of its Normalization layers.
    """
    states: dict[int, State] = {}
    maps: dict[State, str] = {}
    unknown, passed, acts = "", [], False
    sizes = [node.settings["batch_shape"][1:3] for node in nodes if _is_input(node)]
    for number, node in enumerate(nodes):
        inputs = [one for one in node.inputs if isinstance(one, int)]
        if inputs and not any(one in states for one in inputs):
            continue
        if node.kind in FIRST_LAYERS:
            maps.update((states[one], node.name) for one in inputs if one in states)
            continue
        try:
            states[number] = _apply(node, states, tensors, sizes)
        except UnsupportedLayerError as error:
            unknown = unknown or f"{node.name!r}, a {node.kind}, {error}"
            continue
        if node.kind in TRAINING_ONLY:
            passed.append(node.name)
        acts = acts or node.kind in PIXEL_LAYERS
    preprocessing = None
    try:
        if maps and not unknown:
            preprocessing = _combine_maps(maps)
            # A network alone says nothing of how its pixels are prepared.
            preprocessing = preprocessing if acts or preprocessing.bgr else None
    except (UnsupportedLayerError, ValueError) as error:
        unknown = f"what stands before its first layer with weights: {error}"
    return InputPreprocessing(preprocessing, tuple(passed), unknown, frozenset(states))


def _combine_maps(maps: dict[State, str]) -> Preprocessing:
    """Return the one map of the pixels that layers with weights see."""
    if len(maps) != 1:
        raise UnsupportedLayerError(f"{len(maps)} layers see pixels that are prepared differently")
    channels = next(iter(maps))
    order = tuple(channel.source for channel in channels)
    if order not in ((0,), (0, 0, 0), (0, 1, 2), (2, 1, 0)):
        raise UnsupportedLayerError(f"its channels are in the order {', '.join(map(str, order))}")
    scale = tuple(channel.scale for channel in channels)
    offset = tuple(channel.offset for channel in channels)
    return narrowed(scale, offset, order == (2, 1, 0))


def _apply(
    node: Node, states: dict[int, State], tensors: TensorLookup, sizes: Sequence[list[Any]]
) -> State:
    """Return what a layer makes of the pixels of an input of one of these sizes."""
    if node.kind == "InputLayer":
        return _make_input(node)
    images = [states.get(one) for one in node.inputs if isinstance(one, int)]
    constants = [one[0] for one in node.inputs if isinstance(one, list)]
    if node.kind in ("Concatenate", "Stack"):
        return _concatenate(node, images)
    image = images[0] if len(images) == 1 else None
    if image is None:
        raise UnsupportedLayerError("takes more than the pixels")
    if is_identity(node):
        return image
    if node.kind == "Rescaling":
        scales = _broadcast(node.settings.get("scale"), image)
        return _scale_and_offset(image, scales, _broadcast(node.settings.get("offset", 0), image))
    if node.kind == "Normalization":
        return _normalise(node, image, tensors)
    if node.kind in ARITHMETIC:
        return _compute(node, image, constants)
    if node.kind == "GetItem":
        return _index_channels(image, constants)
    if node.kind in ("Flip", "Repeat") and node.settings.get("axis") == -1:
        return _reorder(node, image, constants)
    if node.kind == "Cast" and node.settings.get("dtype") in FLOATS:
        return image
    if node.kind == "Resizing":
        side = [node.settings.get("height"), node.settings.get("width")]
        if all(size == side for size in sizes):
            return image
        raise UnsupportedLayerError(
            f"resizes to {side[0]}x{side[1]}, which the input does not have"
        )
    raise UnsupportedLayerError("is no preprocessing that can become part of our model")


def is_identity(node: Node) -> bool:
    """Return whether a layer returns what it is given when a model predicts."""
    is_linear = node.kind == "Activation" and node.settings.get("activation") == "linear"
    return is_linear or node.kind in TRAINING_ONLY


def _is_input(node: Node) -> bool:
    shape = node.settings.get("batch_shape")
    return node.kind == "InputLayer" and isinstance(shape, list) and len(shape) == 4


def _make_input(node: Node) -> State:
    if _is_input(node) and (channels := node.settings["batch_shape"][-1]) in (1, 3, None):
        return tuple(Channel(source) for source in range(channels or 3))
    raise UnsupportedLayerError("takes no images of one channel or three")


def _concatenate(node: Node, images: Sequence[State | None]) -> State:
    if node.settings.get("axis", -1) != -1 or None in images:
        raise UnsupportedLayerError("joins something else than channels of the pixels")
    return tuple(channel for image in images if image is not None for channel in image)


def _broadcast(value: Any, image: State) -> list[float]:
    """Return a number for each channel, of a constant of one or of as many."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    numbers = value if isinstance(value, list) else [value] * len(image)
    # A number in front of a list of one channel would make several of it.
    if len(numbers) != len(image) or not all(type(one) in (int, float) for one in numbers):
        raise UnsupportedLayerError("has constants other than one number, or one for each channel")
    if not all(math.isfinite(one) for one in numbers):
        raise UnsupportedLayerError("has constants that are not finite")
    return [float(one) for one in numbers]


def _scale_and_offset(image: State, scales: Sequence[float], offsets: Sequence[float]) -> State:
    found = tuple(
        channel.affine(scale, offset)
        for channel, scale, offset in zip(image, scales, offsets, strict=True)
    )
    if not all(math.isfinite(one.scale) and math.isfinite(one.offset) for one in found):
        raise UnsupportedLayerError("has constants that are too large")
    return found


def _normalise(node: Node, image: State, tensors: TensorLookup) -> State:
    if node.settings.get("axis") not in (-1, None) or node.settings.get("invert"):
        raise UnsupportedLayerError(
            "normalises otherwise than each channel by a mean and a variance"
        )
    mean, variance = node.settings.get("mean"), node.settings.get("variance")
    if mean is None and variance is None:
        kept = tensors(node.name)
        if kept is None or len(kept) < 2:
            raise UnsupportedLayerError(
                "has a mean and a variance that cannot be found in the file"
            )
        mean, variance = list(kept[0]), list(kept[1])
    means, variances = _broadcast(mean, image), _broadcast(variance, image)
    if any(one < 0 for one in variances):
        raise UnsupportedLayerError("has a negative variance")
    # As Keras does, which divides by the square root or by its epsilon.
    deviations = [max(math.sqrt(one), 1e-7) for one in variances]
    offsets = [-one / by for one, by in zip(means, deviations, strict=True)]
    return _scale_and_offset(image, [1 / by for by in deviations], offsets)


def _compute(node: Node, image: State, constants: Sequence[Any]) -> State:
    """Return what arithmetic with one constant makes of the pixels."""
    zeros, ones = [0.0] * len(image), [1.0] * len(image)
    if node.kind == "Negative":
        return _scale_and_offset(image, [-1.0] * len(image), zeros)
    if len(constants) != 1:
        raise UnsupportedLayerError("computes with something else than a constant")
    numbers = _broadcast(constants[0], image)
    first = isinstance(node.inputs[0], list)
    if node.kind == "Add":
        return _scale_and_offset(image, ones, numbers)
    if node.kind == "Subtract":
        signed = [-one for one in numbers]
        return _scale_and_offset(
            image, [-1.0] * len(image) if first else ones, numbers if first else signed
        )
    if node.kind == "Multiply":
        return _scale_and_offset(image, numbers, zeros)
    if first or 0.0 in numbers:
        raise UnsupportedLayerError("divides by the pixels or by zero")
    return _scale_and_offset(image, [1 / one for one in numbers], zeros)


def _index_channels(image: State, constants: Sequence[Any]) -> State:
    """Return the channels that an index such as [..., ::-1] or [..., 2] chooses."""
    key = constants[0] if constants else None
    whole = {"slice": [None, None, None]}
    if isinstance(key, list) and key and all(one in ("...", whole) for one in key[:-1]):
        if key[0] != "..." and len(key) != 4:
            raise UnsupportedLayerError("chooses something else than channels")
        last = key[-1]
        if type(last) is int and -len(image) <= last < len(image):
            return (image[last],)
        if isinstance(last, dict) and isinstance(last.get("slice"), list):
            parts = last["slice"]
            if all(one is None or type(one) is int for one in parts) and parts[2] != 0:
                chosen = image[slice(*parts)]
                if chosen:
                    return chosen
    raise UnsupportedLayerError("chooses something else than channels")


def _reorder(node: Node, image: State, constants: Sequence[Any]) -> State:
    if node.kind == "Flip":
        return image[::-1]
    repeats = node.settings.get("repeats")
    if type(repeats) is not int or not 1 <= repeats <= 3:
        raise UnsupportedLayerError("repeats something else than a channel")
    return tuple(channel for channel in image for _ in range(repeats))
