"""Keras on picture files, as its guides have it: `image_dataset_from_directory` and `fit`.

`python -m experiments.benchmarks.peers_keras_files FOLDER EPOCHS RESULT` is the guide on transfer
learning (https://keras.io/guides/transfer_learning/): it trains a head on frozen MobileNetV2 and
writes the test accuracy to the file RESULT. Augmentation and Dropout are left out: the other
contenders have none.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from experiments.benchmarks.worker import Rounds, cpu_seconds

ALPHA, SIZE, BATCH_SIZE = 0.35, 224, 32
LEARNING_RATE = 1e-3


def read(rounds: Rounds, folder: str, size: int) -> None:
    """List and decode all files in each round, which is measured in CPU time."""
    rounds.clock = cpu_seconds
    while True:
        rounds.begin()
        count = sum(len(labels) for _, labels in _open(folder, size, shuffle=False))
        rounds.end(count)


def train_head(folder: Path, epochs: int, weights: str = "imagenet") -> float:
    """Train a head on FOLDER/train, and return its accuracy on FOLDER/test, from 0 to 1."""
    keras.utils.set_random_seed(0)
    train = _open(str(folder / "train"), SIZE, shuffle=True)
    test = _open(str(folder / "test"), SIZE, shuffle=False)
    classes = len(train.class_names)
    base = keras.applications.MobileNetV2(
        input_shape=(SIZE, SIZE, 3), alpha=ALPHA, include_top=False, weights=weights
    )
    base.trainable = False
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = base(x, training=False)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(classes)(x))
    model.compile(
        keras.optimizers.Adam(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(train.prefetch(tf.data.AUTOTUNE), epochs=epochs, verbose=0)
    figures = model.evaluate(test.prefetch(tf.data.AUTOTUNE), verbose=0, return_dict=True)
    return float(figures["accuracy"])


def write_random_weights(path: Path) -> None:
    """Write random weights of MobileNetV2 in the form of the files that Keras publishes.

    Kernels are drawn as by He et al. (ICCV 2015), and all else near its initial value. With Keras'
    initial kernels the features would be 1e-11.
    """
    from keras.src.legacy.saving import legacy_h5_format

    generator = np.random.default_rng(0)
    base = keras.applications.MobileNetV2(
        input_shape=(SIZE, SIZE, 3), alpha=ALPHA, include_top=False, weights=None
    )
    for variable in base.variables:
        deviation = 0.1
        if len(variable.shape) == 4:
            # A depthwise kernel, (3, 3, channels, 1), sums over one channel.
            channels = 1 if variable.shape[-1] == 1 else variable.shape[2]
            deviation = np.sqrt(2 / (variable.shape[0] * variable.shape[1] * channels))
        noise = generator.normal(0, deviation, variable.shape)
        variable.assign(noise if len(variable.shape) == 4 else variable.numpy() + noise)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, base)


def _open(folder: str, size: int, *, shuffle: bool) -> tf.data.Dataset:
    return keras.utils.image_dataset_from_directory(
        folder,
        image_size=(size, size),
        batch_size=BATCH_SIZE,
        crop_to_aspect_ratio=True,
        shuffle=shuffle,
        verbose=False,
    )


def main(argv: Sequence[str]) -> int:
    """Train as `argv` says, and write the accuracy."""
    folder, epochs, result = argv[1:]
    accuracy = train_head(Path(folder), int(epochs))
    Path(result).write_text(json.dumps({"accuracy": accuracy}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
