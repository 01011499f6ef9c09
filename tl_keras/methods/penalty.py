"""The interface of penalties, and how they are added to the loss.

Penalties compare models in inference mode: without dropout, and with the moving statistics of
BatchNormalization. So they are zero at the source's weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import keras
import tensorflow as tf

from tl_keras.methods import catalog
from tl_keras.methods.interface import Extra, MethodInputs
from tl_keras.models.feature_maps import copy_frozen, with_feature_maps
from tl_keras.models.frozen_split import differs_in_training
from tl_keras.models.naming import leaves


@dataclass
class PenaltyInputs:
    """The inputs of penalties: one replica's share of a batch. Outputs are computed on first use.

    Outputs are {"features": (batch, d), "logits": (batch, classes), "maps": {layer: (batch, height,
    width, channels)}}.

    Attributes:
        inputs: (batch, height, width, channels) uint8.
        outputs: the outputs of the model in training mode.
        model: the model that trains.
        reference: the frozen source model; None if no penalty needs it.
    """

    inputs: tf.Tensor
    outputs: Mapping[str, tf.Tensor]
    model: keras.Model
    reference: keras.Model | None

    @cached_property
    def inference_outputs(self) -> Mapping[str, tf.Tensor]:
        """The outputs of the model in inference mode."""
        layers = [leaf for layer in self.model.operations for leaf in leaves(layer)]
        if any(differs_in_training(layer) for layer in layers):
            return self.model(self.inputs, training=False)
        return self.outputs

    @cached_property
    def source(self) -> Mapping[str, tf.Tensor]:
        """The outputs of the frozen source model."""
        if self.reference is None:
            raise ValueError("a penalty uses the source model. Set compares=True in its row")
        return self.reference(self.inputs, training=False)


class PenaltyTerm(NamedTuple):
    """The result of a penalty's `make`.

    Attributes:
        value: returns the penalty, () float32: a mean over the replica's share of the batch, or a
            value that is the same on every replica.
        variables: trainable variables besides the model's.
    """

    value: Callable[[PenaltyInputs], tf.Tensor]
    variables: Sequence[keras.Variable] = ()


class AddedPenalties(NamedTuple):
    """All penalties of a run.

    Attributes:
        model: the run's model with feature maps as further outputs.
        terms: returns the terms of the objective; None without penalties.
        variables: trainable variables besides the model's.
    """

    model: keras.Model
    terms: Extra | None
    variables: list[keras.Variable]


def add_penalties(run: MethodInputs, *, from_scratch: bool = False) -> AddedPenalties:
    """Return the penalties that the flags of a run add to its loss.

    Args:
        run: the inputs of the method; its model has the source's weights.
        from_scratch: leave out penalties that need a source, because the weights are initial.
    """
    strengths = {
        name: strengths
        for name, strengths in catalog.get_penalties(run.config).items()
        if not (from_scratch and catalog.PENALTIES[name].needs_source)
    }
    model = run.model
    if not strengths:
        return AddedPenalties(model, None, [])
    rows = {name: catalog.PENALTIES[name] for name in strengths}
    with run.strategy.scope():
        model_with_maps = with_feature_maps(model)
        reference = None
        if any(row.compares for row in rows.values()):
            reference = copy_frozen(model)
        penalties = {name: row.make(run, *strengths[name]) for name, row in rows.items()}

    def terms(inputs: tf.Tensor, outputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        penalty_inputs = PenaltyInputs(inputs, outputs, model_with_maps, reference)
        return {name: term.value(penalty_inputs) for name, term in penalties.items()}

    variables = [variable for term in penalties.values() for variable in term.variables]
    return AddedPenalties(model_with_maps, terms, variables)
