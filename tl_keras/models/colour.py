"""A model of grey images, as a model of colour images with the same layers."""

from typing import Any

import keras

# The layer that repeats the channel of grey images for a body that sees three.
GREY_TO_COLOUR = "grey_to_colour"


def with_colour_input(model: keras.Model) -> keras.Model:
    """Return a model of colour images that shares all layers and weights with `model`.

    It passes over the layer that repeats the channel of grey images. For a grey image with its
    channel repeated it returns what `model` returns for the image.

    Args:
        model: made by `building.build`, or a part of such a model or of a copy of it.

    Returns:
        A model of (batch, size, size, 3) uint8 images. `model` itself where it repeats no channel:
        its input is in colour already, its body sees grey images alone, or it takes no images.
    """
    if not any(layer.name == GREY_TO_COLOUR for layer in model.layers):
        return model

    def call_layer(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        # What the layer repeats has three channels here.
        return args[0][0] if layer.name == GREY_TO_COLOUR else layer(*args, **kwargs)

    images = keras.Input((*model.input.shape[1:3], 3), dtype=model.input.dtype, name="image")
    return keras.models.clone_model(
        model, images, clone_function=lambda layer: layer, call_function=call_layer
    )
