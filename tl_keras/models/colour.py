"""Convert a model of grey images to a model of colour images with the same layers."""

from typing import Any

import keras

# The layer that repeats the channel of grey images for a body with three input channels.
GREY_TO_COLOUR = "grey_to_colour"


def with_colour_input(model: keras.Model) -> keras.Model:
    """Return a model of colour images that shares all layers and weights with `model`.

    The layer that repeats the grey channel is skipped. For a grey image repeated to three channels,
    the result equals that of `model` for the grey image.

    Args:
        model: made by `building.build`, or a part of such a model or of a copy of it.

    Returns:
        A model of (batch, size, size, 3) uint8 images. `model` itself if it repeats no channel: its
        input has three channels, its body has one, or it takes no images.
    """
    if not any(layer.name == GREY_TO_COLOUR for layer in model.layers):
        return model

    def call_layer(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        # The layer's first input has three channels already.
        return args[0][0] if layer.name == GREY_TO_COLOUR else layer(*args, **kwargs)

    images = keras.Input((*model.input.shape[1:3], 3), dtype=model.input.dtype, name="image")
    return keras.models.clone_model(
        model, images, clone_function=lambda layer: layer, call_function=call_layer
    )
