"""The small convolutional network of the source articles, for images of about 28 pixels."""

import keras


def build_features(images: keras.KerasTensor, dense_units: int) -> keras.KerasTensor:
    """Build the features of scaled images: one convolution, pooling, one dense layer.

    Args:
        images: (batch, size, size, channels), 0 to 1.
        dense_units: width of the dense layer.

    Returns:
        (batch, dense_units), 0 or more.
    """
    x = keras.layers.Conv2D(32, 3, activation="relu", name="conv")(images)
    x = keras.layers.MaxPooling2D(2, name="pool")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    return keras.layers.Dense(dense_units, activation="relu", name="dense")(x)
