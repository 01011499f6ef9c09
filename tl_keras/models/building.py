"""Build models by name: uint8 images in, features and logits out, seeded fresh weights."""

import re
from collections.abc import Collection, Iterable

import keras

from tl_keras.config.preprocessing import Preprocessing
from tl_keras.config.trainable import Trainable
from tl_keras.errors import UsageError
from tl_keras.models import applications, catalog, conv4, sharded_dropout, small_cnn
from tl_keras.models.colour import GREY_TO_COLOUR
from tl_keras.models.naming import named_layers, named_weights, rename
from tl_keras.models.operations import use_fused_ops
from tl_keras.runtime.seeds import derive

__all__ = [
    "build",
    "copy_weights",
    "find_head",
    "named_body",
    "set_trainable",
    "named_weights",
    "train_only",
]

HEAD = "head"

# The maximum momentum of BatchNormalization's moving statistics.
MAX_MOMENTUM = 0.9

# The attributes that hold a variable's initializer. Other weights have constant initial values.
INITIALIZERS = {
    "kernel": ("kernel_initializer", "depthwise_initializer"),
    "depthwise_kernel": ("depthwise_initializer",),
    "pointwise_kernel": ("pointwise_initializer",),
}


def build(
    name: str,
    num_classes: int,
    *,
    image_size: int,
    input_channels: int,
    body_channels: int,
    dense_units: int,
    seed: int | None = None,
    weights: str | None = None,
    synchronised: bool = True,
    preprocessing: Preprocessing | None = None,
) -> keras.Model:
    """Build a model that takes pixels and returns features and logits.

    The input "image" is (batch, image_size, image_size, input_channels) uint8. The output is a dict
    of "features", (batch, width) float32, and "logits", (batch, num_classes) float32. The last
    layer is a Dense named "head".

    Args:
        name: of the architecture in the catalog.
        num_classes: number of outputs of the head.
        image_size: side in pixels.
        input_channels: channels of the images, 1 or 3.
        body_channels: input channels of the first convolution in our own models, 1 or 3. Other
            models have 3.
        dense_units: width of the features in our own models. Other models have a fixed width.
        seed: of fresh weights and of dropout; None for Keras' global seed generator.
        weights: "imagenet", or None for fresh weights.
        synchronised: whether BatchNormalization uses the statistics of the whole batch over all
            replicas, or of each replica's share.
        preprocessing: the preprocessing in front of the first layer with weights; None for the
            catalog's.

    Raises:
        UsageError: the name is not known, the images are too small, or there are no ImageNet
            weights.
        DataError: the ImageNet weights are missing or damaged.
    """
    entry = _find_entry(name, image_size, weights)
    path = applications.find_weights_file(name, entry, image_size) if weights else None
    images = keras.Input((image_size, image_size, input_channels), dtype="uint8", name="image")
    if entry.function:
        features = applications.build_features(images, entry, path, preprocessing)
    else:
        own = {"small_cnn": small_cnn, "conv4": conv4}[name]
        features = own.build_features(
            _scale_pixels(images, body_channels, preprocessing), dense_units
        )
    # In float32 under any dtype policy, so that losses and stored features keep their precision.
    features = keras.layers.Activation("linear", dtype="float32", name="features")(features)
    logits = keras.layers.Dense(num_classes, dtype="float32", name=HEAD)(features)
    model = keras.Model(images, {"features": features, "logits": logits}, name=name)
    rename(model)
    _limit_momentum(model)
    use_fused_ops(model, synchronised=synchronised)
    sharded_dropout.use_sharded_dropout(model)
    if seed is not None:
        _draw_weights(model, seed, body=path is None)
        _seed_dropout(model, seed)
    return model


def _scale_pixels(
    images: keras.KerasTensor, channels: int, preprocessing: Preprocessing | None
) -> keras.KerasTensor:
    """Return (batch, size, size, channels), scaled to 0 to 1 or by `preprocessing`.

    Grey is repeated to three channels. Colour is converted to luma.
    """
    if preprocessing is not None and (len(preprocessing.scale) > 1 or preprocessing.bgr):
        return _scale_pixels_by_channel(images, channels, preprocessing)
    if preprocessing is None:
        x = keras.layers.Rescaling(1 / 255, name="preprocess")(images)
    else:
        x = applications.rescale(images, preprocessing)
    if x.shape[-1] > channels:
        # After scaling, because on uint8 Keras truncates, and white would become 254.
        x = keras.ops.image.rgb_to_grayscale(x)
    elif x.shape[-1] < channels:
        x = keras.layers.Concatenate(name=GREY_TO_COLOUR)([x] * channels)
    return x


def _scale_pixels_by_channel(
    images: keras.KerasTensor, channels: int, preprocessing: Preprocessing
) -> keras.KerasTensor:
    """Return (batch, size, size, 3), with a scale and an offset for each channel."""
    if channels != 3:
        raise UsageError(
            f"the preprocessing {preprocessing} has three channels, and the first layer has"
            f" {channels}. Give one SCALE:OFFSET as --source_preprocessing, or other weights"
        )
    if images.shape[-1] == 1:
        images = keras.layers.Concatenate(name=GREY_TO_COLOUR)([images] * 3)
    return applications.rescale(images, preprocessing)


def _find_entry(name: str, image_size: int, weights: str | None) -> catalog.Entry:
    """Return the catalog's entry, or raise UsageError if it does not support the settings."""
    entry = catalog.find(name)
    if image_size < entry.min_size:
        raise UsageError(
            f"--image_size={image_size} is below the {entry.min_size} pixels that {name} needs."
            f" Raise it, or leave it out for {entry.image_size}"
        )
    if weights and not entry.weights:
        raise UsageError(
            f"--source=imagenet has no weights for --model={name}. Choose an architecture of"
            " keras.applications, such as --model=mobilenet_v2"
        )
    return entry


def _limit_momentum(model: keras.Model) -> None:
    """Limit the momentum of moving statistics, so that they converge within tens of steps.

    MobileNet's momentum of 0.999 keeps 92 % of the initial statistics after 80 steps. A model
    trained from scratch would be evaluated with them, and lose for that reason alone.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = min(layer.momentum, MAX_MOMENTUM)


def _draw_weights(model: keras.Model, seed: int, *, body: bool) -> None:
    """Draw each kernel anew by its own initializer and a derived seed.

    Keras seeds an initializer from Python's global generator, so the initial weights would depend
    on everything that was built before.
    """
    for layer_name, layer in named_layers(model).items():
        if not body and layer_name != HEAD:
            continue
        for variable in layer.weights:
            attributes = INITIALIZERS.get(variable.name, ())
            for attribute in [one for one in attributes if hasattr(layer, one)][:1]:
                initializer = getattr(layer, attribute)
                own_seed = _to_keras_seed(derive(seed, "weights", layer_name, variable.name))
                drawn = type(initializer).from_config(
                    {**initializer.get_config(), "seed": own_seed}
                )
                variable.assign(drawn(variable.shape, variable.dtype))


def _seed_dropout(model: keras.Model, seed: int) -> None:
    """Seed the generators of dropout layers, which Keras seeds from the global generator too."""
    for layer in model.layers:
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign([_to_keras_seed(derive(seed, "dropout", layer.name)), 0])


def _to_keras_seed(seed: int) -> int:
    """Convert a seed of 63 bits to 31 bits, the maximum of Keras."""
    return seed >> 32


def copy_weights(layer: keras.Layer, copy: keras.Layer) -> None:
    """Copy the weights of `layer` to `copy`, a layer of the same class."""
    copy.set_weights(layer.get_weights())
    if isinstance(copy, keras.layers.Normalization):
        # The layer computes with constants that are derived from its weights by this call only.
        copy.finalize_state()


def find_head(model: keras.Model) -> keras.layers.Dense:
    """Return the head, the layer from features to logits."""
    return model.get_layer(HEAD)


def named_body(model: keras.Model) -> dict[str, keras.Layer]:
    """Return the layers below the head with trainable weights, by name, in order."""
    # The weights of a Normalization are constants of the preprocessing.
    return {
        name: layer
        for name, layer in named_layers(model).items()
        if name != HEAD and not isinstance(layer, keras.layers.Normalization)
    }


def set_trainable(model: keras.Model, trainable: Trainable) -> list[str]:
    """Choose which layers train; a frozen BatchNormalization also keeps its moving statistics.

    Args:
        model: one that `build` made.
        trainable: which layers.

    Returns:
        The names of the layers with weights that train, in their order, the head last.

    Raises:
        UsageError: the model has fewer layers, or the pattern is found in no layer's name.
    """
    body = list(named_body(model))
    chosen = _chosen(trainable, body)
    train_only(model, chosen)
    return [name for name in body if name in chosen] + [HEAD]


def train_only(model: keras.Model, names: Collection[str]) -> None:
    """Train the head and the named layers of the body. Freeze all others."""
    model.trainable = True
    for name, layer in named_body(model).items():
        layer.trainable = name in names


def _chosen(trainable: Trainable, names: list[str]) -> set[str]:
    """Return which of the body's layers train."""
    if trainable.kind == "all":
        return set(names)
    if trainable.kind == "head":
        return set()
    if trainable.kind == "last":
        if trainable.count > len(names) + 1:
            raise UsageError(
                f"--trainable={trainable}: N of last:N must be from 1 (the head) to"
                f" {len(names) + 1} (all layers with weights)"
            )
        return set(names[len(names) + 1 - trainable.count :])
    found = {name for name in names if trainable.pattern and re.search(trainable.pattern, name)}
    if not found:
        raise UsageError(
            f"--trainable={trainable} is found in no layer's name. Choose all, head, last:N, or a"
            f" regular expression that is found in names such as {_examples(names)}"
        )
    return found


def _examples(names: Iterable[str]) -> str:
    every = list(names)
    shown = every if len(every) <= 5 else [*every[:3], *every[-2:]]
    return ", ".join(shown)
