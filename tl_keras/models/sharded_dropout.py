"""Dropout whose masks do not depend on the number of replicas.

Each replica draws the mask of the whole batch, as a single replica does, and uses the rows of its
share.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras
import tensorflow as tf


class Share(NamedTuple):
    """One replica's share of a batch.

    Attributes:
        first: () int64, index of its first example in the batch.
        size: () int64, number of its examples.
        total: number of examples of all replicas.
    """

    first: tf.Tensor
    size: tf.Tensor
    total: int


_shares: contextvars.ContextVar[Mapping[str, Share] | None]
_shares = contextvars.ContextVar("shares", default=None)
_streams: contextvars.ContextVar[tuple[str, ...]]
_streams = contextvars.ContextVar("together", default=("target",))


@contextlib.contextmanager
def batch_shares(shares: Mapping[str, Share]) -> Iterator[None]:
    """Declare the replica's share of each stream's batch inside."""
    with _set_value(_shares, shares):
        yield


@contextlib.contextmanager
def concatenated_streams(*streams: str) -> Iterator[None]:
    """Declare that model inputs inside are the concatenated batches of these streams."""
    with _set_value(_streams, streams):
        yield


@contextlib.contextmanager
def _set_value(variable: contextvars.ContextVar, value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def use_sharded_dropout(model: keras.Model) -> None:
    """Let the dropout layers of `model` draw masks for whole batches."""
    for layer in model.layers:
        if type(layer) is keras.layers.Dropout and layer.rate:
            layer.call = functools.partial(_sharded_dropout, layer)


def _sharded_dropout(
    layer: keras.layers.Dropout, inputs: tf.Tensor, training: bool = False
) -> tf.Tensor:
    """Apply dropout to (share, ...) inputs in training."""
    shares = _shares.get()
    if shares is None or not training:
        return keras.layers.Dropout.call(layer, inputs, training=training)
    rows, total = _rows_of_shares([shares[name] for name in _streams.get()])
    ones = tf.ones([total, *inputs.shape[1:]], inputs.dtype)
    mask = keras.layers.Dropout.call(layer, ones, training=True)
    return inputs * tf.gather(mask, rows)


def _rows_of_shares(shares: list[Share]) -> tuple[tf.Tensor, int]:
    """Return the rows of the shares in the concatenated whole batches, and their total size."""
    rows, before = [], 0
    for share in shares:
        rows.append(before + share.first + tf.range(share.size))
        before += share.total
    return tf.concat(rows, axis=0), before
