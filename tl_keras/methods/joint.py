"""Training on source and target together, with a shared body and a head for each."""

import dataclasses

import keras
import tensorflow as tf

from tl_keras.data.pipeline import with_channels
from tl_keras.methods import catalog, finetune
from tl_keras.methods.interface import MethodInputs, MethodOutputs, supervised
from tl_keras.models import sharded_dropout
from tl_keras.models.building import set_trainable
from tl_keras.models.colour import with_colour_input
from tl_keras.training.task import Batch, Objective, ObjectiveFunction, accuracy


def prepare(run: MethodInputs) -> MethodOutputs:
    """Prepare the joint objective L = L_source + lambda L_target.

    Each step takes a batch of each. The body is shared and starts from the source's weights; the
    source's head goes on from where pretraining left it, and is not part of the final model.

    Where source or target is in colour, both are trained on with 3 channels, and grey is repeated.
    The final model takes images with the channels of the target.

    Raises:
        UsageError: `--trainable` names no layer of this model.
    """
    config, model = run.config, run.model
    set_trainable(model, config.trainable)
    head = run.source_head()
    loss = run.cross_entropy
    [weight] = catalog.strengths("joint", config)
    source_loss = run.source_cross_entropy

    def objective_of(model: keras.Model) -> ObjectiveFunction:
        model = with_colour_input(model)

        def objective(batch: Batch, _: tf.Tensor) -> Objective:
            images, labels = batch["target"]
            source_images, source_labels = batch["source"]
            # One pass over both: normalisation goes by the mixture, in the final model too.
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

    prepared = supervised(run, views=config.cached_views)
    streams = {**prepared.task.streams, "source": run.source_stream()}
    task = dataclasses.replace(
        prepared.task,
        streams=streams,
        objective=objective_of(model),
        normalised=("source", "target"),
    )
    task = finetune.in_stages(run, task, objective_of, head.trainable_variables)
    return dataclasses.replace(prepared, task=task)
