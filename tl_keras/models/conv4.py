"""conv4: a small and fast network for digits and letters, with higher accuracy than small_cnn."""

import keras

DROPOUT = 0.25
WIDTHS = (32, 32, 64, 64)


def build_features(images: keras.KerasTensor, dense_units: int) -> keras.KerasTensor:
    """Build the features of scaled images: two pairs of 3x3 convolutions, and a dense layer.

    Each convolution and the dense layer are followed by BatchNormalization and ReLU. Each pair is
    followed by max pooling and dropout.

    Args:
        images: (batch, size, size, channels), 0 to 1.
        dense_units: width of the dense layer.

    Returns:
        (batch, dense_units), 0 or more.
    """
    x = images
    for number, width in enumerate(WIDTHS, start=1):
        x = keras.layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = _normalise(x, f"conv{number}")
        if number % 2 == 0:
            x = keras.layers.MaxPooling2D(2, name=f"pool{number // 2}")(x)
            x = keras.layers.Dropout(DROPOUT, name=f"dropout{number // 2}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(dense_units, use_bias=False, name="dense")(x)
    x = _normalise(x, "dense")
    return keras.layers.Dropout(2 * DROPOUT, name="dropout3")(x)


def _normalise(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    x = keras.layers.BatchNormalization(name=f"{name}_bn")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
