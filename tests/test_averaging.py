"""Averages of the weights: their recursions, what they leave alone, and runs that use them."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import made
import numpy as np
import pytest
import tensorflow as tf
from made import Records, small_model, sweep
from scipy.special import logsumexp

from tl_keras.config import Training
from tl_keras.config.pace import Pace
from tl_keras.config.trainable import Trainable
from tl_keras.models import building, weights
from tl_keras.training.averaging import Average
from tl_keras.training.loop import Loop

STEPS = 24


class Watched(Records):
    """Records that keep the model's weights of every time that something is recorded."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.weights = []

    def write(self, step, values):
        super().write(step, values)
        self.weights.append(self.model.get_weights())


def train(folder, task=None, fail_at=None, **flags):
    task = task or made.task()
    records = Watched(task.model)
    records.fail_at = fail_at
    training = Training(steps=STEPS, learning_rate=0.01, **flags)
    pace = Pace(steps=3)
    Loop(task, training, tf.distribute.get_strategy(), folder, records, "test", pace).run()
    return task, records


def moving_average(values, decay):
    """Return a_t = d_t a + (1 - d_t) w_t with d_t = min(decay, 1 - 1 / t), in float64."""
    average = np.zeros_like(values[0], np.float64)
    for number, value in enumerate(values, start=1):
        weight = min(decay, 1 - 1 / number)
        average = weight * average + (1 - weight) * value
    return average


def walk(steps, shape=(3, 2)):
    return np.random.default_rng(0).normal(size=(steps, *shape)).cumsum(0).astype(np.float32)


def averaged(values, total, **flags):
    variable = keras.Variable(np.zeros_like(values[0]))
    average = Average(Training(**flags), total, [variable])
    found = []
    for step, value in enumerate(values, start=1):
        variable.assign(value)
        average.update(tf.constant(step))
        found.append(average.variables[0].numpy())
    return found


# The average


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.999])
def test_moving_average_follows_its_recursion(decay):
    values = walk(60)
    found = averaged(values, 60, ema=decay)
    for step in (1, 2, 5, 11, 60):
        np.testing.assert_allclose(found[step - 1], moving_average(values[:step], decay), 1e-4)


def test_moving_average_of_the_first_steps_is_their_mean():
    values = walk(60)
    found = averaged(values, 60, ema=0.99)
    for step in (1, 2, 30, 60):
        np.testing.assert_allclose(found[step - 1], values[:step].mean(axis=0), 1e-4, 1e-5)


@pytest.mark.parametrize(("part", "count"), [(0.25, 10), (0.5, 20), (1.0, 40), (0.01, 1)])
def test_equal_average_is_the_mean_of_the_last_part(part, count):
    values = walk(40)
    found = averaged(values, 40, swa=part)[-1]
    np.testing.assert_allclose(found, values[-count:].mean(axis=0), 1e-4, 1e-5)


@pytest.mark.parametrize("flags", [{"ema": 0.9}, {"swa": 0.5}])
def test_average_of_what_does_not_move_is_that_to_the_bit(flags):
    value = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(averaged([value] * 30, 30, **flags)[-1], value)


def test_average_passes_over_what_is_no_real_number():
    counter, weight = keras.Variable(3, dtype="int32"), keras.Variable(1.0)
    average = Average(Training(ema=0.9), 10, [counter, weight])
    assert [variable.dtype for variable in average.variables] == ["float32"]


def test_average_is_in_place_for_a_while_and_then_to_keep():
    variable = keras.Variable(walk(1)[0])
    average = Average(Training(ema=0.9), 10, [variable])
    before = variable.numpy()
    average.variables[0].assign(before + 1)
    with average.use_averages():
        np.testing.assert_array_equal(variable.numpy(), before + 1)
    np.testing.assert_array_equal(variable.numpy(), before)
    with pytest.raises(KeyError), average.use_averages():
        raise KeyError
    np.testing.assert_array_equal(variable.numpy(), before)
    average.assign_averages()
    np.testing.assert_array_equal(variable.numpy(), before + 1)


def test_average_that_nothing_asks_for_adds_nothing_to_the_graph():
    variable = keras.Variable(1.0)
    operations = {}
    for ema in (0.0, 0.9):
        average = Average(Training(ema=ema), 10, [variable])
        assert len(average.variables) == (ema > 0)
        graph = tf.function(average.update).get_concrete_function(tf.TensorSpec((), tf.int32)).graph
        operations[ema] = [operation.type for operation in graph.get_operations()]
    assert operations[0.0] == ["Placeholder"] and len(operations[0.9]) > 1


# Runs with it


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The records of a run without an average, with the weights after each of its steps."""
    return train(tmp_path_factory.mktemp("plain") / "run", eval_steps=1)[1]


AVERAGES = {
    "ema": ({"ema": 0.8}, lambda values: moving_average(values, 0.8)),
    "swa": ({"swa": 0.5}, lambda values: np.mean(values[STEPS // 2 :], axis=0, dtype=np.float64)),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_run_ends_with_the_average_of_its_weights(tmp_path, plain, name):
    flags, expected = AVERAGES[name]
    task, records = train(tmp_path, eval_steps=1, **flags)
    assert [step for step, _ in plain] == list(range(1, STEPS + 1))
    steps = zip(*plain.weights, strict=True)
    for found, values in zip(task.model.get_weights(), steps, strict=True):
        np.testing.assert_allclose(found, expected(np.stack(values)), rtol=1e-4, atol=1e-6)
    # What trains are the weights themselves.
    for one, other in zip(records.weights, plain.weights, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    names = ("train/loss", "train/accuracy")
    assert [[values[n] for n in names] for _, values in records] == [
        [values[n] for n in names] for _, values in plain
    ]


@pytest.mark.parametrize("name", AVERAGES)
def test_validation_looks_at_the_average(tmp_path, plain, name):
    task, records = train(tmp_path, eval_steps=1, **AVERAGES[name][0])
    images = task.validation
    logits = np.asarray(task.model(images.images, training=False)["logits"], np.float64)
    loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(15), images.labels])
    assert records[-1][1]["validation/loss"] == pytest.approx(loss, rel=1e-5)
    assert records[-1][1]["validation/loss"] != plain[-1][1]["validation/loss"]


@pytest.mark.parametrize("name", AVERAGES)
def test_average_leaves_frozen_weights_to_the_bit(tmp_path, name):
    model = small_model()
    building.set_trainable(model, Trainable.parse("head"))
    before = weights.get_tensors(model)
    train(tmp_path, made.task(model), **AVERAGES[name][0])
    after = weights.get_tensors(model)
    same = {key for key in before if np.array_equal(before[key], after[key])}
    assert same == {"conv/kernel", "conv/bias", "dense/kernel", "dense/bias"}


@pytest.mark.parametrize("early_stopping", [0, 3])
@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("killed_at", sweep([6, 16], fast=[16]))
def test_run_with_an_average_continues_to_the_bit(tmp_path, name, killed_at, early_stopping):
    flags = {"eval_steps": 4, "early_stopping": early_stopping, **AVERAGES[name][0]}
    whole, expected = train(tmp_path / "whole", **flags)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", fail_at=killed_at, **flags)
    continued, records = train(tmp_path / "killed", **flags)
    assert records == expected
    digests = [weights.hash_tensors(weights.get_tensors(task.model)) for task in (whole, continued)]
    assert digests[0] == digests[1]


def test_early_stopping_keeps_the_best_average(tmp_path):
    """The best weights are those that validated, which are averages."""
    flags = {"optimizer": "sgd", "eval_steps": 2, "early_stopping": 2, "ema": 0.8}
    task = made.task()
    records = Watched(task.model)
    training = Training(steps=60, learning_rate=1.0, **flags)
    Loop(task, training, tf.distribute.get_strategy(), tmp_path, records, "test").run()
    losses = [values["validation/loss"] for _, values in records if "validation/loss" in values]
    images = task.validation
    logits = np.asarray(task.model(images.images, training=False)["logits"], np.float64)
    loss = np.mean(logsumexp(logits, axis=1) - logits[np.arange(15), images.labels])
    assert loss == pytest.approx(min(losses), rel=1e-5)


TWO_REPLICAS = """
import json, sys, tempfile
from pathlib import Path
import numpy as np
import tensorflow as tf
from tl_keras.distributed import distribution
distribution.configure_devices(2)
sys.path.insert(0, sys.argv[1])
import made, test_averaging
from tl_keras.config import Training
from tl_keras.distributed.distribution import make_strategy
from tl_keras.training.loop import Loop
found = []
for flags in ({"ema": 0.8}, {"swa": 0.5}):
    for name in ("one_device", "mirrored"):
        strategy = make_strategy(name, 2)
        with strategy.scope():
            task = made.task()
        records = test_averaging.Records()
        training = Training(steps=12, learning_rate=0.01, eval_steps=4, **flags)
        Loop(task, training, strategy, Path(tempfile.mkdtemp()), records, "test").run()
        copies = [
            [np.asarray(one).tolist() for one in strategy.experimental_local_results(v.value)]
            for v in task.model.variables
        ]
        found.append([strategy.num_replicas_in_sync, copies, records])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_average_is_the_same_on_two_replicas():
    command = [sys.executable, "-c", TWO_REPLICAS, str(Path(__file__).parent)]
    program = subprocess.run(command, capture_output=True, text=True, check=False)
    assert program.returncode == 0, program.stderr[-2000:]
    found = json.loads(program.stdout.splitlines()[-1])
    for (one, copies, records), (two, mirrored, others) in zip(
        found[::2], found[1::2], strict=True
    ):
        assert (one, two) == (1, 2)
        for (single,), (first, second) in zip(copies, mirrored, strict=True):
            assert first == second
            np.testing.assert_allclose(first, single, rtol=1e-3, atol=1e-5)
        for (step, values), (same_step, same) in zip(records, others, strict=True):
            assert step == same_step and same == pytest.approx(values, rel=1e-3, abs=1e-5)
