"""Tests of the graph of the loop: how long a model waits for its batches."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf
from made import task

from tl_keras.config import Training
from tl_keras.data.pipeline import Stream
from tl_keras.training.averaging import Average
from tl_keras.training.optimizers import Schedule, make_optimizer
from tl_keras.training.steps import Steps
from tl_keras.training.task import Batch, Objective

PAUSE = 0.05


@dataclass(frozen=True)
class Slow(Stream):
    """A stream whose batches take their time."""

    def batches(self, first_step: int = 0, replicas: int = 1) -> tf.data.Dataset:
        """Return the batches, each after a pause that no other batch is made in."""

        def paused(inputs, labels):
            tf.py_function(lambda: time.sleep(PAUSE), [], [])
            return inputs, labels

        return super().batches(first_step, replicas).map(paused)


def slow_to_learn(objective: Callable[[Batch], Objective]) -> Callable[[Batch], Objective]:
    """The objective, whose gradient takes its time."""

    @tf.custom_gradient
    def paused(loss):
        def gradient(upstream):
            sleep = tf.py_function(lambda: time.sleep(PAUSE), [], [])
            with tf.control_dependencies([sleep]):
                return tf.identity(upstream)

        return tf.identity(loss), gradient

    def wrapped(batch: Batch) -> Objective:
        found = objective(batch)
        return found._replace(terms={name: paused(loss) for name, loss in found.terms.items()})

    return wrapped


def test_time_in_which_the_model_waits_for_input_is_counted_and_no_other():
    training, given = Training(steps=10), task()
    optimizer = make_optimizer(training, Schedule(training, 10), given.variables)
    average = Average(training, 10, given.variables)
    steps = Steps(tf.distribute.get_strategy(), optimizer, average, 0.0)
    stream = given.streams["target"]
    slow = Slow(stream.inputs, stream.labels, stream.batch_size, stream.seed)

    def waiting(stream, objective, steps_a_call=6) -> tuple[float, float]:
        call = steps.starting(0, {"target": stream}, objective, given.variables)
        call(0, 1)  # traced, which is no waiting for input
        waited, started = 0.0, time.perf_counter()
        for first in range(1, 7, steps_a_call):
            found = call(first, steps_a_call)
            assert found.figures.shape == (steps_a_call, 1 + len(steps.names))
            waited += found.waited
        return waited, time.perf_counter() - started

    waited, spent = waiting(slow, given.objective)
    # Some of the six batches may be there before the call.
    assert 3 * PAUSE < waited <= spent
    waited, _ = waiting(slow, given.objective, steps_a_call=1)
    assert waited > 3 * PAUSE
    waited, spent = waiting(stream, slow_to_learn(given.objective))
    assert spent > 6 * PAUSE
    assert 0 <= waited < spent / 2
