"""Dropout that is a function of the example and the step, and not of the replica.

Several replicas that share a batch would each draw a mask for the rows they have, and a run would
depend on how many there are. Here each draws the mask of the whole batch, which is the one that a
single replica draws, and takes the rows of its share.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import keras
import tensorflow as tf


class Share(NamedTuple):
    """What one replica has of a batch.

    Attributes:
        first: () int64, the place of its first example.
        size: () int64, how many examples it has.
        whole: how many examples all replicas have.
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
    """Say, in a replica, what it has of the batch of each stream that models see inside."""
    with _context_value(_shares, shares):
        yield


@contextlib.contextmanager
def concatenated_streams(*streams: str) -> Iterator[None]:
    """Say that what models see inside are the examples of these streams, one after the other."""
    with _context_value(_streams, streams):
        yield


@contextlib.contextmanager
def _context_value(variable: contextvars.ContextVar, value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def use_sharded_dropout(model: keras.Model) -> None:
    """Have the dropout of `model` draw for whole batches where replicas share them."""
    for layer in model.layers:
        if type(layer) is keras.layers.Dropout and layer.rate:
            layer.call = functools.partial(_sharded_dropout, layer)


def _sharded_dropout(
    layer: keras.layers.Dropout, inputs: tf.Tensor, training: bool = False
) -> tf.Tensor:
    """Return (share, ...) inputs, some of which are zero where this is training."""
    shares = _shares.get()
    if shares is None or not training:
        return keras.layers.Dropout.call(layer, inputs, training=training)
    rows, total = _rows_of_shares([shares[name] for name in _streams.get()])
    ones = tf.ones([total, *inputs.shape[1:]], inputs.dtype)
    mask = keras.layers.Dropout.call(layer, ones, training=True)
    return inputs * tf.gather(mask, rows)


def _rows_of_shares(shares: list[Share]) -> tuple[tf.Tensor, int]:
    """Return which rows of their whole batches, one after the other, these shares are."""
    rows, before = [], 0
    for share in shares:
        rows.append(before + share.first + tf.range(share.size))
        before += share.total
    return tf.concat(rows, axis=0), before
