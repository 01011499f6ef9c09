"""Tests of the rule by which a run has converged."""

import functools

import numpy as np
import pytest

from tl_keras.training import convergence
from tl_keras.training.convergence import MIN_STEPS, chance_loss

# Of ten classes that are equally frequent.
has_converged = functools.partial(convergence.has_converged, chance=np.log(10))


def records(losses, every=1, rates=None):
    rates = np.full(len(losses), 0.001) if rates is None else rates
    return [
        ((i + 1) * every, {"train/loss": float(loss), "train/learning_rate": float(rate)})
        for i, (loss, rate) in enumerate(zip(losses, rates, strict=True))
    ]


def falling(steps, rate, noise=0.02, seed=0):
    """Losses from 2.3 towards 0.1, with the luck of batches."""
    times = np.arange(steps) / steps
    luck = np.random.default_rng(seed).normal(0, noise, steps)
    return 0.1 + 2.2 * np.exp(-rate * times) + luck


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0.3, False), (1, False), (3, False), (5, False), (12, True), (30, True)],
)
def test_loss_that_came_to_rest_has_converged_and_one_that_falls_has_not(rate, expected, seed):
    assert has_converged(records(falling(200, rate, seed=seed))) is expected


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_loss_that_never_began_to_fall_has_not_converged(noise):
    """The learning rate is far too small: what rests there is no model."""
    losses = 2.3 + np.random.default_rng(0).normal(0, noise, 200)
    assert not has_converged(records(losses))


def test_hard_task_at_rest_far_above_zero_has_converged():
    assert has_converged(records(1.5 + falling(200, 30, noise=0.05) * 0.2))


def test_chance_is_the_entropy_of_the_labels():
    assert chance_loss(np.arange(20) % 10) == pytest.approx(np.log(10))
    assert chance_loss(np.array([0, 0, 0, 1])) == pytest.approx(0.5623, abs=1e-4)
    assert chance_loss(np.zeros(5, int)) == 0


@pytest.mark.parametrize("every", [1, 5, 13])
def test_rule_is_the_same_however_often_it_was_measured(every):
    assert not has_converged(records(falling(80, 2), every))
    assert has_converged(records(falling(80, 14), every))


def test_slow_start_is_no_rest():
    """SGD with a small learning rate: 2.30 to 2.25, and nothing has begun yet."""
    losses = np.linspace(2.30, 2.25, 200) + np.random.default_rng(0).normal(0, 0.005, 200)
    assert not has_converged(records(losses))


def test_loss_that_rises_at_the_end_has_not_converged():
    losses = np.concatenate([falling(150, 20), np.linspace(0.2, 1.5, 50)])
    assert not has_converged(records(losses))


def test_last_bit_of_a_small_loss_is_no_matter():
    """Where a good source begins, the loss is small and its luck is as large as its fall."""
    losses = 0.05 + 0.05 * np.exp(-np.arange(200) / 40)
    losses += np.random.default_rng(1).normal(0, 0.02, 200)
    assert has_converged(records(losses))


@pytest.mark.parametrize(("speed", "expected"), [(0.5, False), (1.5, False), (12, True)])
def test_loss_that_rests_because_the_learning_rate_is_zero_has_not_converged(speed, expected):
    """Steps grow small at the end of any run with a cosine, also of one that is far too short."""
    rates = 0.5 * (1 + np.cos(np.pi * np.arange(100) / 100))
    losses = 0.1 + 2.2 * np.exp(-speed * np.cumsum(rates) / 50)
    assert has_converged(records(losses, rates=rates)) is expected


def test_too_short_a_run_has_not_converged():
    assert not has_converged([])
    assert not has_converged(records(np.zeros(MIN_STEPS - 1)))
    assert has_converged(records(np.zeros(MIN_STEPS)))
    # Measured twice in all: no quarter has two measurements.
    assert not has_converged(records(np.zeros(2), every=100))


def test_only_what_followed_the_last_thaw_counts():
    """Stages before it had come to rest, each with less that trained."""
    losses = np.concatenate([falling(100, 20), falling(100, 1.5)])
    assert not has_converged(records(losses), start=100)
    losses = np.concatenate([falling(100, 1.5), falling(100, 20)])
    assert has_converged(records(losses), start=100)


def test_validation_alone_is_no_measurement_of_the_training_loss():
    assert not has_converged([(100, {"validation/loss": 0.1})])
