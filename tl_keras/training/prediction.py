"""Running a model over a whole split: every example once, on all replicas."""

from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data import pipeline

# Evaluation keeps no gradients, so it affords larger batches than training; this bounds its memory.
VALUES_A_BATCH = 2**24


class Outputs(NamedTuple):
    """What a model says of a split.

    Attributes:
        features: (examples, d) float32, what the head is given.
        logits: (examples, classes) float32.
    """

    features: np.ndarray
    logits: np.ndarray


class Predictor:
    """Runs one model in inference mode; keep it where the model is evaluated more than once."""

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy):
        """Prepare to run `model`, which was built under `strategy`."""
        self._model = model
        self._strategy = strategy
        self._run = tf.function(self._replicas, reduce_retracing=True)

    def _replicas(self, batch: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = self._strategy.run(lambda rows: self._model(rows, training=False), args=(batch,))
        return {
            name: self._strategy.gather(outputs[name], axis=0) for name in ("features", "logits")
        }

    def predict(self, inputs: np.ndarray, image_size: int = 0) -> Outputs:
        """Return features and logits of `inputs`, in their order.

        Args:
            inputs: (examples, ...) uint8 images or float32 features, at least one.
            image_size: side in pixels that images are brought to; 0 leaves them.
        """
        replicas = self._strategy.num_replicas_in_sync
        side = image_size or inputs.shape[1]
        values = side * side * 3 if inputs.ndim == 4 else inputs.shape[1]
        batch_size = int(np.clip(VALUES_A_BATCH // (values * 8), 16, 512))
        batches = self._strategy.distribute_datasets_from_function(
            lambda context: pipeline.in_order(inputs, batch_size, image_size, replicas)
        )
        parts = [self._run(batch) for batch in batches]
        features, logits = (
            np.concatenate([part[name].numpy() for part in parts])[: len(inputs)]
            for name in ("features", "logits")
        )
        return Outputs(features.astype(np.float32), logits.astype(np.float32))
