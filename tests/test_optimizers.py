"""Tests of schedules against their formulas, and of what weight decay touches."""

import json
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_keras.config import Training
from tl_keras.training.optimizers import Schedule, make_optimizer, total_steps

TOTAL = 100
STEPS = (0, 1, 2, 9, 10, 11, 33, 34, 49, 50, 66, 67, 99, 100, 101, 250, 10**6)


def cosine(step, length, training):
    return 0.5 * (1 + np.cos(np.pi * min(step / length, 1)))


def exponential(step, length, training):
    return training.decay_rate ** (step / (training.decay_steps or length))


def step_wise(step, length, training):
    return training.decay_rate ** (step // (training.decay_steps or math.ceil(length / 3)))


def constant(step, length, training):
    return 1.0


FORMULAS = {
    "constant": constant,
    "cosine": cosine,
    "exponential": exponential,
    "step": step_wise,
    "plateau": constant,
}


@pytest.mark.parametrize("warmup", [0, 1, 10, 100, 300])
@pytest.mark.parametrize("decay_steps", [0, 7])
@pytest.mark.parametrize("name", FORMULAS)
def test_schedule_equals_its_formula(name, decay_steps, warmup) -> None:
    training = Training(
        learning_rate=0.02,
        schedule=name,
        decay_rate=0.3,
        decay_steps=decay_steps,
        warmup_steps=warmup,
    )
    schedule = Schedule(training, TOTAL)
    length = max(1, TOTAL - warmup)
    for step in STEPS:
        expected = np.float64(0.02) * FORMULAS[name](max(step - warmup, 0), length, training)
        if step < warmup:
            expected *= (step + 1) / warmup
        found = schedule(step)
        assert found.shape == ()
        assert found.dtype == "float32"
        assert float(found) == pytest.approx(expected, rel=2e-5, abs=1e-9)


def test_every_schedule_of_the_flag_has_a_formula_here() -> None:
    field = Training.__dataclass_fields__["schedule"]
    assert set(field.metadata["option"].choices) == set(FORMULAS)


def test_schedule_warms_up_from_above_zero_to_the_learning_rate() -> None:
    schedule = Schedule(Training(learning_rate=1.0, warmup_steps=4), TOTAL)
    rates = [float(schedule(step)) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("total", [0, 1, 2])
@pytest.mark.parametrize("name", FORMULAS)
def test_schedule_of_a_very_short_run_is_finite(name, total) -> None:
    schedule = Schedule(Training(schedule=name, warmup_steps=5), total)
    rates = [float(schedule(step)) for step in range(8)]
    assert np.isfinite(rates).all()
    assert rates[0] > 0


def test_plateau_factor_multiplies_the_learning_rate_of_an_optimizer_in_use() -> None:
    training = Training(optimizer="sgd", momentum=0.0, learning_rate=0.5, schedule="plateau")
    schedule = Schedule(training, TOTAL)
    variable = keras.Variable([1.0], name="kernel")
    optimizer = make_optimizer(training, schedule, [variable])
    optimizer.apply([np.ones(1, np.float32)])
    assert variable.numpy() == pytest.approx(0.5)
    schedule.factor.assign(0.1)
    optimizer.apply([np.ones(1, np.float32)])
    assert variable.numpy() == pytest.approx(0.45)


OPTIMIZERS = {
    "sgd": keras.optimizers.SGD,
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.Adam,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_is_the_one_that_the_flag_names(name) -> None:
    training = Training(optimizer=name, momentum=0.7)
    optimizer = make_optimizer(training, Schedule(training, TOTAL), [])
    assert isinstance(optimizer, OPTIMIZERS[name])
    if name == "sgd":
        assert optimizer.momentum == 0.7


def test_every_optimizer_of_the_flag_is_tested_here() -> None:
    field = Training.__dataclass_fields__["optimizer"]
    assert set(field.metadata["option"].choices) == set(OPTIMIZERS)


def step_with_zero_gradient(name: str, weight_decay: float, model: keras.Model) -> set[str]:
    """Return the names of the variables that the step changes, and check by how much."""
    training = Training(optimizer=name, learning_rate=0.5, weight_decay=weight_decay)
    variables = model.trainable_variables
    optimizer = make_optimizer(training, Schedule(training, TOTAL), variables)
    for variable in variables:
        variable.assign(np.full(variable.shape, 3.0))
    optimizer.apply([np.zeros(variable.shape, np.float32) for variable in variables])
    moved = [variable for variable in variables if (variable.numpy() != 3.0).any()]
    for variable in moved:
        np.testing.assert_allclose(variable.numpy(), 3.0 * (1 - 0.5 * weight_decay), rtol=1e-6)
    return {variable.path.split("/")[-1] for variable in moved}


def a_model_with_every_kind_of_weight() -> keras.Model:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3),
            layers.SeparableConv2D(4, 2),
            layers.LayerNormalization(),
            layers.Flatten(),
            layers.Dense(5),
        ]
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_moves_kernels_and_leaves_biases_and_norms_alone(name) -> None:
    model = a_model_with_every_kind_of_weight()
    assert step_with_zero_gradient(name, 0.1, model) == {
        "kernel",
        "depthwise_kernel",
        "pointwise_kernel",
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_weight_decay_moves_nothing(name) -> None:
    assert step_with_zero_gradient(name, 0.0, a_model_with_every_kind_of_weight()) == set()


def test_weight_decay_leaves_a_scale_without_a_name_alone() -> None:
    """ConvNeXt's LayerScale gives its variable no name."""

    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.gamma = self.add_weight(shape=(shape[-1],), initializer="ones")

        def call(self, inputs):
            return inputs * self.gamma

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Scale()])
    assert step_with_zero_gradient("adamw", 0.1, model) == {"kernel"}


@given(st.integers(0, 5000), st.floats(0, 1000), st.integers(0, 500), st.floats(0.01, 1000))
def test_total_steps_are_the_steps_or_the_epochs(steps, epochs, min_steps, per_epoch) -> None:
    training = Training(steps=steps, epochs=epochs, min_steps=min_steps)
    found = total_steps(training, per_epoch)
    if steps:
        assert found == steps
    elif epochs == 0:
        assert found == 0
    else:
        assert found == max(math.ceil(epochs * per_epoch), min_steps)
        assert isinstance(found, int)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"epochs": 5.0, "min_steps": 0}, 20),
        ({"epochs": 0.5, "min_steps": 0}, 2),
        ({"epochs": 5.0}, 300),
        ({"epochs": 5.0, "min_steps": 200}, 200),
        ({"epochs": 5.0, "min_steps": 3}, 20),
        ({"epochs": 5.0, "min_steps": 200, "steps": 7}, 7),
        ({"epochs": 0.0, "min_steps": 200}, 0),
    ],
)
def test_total_steps_for_50_images_and_batches_of_13(flags, expected) -> None:
    assert total_steps(Training(**flags), 50 / 13) == expected


# Multipliers of the updates


def trained(name, multipliers, gradients, names=("kernel", "kernel"), **flags):
    """Return where variables that start at 1 are after each step of the same gradients."""
    training = Training(optimizer=name, learning_rate=0.1, **flags)
    variables = [keras.Variable(np.ones(4, np.float32), name=one) for one in names]
    optimizer = make_optimizer(training, Schedule(training, TOTAL), variables, multipliers)
    places = []
    for gradient in gradients:
        optimizer.apply([gradient] * len(variables))
        places.append([variable.numpy() for variable in variables])
    return np.array(places, np.float64)


GRADIENTS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_multiplier_scales_every_update(name) -> None:
    places = trained(name, (1.0, 0.1), GRADIENTS)
    moved = places - 1
    np.testing.assert_allclose(moved[:, 1], 0.1 * moved[:, 0], rtol=1e-4, atol=1e-6)
    assert np.abs(moved[0, 0]).min() > 1e-4


def test_multiplier_of_the_gradient_would_leave_adam_as_fast() -> None:
    """So it is the update that is scaled."""
    full, tenth = (trained("adam", (), scale * GRADIENTS[:1]) - 1 for scale in (1.0, 0.1))
    np.testing.assert_allclose(tenth, full, rtol=1e-3)
    update_scaled = trained("adam", (0.1, 0.1), GRADIENTS[:1]) - 1
    np.testing.assert_allclose(update_scaled, 0.1 * full, rtol=1e-4)


def test_multiplier_follows_the_formula_of_sgd_with_momentum_and_decay() -> None:
    """First w <- w - m r d w, then v <- b v - m r g and w <- w + v."""
    multipliers, rate, momentum, decay = (1.0, 0.25), 0.1, 0.8, 0.3
    places = trained("sgd", multipliers, GRADIENTS, momentum=momentum, weight_decay=decay)
    for number, multiplier in enumerate(multipliers):
        weight, velocity = np.ones(4), np.zeros(4)
        for step, gradient in enumerate(GRADIENTS):
            weight = weight - multiplier * rate * decay * weight
            velocity = momentum * velocity - multiplier * rate * gradient
            weight = weight + velocity
            np.testing.assert_allclose(places[step, number], weight, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_multiplier_scales_weight_decay_of_kernels_alone(name) -> None:
    zeros = np.zeros((1, 4), np.float32)
    names = ("kernel", "kernel", "bias")
    places = trained(name, (1.0, 0.1, 1.0), zeros, names, weight_decay=0.5)[0]
    np.testing.assert_allclose(places[:, 0], [0.95, 0.995, 1.0], rtol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_multiplier_of_one_is_none_and_of_zero_leaves_a_variable(name) -> None:
    flags = {"weight_decay": 0.1}
    none, ones = (trained(name, given, GRADIENTS, **flags) for given in ((), (1.0, 1.0)))
    np.testing.assert_array_equal(none, ones)
    assert (trained(name, (1.0, 0.0), GRADIENTS, **flags)[:, 1] == 1).all()


TWO_REPLICAS = """
import json
import tensorflow as tf
from tl_keras.distributed import distribution
distribution.configure_devices(2)
import keras
from tl_keras.config import Training
from tl_keras.distributed.distribution import make_strategy
from tl_keras.training.optimizers import Schedule, make_optimizer
found = []
for name in ("sgd", "adam"):
    for devices in ("one_device", "mirrored"):
        strategy = make_strategy(devices, 2)
        training = Training(optimizer=name, learning_rate=0.1, weight_decay=0.5)
        with strategy.scope():
            variables = [keras.Variable([1.0, 1.0], name="kernel") for _ in range(2)]
            schedule = Schedule(training, 10)
            optimizer = make_optimizer(training, schedule, variables, (1.0, 0.1))

        def in_replica():
            # What comes to the optimizer is summed over the replicas already.
            gradients = [tf.constant([0.3, -2.0]) for _ in variables]
            optimizer.apply(gradients, variables)
            return gradients[0]

        step = tf.function(lambda: strategy.run(in_replica))
        for _ in range(3):
            step()
        found.append([
            [one.numpy().tolist() for one in strategy.experimental_local_results(v.value)]
            for v in variables
        ])
print(json.dumps(found))
"""


@pytest.mark.slow
def test_multipliers_do_the_same_on_two_replicas() -> None:
    command = [sys.executable, "-c", TWO_REPLICAS]
    program = subprocess.run(command, capture_output=True, text=True, check=False)
    assert program.returncode == 0, program.stderr[-2000:]
    found = json.loads(program.stdout.splitlines()[-1])
    for one_device, mirrored in zip(found[::2], found[1::2], strict=True):
        for (single,), (first, second) in zip(one_device, mirrored, strict=True):
            assert first == second
            np.testing.assert_allclose(first, single, rtol=1e-5)
        fast, slow = (np.array(copies[0]) - 1 for copies in one_device)
        assert (np.abs(slow) < 0.2 * np.abs(fast)).all()


# A stage that begins with a fresh optimizer


@pytest.mark.parametrize("name", FORMULAS)
def test_schedule_goes_on_where_a_fresh_optimizer_counts_from_zero(name) -> None:
    training = Training(learning_rate=0.02, schedule=name, warmup_steps=5)
    whole, continued = Schedule(training, TOTAL), Schedule(training, TOTAL)
    continued.restart(40)
    for step in (0, 1, 30, 59):
        assert float(continued(step)) == float(whole(40 + step))
    # What is recorded counts the steps of the whole run.
    assert float(continued.at(40)) == float(whole.at(40)) == float(whole(40))


def test_restarted_schedule_moves_an_optimizer_at_the_rate_of_its_step() -> None:
    training = Training(optimizer="sgd", momentum=0.0, learning_rate=1.0, schedule="cosine")
    schedule = Schedule(training, TOTAL)
    variable = keras.Variable([0.0], name="bias")
    optimizer = make_optimizer(training, schedule, [variable])
    schedule.restart(TOTAL // 2)
    optimizer.apply([-np.ones(1, np.float32)])
    assert variable.numpy() == pytest.approx(0.5, rel=1e-5)
    assert [one.dtype for one in schedule.variables] == ["float32", "int64"]
