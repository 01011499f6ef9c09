"""Training on source and target together, with a shared body and a head for each."""

import dataclasses

import keras
import tensorflow as tf

from tl_keras.methods import finetune
from tl_keras.methods.setting import Prepared, Setting
from tl_keras.models.weights import HEAD
from tl_keras.training.task import Batch, cross_entropy


def prepare(setting: Setting) -> Prepared:
    """Prepare the joint objective L = L_source + lambda L_target.

    Each step takes a batch of each. The body is shared and starts from the source's weights; the
    source's head goes on from where pretraining left it, and is not part of the final model.

    Raises:
        UsageError: `--trainable` names no layer of this model.
    """
    prepared = finetune.prepare(setting)
    tensors = setting.source.tensors
    model = setting.model
    with setting.strategy.scope():
        source_head = keras.layers.Dense(tensors[f"{HEAD}bias"].shape[0], name="source_head")
        source_head.build((None, tensors[f"{HEAD}kernel"].shape[0]))
        source_head.set_weights([tensors[f"{HEAD}kernel"], tensors[f"{HEAD}bias"]])
    weight = setting.config.joint_lambda

    def terms(batch: Batch) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        images, labels = batch["target"]
        source_images, source_labels = batch["source"]
        source_images = _with_channels(source_images, images.shape[-1])
        # One pass over both, so that normalisation layers see the mixture they will be used on.
        outputs = model(tf.concat([source_images, images], axis=0), training=True)
        count = source_images.shape[0]
        source_logits = source_head(outputs["features"][:count])
        logits = outputs["logits"][count:]
        return {
            "source": cross_entropy(source_labels, source_logits),
            "target": weight * cross_entropy(labels, logits),
        }, logits

    task = dataclasses.replace(
        prepared.task,
        streams={**prepared.task.streams, "source": setting.source_stream()},
        terms=terms,
        variables=[*prepared.task.variables, *source_head.trainable_variables],
    )
    return dataclasses.replace(prepared, task=task)


def _with_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Return (batch, height, width, c) uint8 images with as many channels as the target's have."""
    if images.shape[-1] == channels:
        return images
    if channels == 1:
        return tf.image.rgb_to_grayscale(images)
    return tf.repeat(images, channels, axis=-1)
