"""Inference over a whole split: every example once, on all replicas."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data import pipeline
from tl_keras.distributed import distribution
from tl_keras.pictures.arrays import Images

# Inference needs no gradients, so its batches can be larger. This bounds their memory.
VALUES_PER_BATCH = 2**26


def max_batch_size(inputs: Images, image_size: int = 0) -> int:
    """Return the number of examples per batch for inference."""
    side = image_size or inputs.shape[1]
    values = side * side * 3 if inputs.dtype == np.uint8 else int(np.prod(inputs.shape[1:]))
    return int(np.clip(VALUES_PER_BATCH // (values * 8), 16, 512))


class Runner:
    """Runs one function over many examples. Reuse it to avoid retracing."""

    def __init__(self, function: Callable[[tf.Tensor], Any], strategy: tf.distribute.Strategy):
        """Prepare to run `function` on batches; its models were built under `strategy`."""
        self._function = function
        self._strategy = strategy
        self._run = tf.function(self._replicas, reduce_retracing=True, autograph=False)
        # The pipeline of the last examples, because each validation of a run has the same ones.
        self._last: tuple[Images, int, Any] | None = None

    def _replicas(self, batch: tf.Tensor) -> Any:
        outputs = self._strategy.run(self._function, args=(batch,))
        return tf.nest.map_structure(lambda one: self._strategy.gather(one, axis=0), outputs)

    def run(self, inputs: Images, image_size: int = 0, **augmented: Any) -> Any:
        """Return the outputs of the function, concatenated over all examples of `inputs`.

        Args:
            inputs: (examples, ...) uint8 images or float features, at least one.
            image_size: side in pixels that images are resized to; 0: unchanged.
            augmented: augmentation and keys; see `pipeline.sequential_batches`.
        """
        batches = self._batches(inputs, image_size, augmented)
        parts = [tf.nest.map_structure(lambda one: one.numpy(), self._run(b)) for b in batches]
        return tf.nest.map_structure(lambda *ones: np.concatenate(ones)[: len(inputs)], *parts)

    def _batches(self, inputs: Images, image_size: int, augmented: dict[str, Any]) -> Any:
        last = self._last
        if last and last[0] is inputs and last[1] == image_size and not augmented:
            return last[2]
        batch_size = max_batch_size(inputs, image_size)
        batches = distribution.distribute_batches(
            self._strategy,
            lambda context: pipeline.sequential_batches(
                inputs, batch_size, image_size, context, **augmented
            ),
        )
        self._last = None if augmented else (inputs, image_size, batches)
        return batches


class Predictor:
    """Runs one model in inference mode. Reuse it to avoid retracing."""

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        """Prepare to run `model`, which was built under `strategy`."""

        def logits(batch: tf.Tensor) -> tf.Tensor:
            return model(batch, training=False)["logits"]

        self._runner = Runner(logits, strategy)

    def predict(self, inputs: Images, image_size: int = 0) -> np.ndarray:
        """Return the logits of `inputs`, (examples, classes) float32, in their order.

        Args:
            inputs: (examples, ...) uint8 images or float features, at least one.
            image_size: side in pixels that images are resized to; 0: unchanged.
        """
        return self._runner.run(inputs, image_size).astype(np.float32)
