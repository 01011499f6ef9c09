"""The graph of the training loop: many steps in each call, with `strategy.run` inside."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data.pipeline import Stream
from tl_keras.training.averaging import Average
from tl_keras.training.task import Batch, Objective


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
        *,
        scales_loss: bool,
    ):
        """Prepare to take steps.

        Args:
            strategy: under which all variables were made.
            optimizer: that moves them.
            average: that follows them.
            clip_norm: the largest norm of a whole batch's gradient; 0 for any.
            scales_loss: whether the optimizer scales the loss, and looks for what is not finite.
        """
        self.names: list[str] = []
        self._strategy = strategy
        self._replicas = strategy.num_replicas_in_sync
        self._optimizer = optimizer
        self._average = average
        self._clip_norm = clip_norm
        self._sums_first = bool(clip_norm) or scales_loss

    def starting(
        self,
        first: int,
        streams: Mapping[str, Stream],
        objective: Callable[[Batch], Objective],
        variables: Sequence[keras.Variable],
    ) -> Callable[[int, int], Call]:
        """Return a function that takes `(step, count)`: so many steps from the one after `step` on.

        Args:
            first: the step before the first call; each call goes on where the last one ended.
            streams: of the batches.
            objective: of one replica's share of a batch.
            variables: that move.
        """
        iterators = {
            name: iter(
                self._strategy.distribute_datasets_from_function(
                    lambda context, stream=stream: stream.batches(first, self._replicas)
                )
            )
            for name, stream in streams.items()
        }

        def replica_step(batch: Batch) -> tf.Tensor:
            return self._replica_step(batch, objective, variables)

        # AutoGraph would turn a loop of Python into the one inside, by way of a file in $TMPDIR.
        @tf.function(reduce_retracing=True, autograph=False)
        def many(
            iterators: dict[str, Iterator], batch: Any, step: tf.Tensor, count: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, Any]:
            return self._many(iterators, batch, step, count, replica_step, variables)

        batch = _next(iterators)

        def call(step: int, count: int) -> Call:
            nonlocal batch
            figures, waited, batch = many(iterators, batch, tf.constant(step), tf.constant(count))
            return Call(figures.numpy(), float(waited))

        return call

    def _many(
        self,
        iterators: Mapping[str, Iterator],
        batch: Any,
        step: tf.Tensor,
        count: tf.Tensor,
        replica_step: Callable[[Batch], tf.Tensor],
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
            values = self._strategy.run(replica_step, args=(batch,))
            mean = self._strategy.reduce(tf.distribute.ReduceOp.MEAN, values, axis=None)
            self._average.update(step + number + 1)
            free = _time_of([mean, *(tf.convert_to_tensor(v.value) for v in variables)])
            figures = figures.write(number, mean)
            return number + 1, following, _time_of(following), figures, free, waited

        now, none = tf.timestamp(), tf.constant(0.0, tf.float64)
        figures = tf.TensorArray(tf.float32, count, element_shape=[None])
        _, batch, ready, figures, free, waited = tf.while_loop(
            lambda number, *_: number < count, one, (0, batch, now, figures, now, none)
        )
        # The next call begins with a batch that is there, whatever this one waited for it.
        return figures.stack(), waited + tf.maximum(ready - free, 0.0), batch

    def _replica_step(
        self,
        batch: Batch,
        objective: Callable[[Batch], Objective],
        variables: Sequence[keras.Variable],
    ) -> tf.Tensor:
        with tf.GradientTape() as tape:
            terms, figures = objective(batch)
            loss = tf.add_n(list(terms.values()))
            share = self._optimizer.scale_loss(loss / self._replicas)
        gradients = tape.gradient(share, [variable.value for variable in variables])
        if self._sums_first:
            gradients = self._of_whole_batch(gradients)
        self._optimizer.apply(gradients, variables)
        # One term is the loss itself, and recorded as that.
        shown = terms if len(terms) > 1 else {}
        self.names = [*shown, *figures]
        return tf.stack([loss, *shown.values(), *figures.values()])

    def _of_whole_batch(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return a replica's share of the sum over all, clipped where --clip_norm says so.

        The norm to clip is that of the whole batch's gradient, and so is what float16 cannot hold.
        The optimizer sums over the replicas again, hence the division.
        """
        context = tf.distribute.get_replica_context()
        gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        if self._clip_norm:
            most = self._optimizer.scale_loss(tf.constant(self._clip_norm))
            gradients, _ = tf.clip_by_global_norm(gradients, most)
        return [gradient / self._replicas for gradient in gradients]


def _next(iterators: Mapping[str, Iterator]) -> dict[str, Any]:
    """Return the next batch of each stream, all replicas' shares of it."""
    return {name: next(iterator) for name, iterator in iterators.items()}


def _time_of(tensors: object) -> tf.Tensor:
    """Return the time, () float64 in seconds, at which all of these are there."""
    with tf.control_dependencies(tf.nest.flatten(tensors, expand_composites=True)):
        return tf.timestamp()
