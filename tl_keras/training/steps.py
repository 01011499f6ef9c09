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

# Gradients are all-reduced in packs of this many bytes, last layers first, while the gradients of
# earlier layers are computed. With a single pack, the 100 MB of ResNet50 take four times as long
# between processes, and only start after the whole backward pass.
PACK_BYTES = 2**22


class Call(NamedTuple):
    """The result of a call of the graph.

    Attributes:
        figures: (steps, 1 + names) float32: the loss, then the figures of `Steps.names`.
        waited: seconds in which the model waited for input.
    """

    figures: np.ndarray
    waited: float


class Steps:
    """Runs training steps.

    Attributes:
        names: names of the figures after the loss; set by the first step.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        optimizer: keras.optimizers.Optimizer,
        average: Average,
        clip_norm: float,
        total_steps: int,
    ):
        """Prepare to run steps.

        Args:
            strategy: the strategy under which all variables were made.
            optimizer: updates the variables.
            average: averages the variables.
            clip_norm: largest global norm of the gradients; 0: no clipping.
            total_steps: steps of the run, for the progress.
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
        """Return a function of `(step, count)` that runs `count` steps after `step` steps.

        Args:
            first: the number of steps before the first call. Calls must be consecutive.
            task: the task.
            variables: the variables to update.
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
            shares = {
                name: _find_share(streams[name], labels) for name, (_, labels) in batch.items()
            }
            with (
                sharded_dropout.batch_shares(shares)
                if self._replicas > 1
                else contextlib.nullcontext()
            ):
                objective = functools.partial(task.objective, batch, progress)
                return self._replica_step(shares, objective, variables)

        # AutoGraph is not needed, and it would write files to $TMPDIR.
        @tf.function(reduce_retracing=True, autograph=False)
        def run_steps(
            iterators: dict[str, Any], batch: Any, step: tf.Tensor, count: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, Any]:
            return self._run_steps(iterators, batch, step, count, replica_step, task, variables)

        batch = _next_batches(iterators)

        def call(step: int, count: int) -> Call:
            nonlocal batch
            figures, waited, batch = run_steps(
                iterators, batch, tf.constant(step), tf.constant(count)
            )
            return Call(figures.numpy(), float(waited))

        return call

    def _run_steps(
        self,
        iterators: Mapping[str, Any],
        batch: Any,
        step: tf.Tensor,
        count: tf.Tensor,
        replica_step: Callable[[Batch, tf.Tensor], tf.Tensor],
        task: Task,
        variables: Sequence[keras.Variable],
    ) -> tuple[tf.Tensor, tf.Tensor, Any]:
        """Run `count` steps after `step`; return figures, seconds waited, and the next batch."""

        def one(
            number: tf.Tensor,
            batch: Any,
            ready: tf.Tensor,
            figures: tf.TensorArray,
            free: tf.Tensor,
            waited: tf.Tensor,
        ) -> tuple[Any, ...]:
            waited += tf.maximum(ready - free, 0.0)
            # Fetch the next batch while this step computes, because fetching itself takes time.
            following = _next_batches(iterators)
            progress = tf.cast(step + number, tf.float32) / self._total_steps
            values = self._strategy.run(replica_step, args=(batch, progress))
            total = self._strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)
            self._average.update(step + number + 1)
            if task.after_step is not None:
                task.after_step(progress)
            free = _time_when_ready([total, *(tf.convert_to_tensor(v.value) for v in variables)])
            figures = figures.write(number, total)
            return number + 1, following, _time_when_ready(following), figures, free, waited

        now, none = tf.timestamp(), tf.constant(0.0, tf.float64)
        figures = tf.TensorArray(tf.float32, count, element_shape=[None])
        # The shares of replicas may differ by one example.
        scalar, shares = tf.TensorShape([]), {n: one.element_spec for n, one in iterators.items()}
        _, batch, ready, figures, free, waited = tf.while_loop(
            lambda number, *_: number < count,
            one,
            (0, batch, now, figures, now, none),
            (scalar, shares, scalar, tf.TensorShape(None), scalar, scalar),
        )
        # The wait for the batch of the next call counts in this call.
        return figures.stack(), waited + tf.maximum(ready - free, 0.0), batch

    def _replica_step(
        self,
        shares: Mapping[str, Share],
        objective: Callable[[], Objective],
        variables: Sequence[keras.Variable],
    ) -> tf.Tensor:
        """Update the variables; return this replica's part of the loss and the other figures.

        Args:
            shares: this replica's share of the batch of each stream.
            objective: returns the objective on the share.
            variables: the variables to update.
        """
        parts = {n: tf.cast(one.size, tf.float32) / one.total for n, one in shares.items()}
        target_part = parts["target"]
        with tf.GradientTape() as tape:
            terms, figures = objective()
            terms = {name: term * parts.get(name, target_part) for name, term in terms.items()}
            loss = tf.add_n(list(terms.values()))
            scaled = self._optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in variables])
        gradients = self._reduce_gradients(gradients)
        self._optimizer.apply(gradients, variables)
        # A single term equals the loss, so it is not recorded again.
        shown = terms if len(terms) > 1 else {}
        self.names = [*shown, *figures]
        return tf.stack(
            [loss, *shown.values(), *(figure * target_part for figure in figures.values())]
        )

    def _reduce_gradients(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the sum over all replicas, clipped by --clip_norm."""
        if self._replicas > 1:
            context = tf.distribute.get_replica_context()
            options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=PACK_BYTES)
            gradients = context.all_reduce(tf.distribute.ReduceOp.SUM, gradients, options)
        if self._clip_norm:
            max_norm = self._optimizer.scale_loss(tf.constant(self._clip_norm))
            gradients, _ = tf.clip_by_global_norm(gradients, max_norm)
        return gradients


def _find_share(stream: Stream, labels: tf.Tensor) -> Share:
    """Return the position in the stream's batch of the share with these labels."""
    context = tf.distribute.get_replica_context()
    replica = tf.cast(context.replica_id_in_sync_group, tf.int64)
    first = replica * stream.batch_size // context.num_replicas_in_sync
    return Share(first, tf.shape(labels, tf.int64)[0], stream.batch_size)


def _next_batches(iterators: Mapping[str, Any]) -> dict[str, Any]:
    """Return the next batch of each stream, with the shares of all replicas."""
    return {name: next(iterator) for name, iterator in iterators.items()}


def _time_when_ready(tensors: object) -> tf.Tensor:
    """Return the time, () float64 in seconds, at which all `tensors` are computed."""
    with tf.control_dependencies(tf.nest.flatten(tensors, expand_composites=True)):
        return tf.timestamp()
