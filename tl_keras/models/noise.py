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
    whole: int


_shares: contextvars.ContextVar[Mapping[str, Share] | None]
_shares = contextvars.ContextVar("shares", default=None)
_together: contextvars.ContextVar[tuple[str, ...]]
_together = contextvars.ContextVar("together", default=("target",))


@contextlib.contextmanager
def sharing(shares: Mapping[str, Share]) -> Iterator[None]:
    """Say, in a replica, what it has of the batch of each stream that models see inside."""
    with _set(_shares, shares):
        yield


@contextlib.contextmanager
def together(*streams: str) -> Iterator[None]:
    """Say that what models see inside are the examples of these streams, one after the other."""
    with _set(_together, streams):
        yield


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar, value: object) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def share_out(model: keras.Model) -> None:
    """Have the dropout of `model` draw for whole batches where replicas share them."""
    for layer in model.layers:
        if type(layer) is keras.layers.Dropout and layer.rate:
            layer.call = functools.partial(_dropped, layer)


def _dropped(layer: keras.layers.Dropout, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Return (share, ...) inputs, some of which are zero where this is training."""
    shares = _shares.get()
    if shares is None or not training:
        return keras.layers.Dropout.call(layer, inputs, training=training)
    rows, whole = _rows([shares[name] for name in _together.get()])
    ones = tf.ones([whole, *inputs.shape[1:]], inputs.dtype)
    mask = keras.layers.Dropout.call(layer, ones, training=True)
    return inputs * tf.gather(mask, rows)


def _rows(shares: list[Share]) -> tuple[tf.Tensor, int]:
    """Return which rows of their whole batches, one after the other, these shares are."""
    rows, before = [], 0
    for share in shares:
        rows.append(before + share.first + tf.range(share.size))
        before += share.whole
    return tf.concat(rows, axis=0), before
