"""Joint training on source and target, with a shared body and two heads."""

import dataclasses

import keras
import tensorflow as tf

from tl_keras.data.pipeline import with_channels
from tl_keras.methods import catalog, finetune
from tl_keras.methods.interface import MethodInputs, MethodOutputs, prepare_supervised
from tl_keras.models import sharded_dropout
from tl_keras.models.building import set_trainable
from tl_keras.models.colour import with_colour_input
from tl_keras.training.task import Batch, Objective, ObjectiveFunction, accuracy


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare the joint objective L = L_source + lambda L_target.

    Each step has a batch of each. The shared body starts from the source's weights. The source's
    head continues from its pretrained weights and is not part of the final model.

    If source or target is in colour, both train with 3 channels, and grey images are repeated. The
    final model takes images with the channels of the target.

    Raises:
        UsageError: `--trainable` names no layer of this model.
    """
    config, model = run.config, run.model
    set_trainable(model, config.trainable)
    head = run.source_head()
    loss = run.cross_entropy
    [weight] = catalog.get_strengths("joint", config)
    source_loss = run.source_cross_entropy

    def objective_of(model: keras.Model) -> ObjectiveFunction:
        model = with_colour_input(model)

        def objective(batch: Batch, _: tf.Tensor) -> Objective:
            images, labels = batch["target"]
            source_images, source_labels = batch["source"]
            # One forward pass over both: BatchNormalization uses the statistics of the mixture.
            both = [with_channels(one, model.input.shape[-1]) for one in (source_images, images)]
            with sharded_dropout.concatenated_streams("source", "target"):
                outputs = model(tf.concat(both, axis=0), training=True)
            count = tf.shape(source_images)[0]
            source_logits = head(outputs["features"][:count])
            logits = outputs["logits"][count:]
            terms = {
                "source": source_loss(source_labels, source_logits),
                "target": weight * loss(labels, logits),
            }
            return Objective(terms, {"accuracy": accuracy(labels, logits)})

        return objective

    outputs = prepare_supervised(run, views=config.cached_views)
    streams = {**outputs.task.streams, "source": run.source_stream()}
    task = dataclasses.replace(
        outputs.task,
        streams=streams,
        objective=objective_of(model),
        normalised=("source", "target"),
    )
    task = finetune.add_stages(run, task, objective_of, head.trainable_variables)
    return dataclasses.replace(outputs, task=task)
