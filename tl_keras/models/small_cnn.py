"""The small convolutional network of the source articles, for images of about 28 pixels."""

import keras


def features(images: keras.KerasTensor, body_channels: int, dense_units: int) -> keras.KerasTensor:
    """Return the features of images: scaling, one convolution, pooling, one dense layer.

    Args:
        images: (batch, size, size, 1 or 3) uint8.
        body_channels: channels the convolution sees: grey is repeated to 3, colour is weighted
            to its luma for 1.
        dense_units: width of the dense layer.

    Returns:
        (batch, dense_units), 0 or more.
    """
    x = keras.layers.Rescaling(1 / 255, name="preprocess")(images)
    if x.shape[-1] > body_channels:
        # After the scaling: on uint8 Keras would cut the fraction off, and white became 254.
        x = keras.ops.image.rgb_to_grayscale(x)
    elif x.shape[-1] < body_channels:
        x = keras.layers.Concatenate(name="grey_to_colour")([x] * body_channels)
    x = keras.layers.Conv2D(32, 3, activation="relu", name="conv")(x)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.layers.Dense(dense_units, activation="relu", name="dense")(x)
