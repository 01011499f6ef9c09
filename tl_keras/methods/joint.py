"""Training on source and target together, with a shared body and a head for each."""

import dataclasses

import tensorflow as tf

from tl_keras.methods import finetune
from tl_keras.methods.setting import Prepared, Setting
from tl_keras.training.task import Batch, Objective, accuracy


def prepare(setting: Setting) -> Prepared:
    """Prepare the joint objective L = L_source + lambda L_target.

    Each step takes a batch of each. The body is shared and starts from the source's weights; the
    source's head goes on from where pretraining left it, and is not part of the final model.

    Raises:
        UsageError: `--trainable` names no layer of this model.
    """
    prepared = finetune.prepare(setting)
    model, config = setting.model, setting.config
    head = setting.source_head()
    loss, weight = setting.cross_entropy, config.joint_lambda
    source_loss = setting.source_cross_entropy

    def objective(batch: Batch) -> Objective:
        images, labels = batch["target"]
        source_images, source_labels = batch["source"]
        source_images = _with_channels(source_images, images.shape[-1])
        # One pass over both, so that normalisation layers see the mixture they will be used on.
        outputs = model(tf.concat([source_images, images], axis=0), training=True)
        count = source_images.shape[0]
        source_logits = head(outputs["features"][:count])
        logits = outputs["logits"][count:]
        terms = {
            "source": source_loss(source_labels, source_logits),
            "target": weight * loss(labels, logits),
        }
        return Objective(terms, {"accuracy": accuracy(labels, logits)})

    task = prepared.task
    speeds = list(task.multipliers)
    task = dataclasses.replace(
        task,
        streams={**task.streams, "source": setting.source_stream()},
        objective=objective,
        variables=[*task.variables, *head.trainable_variables],
        multipliers=speeds and speeds + [config.head_lr_multiplier] * 2,
    )
    return dataclasses.replace(prepared, task=task)


def _with_channels(images: tf.Tensor, channels: int) -> tf.Tensor:
    """Return (batch, height, width, c) uint8 images with as many channels as the target's have."""
    if images.shape[-1] == channels:
        return images
    if channels == 1:
        return tf.image.rgb_to_grayscale(images)
    return tf.repeat(images, channels, axis=-1)
