"""Fine-tuning that stays near the source's weights."""

import dataclasses

import keras
import tensorflow as tf

from tl_keras.methods import finetune
from tl_keras.methods.setting import Prepared, Setting
from tl_keras.models.building import tensor_names
from tl_keras.models.weights import HEAD, Tensors
from tl_keras.training.task import Batch


def prepare(setting: Setting) -> Prepared:
    """Prepare fine-tuning with the L2-SP penalty.

    CE + (alpha/2) ||w_body - w0_body||^2 + (beta/2) ||w_head||^2, over all weights that train; w0
    are the source's. Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer Learning
    with Convolutional Networks", ICML 2018, arXiv 1802.01483.

    Raises:
        UsageError: `--trainable` names no layer of this model.
    """
    prepared = finetune.prepare(setting)
    plain = prepared.task.terms
    config = setting.config
    pull = Penalty(setting.model, setting.source.tensors, config.l2sp_alpha, config.l2sp_beta)

    def terms(batch: Batch) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        objective, logits = plain(batch)
        return {**objective, "l2sp": pull()}, logits

    return dataclasses.replace(prepared, task=dataclasses.replace(prepared.task, terms=terms))


class Penalty:
    """The penalty of one model, () float32 on each call."""

    def __init__(self, model: keras.Model, start: Tensors, alpha: float, beta: float):
        """Measure `model`'s trainable weights from `start`, by name."""
        trainable = {id(variable) for variable in model.trainable_variables}
        named = tensor_names(model).items()
        moving = [(name, variable) for name, variable in named if id(variable) in trainable]
        self._body = [(v, tf.constant(start[n])) for n, v in moving if not n.startswith(HEAD)]
        self._head = [v for n, v in moving if n.startswith(HEAD)]
        self._alpha = alpha
        self._beta = beta

    def __call__(self) -> tf.Tensor:
        """Return (alpha/2) ||w_body - w0_body||^2 + (beta/2) ||w_head||^2."""
        body = [tf.reduce_sum(tf.square(v.value - w0)) for v, w0 in self._body]
        head = [tf.reduce_sum(tf.square(v.value)) for v in self._head]
        zero = [tf.zeros(())]
        return 0.5 * (self._alpha * tf.add_n(body + zero) + self._beta * tf.add_n(head + zero))
