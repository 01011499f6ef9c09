"""The graph of the training loop: many steps in each call, with `strategy.run` inside."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data.pipeline import Stream
from tl_keras.distributed import distribution
from tl_keras.models import sharded_dropout
from tl_keras.models.sharded_dropout import Share
from tl_keras.training.averaging import Average
from tl_keras.training.task import Batch, Objective, Task

# Gradients are summed over the replicas in packs of so many bytes, the last layers' first, while
# those of the layers before are computed. In one pack the 100 MB of ResNet50 take four times as
# long, from one process to another, and that begins when all is computed.
PACK_BYTES = 2**22


class Call(NamedTuple):
    """What a call of the graph found.

    Attributes:
        figures: (steps, 1 + names) float32: the loss, then what `Steps.names` says.
        waited: seconds in which the model had nothing to do but wait for its batches.
    """

    figures: np.ndarray
    waited: float


class Steps:
    """Takes training steps.

    Attributes:
        names: of the figures behind the loss; known once a step has been taken.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        optimizer: keras.optimizers.Optimizer,
        average: Average,
        clip_norm: float,
        total_steps: int,
    ):
        """Prepare to take steps.

        Args:
            strategy: under which all variables were made.
            optimizer: that moves them.
            average: that follows them.
            clip_norm: the largest norm of a whole batch's gradient; 0 for any.
            total_steps: of the run, for its progress.
        """
        self.names: list[str] = []
        self._strategy = strategy
        self._replicas = strategy.num_replicas_in_sync
        self._optimizer = optimizer
        self._average = average
        self._clip_norm = clip_norm
        self._total_steps = max(total_steps, 1)

    def make_step_function(
        self, first: int, task: Task, variables: Sequence[keras.Variable]
    ) -> Callable[[int, int], Call]:
        """Return a function that takes `(step, count)`: so many steps from the one after `step` on.

        Args:
            first: the step before the first call; each call goes on where the last one ended.
            task: with the streams, the objective, and what is done after each step.
            variables: that move.
        """
        streams = {name: stream.clamp_batch_size() for name, stream in task.streams.items()}
        iterators = {
            name: iter(
                distribution.distribute_batches(
                    self._strategy, functools.partial(stream.batches, first)
                )
            )
            for name, stream in streams.items()
        }

        def replica_step(batch: Batch, progress: tf.Tensor) -> tf.Tensor:
            shares = {name: _share_of(streams[name], labels) for name, (_, labels) in batch.items()}
            with (
                sharded_dropout.batch_shares(shares)
                if self._replicas > 1
                else contextlib.nullcontext()
            ):
                objective = functools.partial(task.objective, batch, progress)
                return self._replica_step(shares, objective, variables)

        # AutoGraph would turn a loop of Python into the one inside, by way of a file in $TMPDIR.
        @tf.function(reduce_retracing=True, autograph=False)
        def many(
            iterators: dict[str, Any], batch: Any, step: tf.Tensor, count: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, Any]:
            return self._many(iterators, batch, step, count, replica_step, task, variables)

        batch = _next(iterators)

        def call(step: int, count: int) -> Call:
            nonlocal batch
            figures, waited, batch = many(iterators, batch, tf.constant(step), tf.constant(count))
            return Call(figures.numpy(), float(waited))

        return call

    def _many(
        self,
        iterators: Mapping[str, Any],
        batch: Any,
        step: tf.Tensor,
        count: tf.Tensor,
        replica_step: Callable[[Batch, tf.Tensor], tf.Tensor],
        task: Task,
        variables: Sequence[keras.Variable],
    ) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Take `count` steps after `step`; return figures, seconds waited, and the next batch."""

        def one(
            number: tf.Tensor,
            batch: Any,
            ready: tf.Tensor,
            figures: tf.TensorArray,
            free: tf.Tensor,
            waited: tf.Tensor,
        ) -> tuple[Any, ...]:
            waited += tf.maximum(ready - free, 0.0)
            # Fetched while this step computes: fetching takes time of its own, however soon the
            # batch was made.
            following = _next(iterators)
            progress = tf.cast(step + number, tf.float32) / self._total_steps
            values = self._strategy.run(replica_step, args=(batch, progress))
            total = self._strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
            self._average.update(step + number + 1)
            if task.after_step is not None:
                task.after_step(progress)
            free = _time_of([total, *(tf.convert_to_tensor(v.value) for v in variables)])
            figures = figures.write(number, total)
            return number + 1, following, _time_of(following), figures, free, waited

        now, none = tf.timestamp(), tf.constant(0.0, tf.float64)
        figures = tf.TensorArray(tf.float32, count, element_shape=[None])
        # The shares of several replicas may differ by an example.
        scalar, shares = tf.TensorShape([]), {n: one.element_spec for n, one in iterators.items()}
        _, batch, ready, figures, free, waited = tf.while_loop(
            lambda number, *_: number < count,
            one,
            (0, batch, now, figures, now, none),
            (scalar, shares, scalar, tf.TensorShape(None), scalar, scalar),
        )
        # The next call begins with a batch that is there, whatever this one waited for it.
        return figures.stack(), waited + tf.maximum(ready - free, 0.0), batch

    def _replica_step(
        self,
        shares: Mapping[str, Share],
        objective: Callable[[], Objective],
        variables: Sequence[keras.Variable],
    ) -> tf.Tensor:
        """Move the variables; return this replica's part of the loss and of the other figures.

        Args:
            shares: where in the batch of each stream this replica's share is.
            objective: of the share.
            variables: that move.
        """
        parts = {n: tf.cast(one.size, tf.float32) / one.total for n, one in shares.items()}
        own = parts["target"]
        with tf.GradientTape() as tape:
            terms, figures = objective()
            terms = {name: term * parts.get(name, own) for name, term in terms.items()}
            loss = tf.add_n(list(terms.values()))
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        gradients = self._of_whole_batch(gradients)
        self._optimizer.apply(gradients, variables)
        # One term is the loss itself, and recorded as that.
        shown = terms if len(terms) > 1 else {}
        self.names = [*shown, *figures]
        return tf.stack([loss, *shown.values(), *(figure * own for figure in figures.values())])

    def _of_whole_batch(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the sum over all replicas, clipped where --clip_norm says so."""
        if self._replicas > 1:
            context = tf.distribute.get_replica_context()
            options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK_BYTES)
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients, options)
        if self._clip_norm:
            most = self._optimizer.scale_loss(tf.constant(self._clip_norm))
            gradients, _ = tf.clip_by_global_norm(gradients, most)
        return gradients


def _share_of(stream: Stream, labels: tf.Tensor) -> Share:
    """Return where in a batch of the stream the share is to which these labels belong."""
    context = tf.distribute.get_replica_context()
    replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
    first = replica * stream.batch_size // context.num_replicas_in_sync
    return Share(first, tf.shape(labels, tf.int64)[0], stream.batch_size)


def _next(iterators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the next batch of each stream, all replicas' shares of it."""
    return {name: next(iterator) for name, iterator in iterators.items()}


def _time_of(tensors: object) -> tf.Tensor:
    """Return the time, () float64 in seconds, at which all of these are there."""
    with tf.control_dependencies(tf.nest.flatten(tensors, expand_composites=True)):
        return tf.timestamp()
