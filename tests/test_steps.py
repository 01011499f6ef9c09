"""Tests of the graph of the loop: what a step is given, and how long it waits for its batches."""

import dataclasses
import time
from dataclasses import dataclass

import tensorflow as tf
from made import task

from tl_keras.config import Training
from tl_keras.data.pipeline import Stream
from tl_keras.training.averaging import Average
from tl_keras.training.optimizers import Schedule, make_optimizer
from tl_keras.training.steps import Steps
from tl_keras.training.task import Batch, Objective, ObjectiveFunction

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


def slow_to_learn(objective: ObjectiveFunction) -> ObjectiveFunction:
    """The objective, whose gradient takes its time."""

    @tf.custom_gradient
    def paused(loss):
        def gradient(upstream):
            sleep = tf.py_function(lambda: time.sleep(PAUSE), [], [])
            with tf.control_dependencies([sleep]):
                return tf.identity(upstream)

        return tf.identity(loss), gradient

    def wrapped(batch: Batch, progress: tf.Tensor) -> Objective:
        found = objective(batch, progress)
        return found._replace(terms={name: paused(loss) for name, loss in found.terms.items()})

    return wrapped


def test_time_in_which_the_model_waits_for_input_is_counted_and_no_other():
    training, given = Training(steps=10), task()
    optimizer = make_optimizer(training, Schedule(training, 10), given.variables)
    average = Average(training, 10, given.variables)
    steps = Steps(tf.distribute.get_strategy(), optimizer, average, 0.0, 10)
    stream = given.streams["target"]
    slow = Slow(stream.inputs, stream.labels, stream.batch_size, stream.seed)

    def waiting(stream, objective, steps_a_call=6) -> tuple[float, float]:
        own = dataclasses.replace(given, streams={"target": stream}, objective=objective)
        call = steps.make_step_function(0, own, given.variables)
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


def test_objective_and_after_step_are_given_the_progress_of_the_run(tmp_path):
    """Across calls, and after a run was interrupted, the progress is that of the step."""
    given, training = task(), Training(steps=8)
    seen = tf.Variable(tf.zeros(8), trainable=False)

    def objective(batch: Batch, progress: tf.Tensor) -> Objective:
        found = given.objective(batch, progress)
        return found._replace(figures={"progress": progress})

    def after_step(progress: tf.Tensor) -> None:
        index = tf.cast(tf.round(progress * 8), tf.int32)
        seen.scatter_nd_update([[index]], [progress + 1.0])

    own = dataclasses.replace(given, objective=objective, after_step=after_step)
    for first, counts in ((0, (1, 4)), (5, (3,))):
        optimizer = make_optimizer(training, Schedule(training, 8), given.variables)
        average = Average(training, 8, given.variables)
        steps = Steps(tf.distribute.get_strategy(), optimizer, average, 0.0, 8)
        call, step = steps.make_step_function(first, own, given.variables), first
        for count in counts:
            figures = call(step, count).figures[:, 1]
            assert figures.tolist() == [(step + number) / 8 for number in range(count)]
            step += count
    assert seen.numpy().tolist() == [1 + number / 8 for number in range(8)]
