"""What the penalties of fine-tuning are made of, and how they are added to its loss.

A penalty compares functions, so what it compares is in inference mode: no dropout, and the moving
statistics of normalisation in place of the batch's. So it is zero at the source's weights.
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
    """One replica's share of a batch, as the penalties see it; what none asks for is not computed.

    Outputs are {"features": (batch, d), "logits": (batch, classes), "maps": {layer: (batch, height,
    width, channels)}}.

    Attributes:
        inputs: (batch, height, width, channels) uint8.
        outputs: of the model as it trains.
        model: that trains.
        reference: the source model, frozen; None where no penalty needs it.
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
        """The outputs of the source model; they do not depend on what trains."""
        if self.reference is None:
            raise ValueError("the row of a penalty that asks for the source says so: compares=True")
        return self.reference(self.inputs, training=False)


class PenaltyTerm(NamedTuple):
    """What a penalty's `make` gives.

    Attributes:
        value: of a batch, () float32: a mean over the share, or the same on every replica.
        variables: what trains besides the model.
    """

    value: Callable[[PenaltyInputs], tf.Tensor]
    variables: Sequence[keras.Variable] = ()


class AddedPenalties(NamedTuple):
    """What all penalties of a run add to it.

    Attributes:
        model: the setting's model, with its feature maps among the outputs.
        terms: of the objective.
        variables: what trains besides the model.
    """

    model: keras.Model
    terms: Extra | None
    variables: list[keras.Variable]


def add_penalties(run: MethodInputs, *, from_scratch: bool = False) -> AddedPenalties:
    """Return what the flags of a run add to its loss.

    Args:
        run: of the run, whose model has the source's weights.
        from_scratch: the model has fresh weights, and penalties that measure from a source are left
            out.
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
