"""The same bits each time: what every architecture computes, without being told to be careful.

TensorFlow has operations whose last bits depend on which thread is first. On processors our models
use none; on GPUs `--deterministic` has TensorFlow choose others.
"""

import numpy as np
import pytest
import tensorflow as tf

from tl_keras.config import Config
from tl_keras.experiment import experiment
from tl_keras.models import building, catalog

# One of ours, one with depthwise convolutions, one with sums; then one of each kind of layer.
FEW = ("conv4", "mobilenet_v2_035", "resnet50")
MANY = (*FEW, "small_cnn", "efficientnet_b0")
TIMES = 3


def gradients(name):
    """Return the gradients of one batch under a model, each time they are computed."""
    entry = catalog.find(name)
    size = max(entry.min_size, 32 if entry.function else 28)
    model = building.build(
        name, 5, image_size=size, input_channels=3, body_channels=3, dense_units=64, seed=1
    )
    generator = np.random.default_rng(0)
    images = tf.constant(generator.integers(0, 256, (16, size, size, 3), np.uint8))
    labels = tf.constant(generator.integers(0, 5, 16))
    state = [variable.numpy() for variable in model.variables]

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            logits = model(images, training=True)["logits"]
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    for _ in range(TIMES):
        for variable, value in zip(model.variables, state, strict=True):
            variable.assign(value)
        yield [tf.convert_to_tensor(gradient).numpy().tobytes() for gradient in compute()]


def test_every_architecture_gives_the_same_bits_each_time(rounds, tally):
    names = rounds(FEW, MANY, sorted(catalog.MODELS))
    different = []
    for name in names:
        first, *others = gradients(name)
        if any(other != first for other in others):
            different.append(name)
        tf.keras.backend.clear_session()
    tally(
        "architectures with the same gradients to the bit", len(names) - len(different), len(names)
    )
    assert not different


@pytest.mark.parametrize(
    ("deterministic", "gpus", "told"), [(True, 1, 1), (True, 0, 0), (False, 1, 0)]
)
def test_tensorflow_is_told_to_be_deterministic_on_gpus(monkeypatch, deterministic, gpus, told):
    calls = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["GPU"] * gpus)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda *_: None)
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: calls.append(1))
    experiment.start_tensorflow(Config(deterministic=deterministic))
    assert len(calls) == told
