"""Small things that several tests are made of: pictures that can be learned, settings, sources."""

import numpy as np
import tensorflow as tf

from tl_keras.config import Config, from_flat
from tl_keras.data.dataset import ImageSet
from tl_keras.data.splits import Split
from tl_keras.methods.setting import Setting
from tl_keras.models import building, weights
from tl_keras.models.weights import Origin, Weights


def pictures(count: int, seed: int = 0) -> ImageSet:
    """Return (count, 8, 8, 1) noise of three classes, each with a bright band of its own."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = generator.integers(0, 80, (count, 8, 8, 1))
    for label in range(3):
        images[labels == label, 2 * label : 2 * label + 2] += 120
    return ImageSet(images.astype(np.uint8), labels)


def small_model(seed: int = 1):
    """Return a small_cnn for such pictures."""
    return building.build(
        "small_cnn", 3, image_size=8, input_channels=1, body_channels=1, dense_units=8, seed=seed
    )


def source_weights(seed: int = 5) -> Weights:
    """Return what a source of the classes a, b, c knows."""
    origin = Origin("bands", ("a", "b", "c"), "small_cnn", 8, 1)
    return Weights(weights.tensors_of(small_model(seed)), origin)


def setting(tmp_path, model=None, **flags) -> Setting:
    """Return what a method is given: 40 pictures, 30 to train and 10 to validate."""
    config: Config = from_flat({"steps": 20, "batch_size": 16, "learning_rate": 0.01, **flags})
    known = source_weights()
    if model is None:
        model = small_model()
        weights.copy(known, model, ("a", "b", "c"), config.head, "--source=bands")
    return Setting(
        config=config,
        training=config.training,
        strategy=tf.distribute.get_strategy(),
        seed=0,
        model=model,
        images=pictures(40),
        split=Split(np.arange(30), np.arange(30, 40)),
        image_size=8,
        augment="none",
        cache=tmp_path / "features",
        source_weights=known,
        source_train=pictures(50, seed=8),
    )


class Records(list):
    """A recorder that keeps all it is told, and can fail at a step as a killed process would."""

    def __init__(self, fail_at: int | None = None):
        super().__init__()
        self.fail_at = fail_at

    def resume(self, step: int) -> None:
        """Keep what was recorded up to `step`."""
        self[:] = [one for one in self if one[0] <= step]

    def write(self, step: int, values: dict[str, float]) -> None:
        """Keep `values`."""
        if step == self.fail_at:
            raise KeyboardInterrupt
        self.append((step, values))
