"""Tests of the graph of the loop: how long a model waits for its batches."""

import time
from dataclasses import dataclass

import tensorflow as tf
from made import task

from tl_keras.config import Training
from tl_keras.data.pipeline import Stream
from tl_keras.training.averaging import Average
from tl_keras.training.optimizers import Schedule, make_optimizer
from tl_keras.training.steps import Steps

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


def test_time_in_which_the_model_waits_for_input_is_counted():
    training, given = Training(steps=10), task()
    optimizer = make_optimizer(training, Schedule(training, 10), given.variables)
    average = Average(training, 10, given.variables)
    steps = Steps(tf.distribute.get_strategy(), optimizer, average, 0.0, scales_loss=False)
    stream = given.streams["target"]
    slow = Slow(stream.inputs, stream.labels, stream.batch_size, stream.seed)
    for streams in ({"target": stream}, {"target": slow}):
        call = steps.starting(0, streams, given.objective, given.variables)
        call(0, 1)  # traced, which is no waiting for input
        started = time.perf_counter()
        figures, waited = call(1, 6)
        spent = time.perf_counter() - started
        assert figures.shape == (6, 1 + len(steps.names))
        assert 0 <= waited <= spent
        if isinstance(streams["target"], Slow):
            # Some of the six batches may be there before the call.
            assert waited > 3 * PAUSE
