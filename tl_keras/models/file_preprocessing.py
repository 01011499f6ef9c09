"""The preprocessing in a file's network, before its first layer with a kernel, as one affine map.

Layers that are active in training only are skipped. Other layers are refused by name, because our
model would lack them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tl_keras.config.preprocessing import Preprocessing, make_preprocessing
from tl_keras.models.file_config import Node

# Layers that are the identity in inference.
TRAINING_ONLY = {
    *("Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "AlphaDropout"),
    *("ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom"),
    *("RandomTranslation", "RandomContrast", "RandomBrightness", "RandomHeight", "RandomWidth"),
    *("RandomHue", "RandomSaturation", "RandomColorJitter", "RandomColorDegeneration"),
    *("RandomGrayscale", "RandomGaussianBlur", "RandomSharpness", "RandomShear"),
    *("RandomPerspective", "RandomErasing", "RandomPosterization", "RandomElasticTransform"),
    *("RandomInvert", "RandAugment", "AugMix", "MixUp", "CutMix", "StochasticDepth", "Identity"),
}
# The networks of the catalog, and most others, start with one of these.
FIRST_LAYERS = {
    *("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "ZeroPadding2D", "BatchNormalization"),
    *("Dense", "Flatten"),
}
FLOATS = ("float32", "float64")
ARITHMETIC = ("TrueDivide", "Divide", "Multiply", "Add", "Subtract", "Negative")
PIXEL_LAYERS = ("Rescaling", "Normalization", *ARITHMETIC)

# Returns the values of a layer's tensors, in order, or None if they are not known.
TensorLookup = Callable[[str], Sequence[Sequence[float]] | None]


class UnsupportedLayerError(Exception):  # noqa: N818
    """A layer before the first kernel cannot become part of our model."""


class Channel(NamedTuple):
    """A channel as a function of one channel of the pixels: scale * pixel + offset."""

    source: int
    scale: float = 1.0
    offset: float = 0.0

    def affine(self, scale: float, offset: float) -> "Channel":
        """Return scale * this + offset."""
        return Channel(self.source, self.scale * scale, self.offset * scale + offset)


# An image as its channels. An image without a channel axis has one item.
State = tuple[Channel, ...]


class InputPreprocessing(NamedTuple):
    """The layers before the first layer with a kernel.

    Attributes:
        preprocessing: the affine map; None if no layer could change a pixel.
        passed: names of the layers that are active in training only.
        unknown: the unsupported layer and the reason, or "".
        images: numbers of the nodes of the preprocessing.
    """

    preprocessing: Preprocessing | None
    passed: tuple[str, ...]
    unknown: str
    images: frozenset[int]


def find(nodes: Sequence[Node], tensors: TensorLookup) -> InputPreprocessing:
    """Return the preprocessing in front of the first layer with a kernel.

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
            # A network without such layers says nothing about its preprocessing.
            preprocessing = preprocessing if acts or preprocessing.bgr else None
    except (UnsupportedLayerError, ValueError) as error:
        unknown = f"the layers before its first layer with weights: {error}"
    return InputPreprocessing(preprocessing, tuple(passed), unknown, frozenset(states))


def _combine_maps(maps: dict[State, str]) -> Preprocessing:
    """Return the affine map that all layers with weights share."""
    if len(maps) != 1:
        raise UnsupportedLayerError(
            f"{len(maps)} layers have differently preprocessed pixels as inputs"
        )
    channels = next(iter(maps))
    order = tuple(channel.source for channel in channels)
    if order not in ((0,), (0, 0, 0), (0, 1, 2), (2, 1, 0)):
        raise UnsupportedLayerError(f"its channels are in the order {', '.join(map(str, order))}")
    scale = tuple(channel.scale for channel in channels)
    offset = tuple(channel.offset for channel in channels)
    return make_preprocessing(scale, offset, order == (2, 1, 0))


def _apply(
    node: Node, states: dict[int, State], tensors: TensorLookup, sizes: Sequence[list[Any]]
) -> State:
    """Apply a layer to the pixels of an input of one of these sizes."""
    if node.kind == "InputLayer":
        return _make_input(node)
    images = [states.get(one) for one in node.inputs if isinstance(one, int)]
    constants = [one[0] for one in node.inputs if isinstance(one, list)]
    if node.kind in ("Concatenate", "Stack"):
        return _concatenate(node, images)
    image = images[0] if len(images) == 1 else None
    if image is None:
        raise UnsupportedLayerError("has other inputs than the pixels")
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
            f"resizes to {side[0]}x{side[1]}, another size than the input's"
        )
    raise UnsupportedLayerError("is not supported as preprocessing")


def is_identity(node: Node) -> bool:
    """Return whether a layer is the identity in inference."""
    is_linear = node.kind == "Activation" and node.settings.get("activation") == "linear"
    return is_linear or node.kind in TRAINING_ONLY


def _is_input(node: Node) -> bool:
    shape = node.settings.get("batch_shape")
    return node.kind == "InputLayer" and isinstance(shape, list) and len(shape) == 4


def _make_input(node: Node) -> State:
    if _is_input(node) and (channels := node.settings["batch_shape"][-1]) in (1, 3, None):
        return tuple(Channel(source) for source in range(channels or 3))
    raise UnsupportedLayerError("has no input images of 1 or 3 channels")


def _concatenate(node: Node, images: Sequence[State | None]) -> State:
    if node.settings.get("axis", -1) != -1 or None in images:
        raise UnsupportedLayerError("concatenates something else than channels of the pixels")
    return tuple(channel for image in images if image is not None for channel in image)


def _broadcast(value: Any, image: State) -> list[float]:
    """Return a number for each channel, from a constant of one number or of one per channel."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    numbers = value if isinstance(value, list) else [value] * len(image)
    # A list of several numbers would broadcast one channel to several.
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
        raise UnsupportedLayerError("normalises other axes than the channels, or inverts")
    mean, variance = node.settings.get("mean"), node.settings.get("variance")
    if mean is None and variance is None:
        kept = tensors(node.name)
        if kept is None or len(kept) < 2:
            raise UnsupportedLayerError("has no mean and variance in the file")
        mean, variance = list(kept[0]), list(kept[1])
    means, variances = _broadcast(mean, image), _broadcast(variance, image)
    if any(one < 0 for one in variances):
        raise UnsupportedLayerError("has a negative variance")
    # As in Keras: the divisor is the square root, at least epsilon.
    deviations = [max(math.sqrt(one), 1e-7) for one in variances]
    offsets = [-one / by for one, by in zip(means, deviations, strict=True)]
    return _scale_and_offset(image, [1 / by for by in deviations], offsets)


def _compute(node: Node, image: State, constants: Sequence[Any]) -> State:
    """Apply arithmetic with one constant to the pixels."""
    zeros, ones = [0.0] * len(image), [1.0] * len(image)
    if node.kind == "Negative":
        return _scale_and_offset(image, [-1.0] * len(image), zeros)
    if len(constants) != 1:
        raise UnsupportedLayerError("has an operand that is not a constant")
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
    """Apply an index such as [..., ::-1] or [..., 2] to the channels."""
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
        raise UnsupportedLayerError("repeats more than 3 times")
    return tuple(channel for channel in image for _ in range(repeats))
