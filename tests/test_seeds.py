"""Tests that draws of different roles and purposes share nothing."""

import itertools

import made
import numpy as np
import pytest
import tensorflow as tf

import tl_keras
from tl_keras.config import from_flat
from tl_keras.data import splits
from tl_keras.data.draws import draw_bits
from tl_keras.data.pipeline import IMAGE_ORDER, PARTNER_ORDER, Stream
from tl_keras.models import building, weights
from tl_keras.runtime import seeds

ROLES = (seeds.SOURCE, seeds.TARGET)


def test_derived_seed_is_the_same_always_and_has_63_bits():
    assert seeds.derive(0, "target", "model") == 4046151224021847680
    found = [seeds.derive(seed, "weights", "conv", 3) for seed in range(1000)]
    assert len(set(found)) == 1000
    assert all(0 <= one < 2**63 for one in found)
    # Each bit is set as often as not: 1,000 throws of a coin, 5 deviations either way.
    for bit in range(63):
        assert abs(sum(one >> bit & 1 for one in found) - 500) < 80


def test_derived_seeds_differ_with_seed_role_and_each_word_of_the_purpose():
    purposes = [("a",), ("b",), ("a", "b"), ("ab",), ("a", 1), ("a", "1"), ("a", 1, 1), ("a/b",)]
    found = [
        seeds.derive(seed, role, *purpose)
        for seed, role, purpose in itertools.product(range(20), ROLES, purposes)
    ]
    assert len(set(found)) == len(found) == 20 * 2 * len(purposes)


def model_of(role: str, seed: int = 0):
    return building.build(
        "conv4", 10, image_size=8, input_channels=1, body_channels=1, dense_units=16,
        seed=seeds.derive(seed, role, "model"),
    )  # fmt: skip


def test_source_and_target_of_one_seed_have_other_weights_and_other_dropout():
    first, second = (model_of(role) for role in ROLES)
    for name, value in weights.get_tensors(first).items():
        if "kernel" in name:
            other = weights.get_tensors(second)[name]
            assert abs(np.corrcoef(value.ravel(), other.ravel())[0, 1]) < 5 / value.size**0.5
    states = [
        tuple(layer.seed_generator.state.numpy())
        for model in (first, second)
        for layer in model.layers
        if hasattr(layer, "seed_generator")
    ]
    assert len(set(states)) == len(states) == 6


def test_no_two_purposes_of_a_run_share_a_key(tmp_path):
    """The order's key was that of the first picture's augmentation, and a class's that of delta."""
    keys = []
    for role in ROLES:
        for seed in range(5):
            given = made.setting(tmp_path)
            given = given.__class__(**{**vars(given), "role": role, "seed": seed})
            keys += [given.seed_for(one) for one in ("model", "delta", "mlp", "decoder")]
            keys += [seeds.derive(seed, role, "split")]
            for name in ("target", "source", "test"):
                of = given.stream(given.images, name=name)
                keys += [
                    seeds.derive(of.seed, one) for one in (IMAGE_ORDER, PARTNER_ORDER, "statistics")
                ]
                for view in (0, 1):
                    viewed = Stream(of.inputs, of.labels, 4, of.seed, view=view)
                    zero = tf.zeros(1, tf.int64)
                    keys.append(int(viewed.keys(zero, zero)[0, 0]))
    assert len(set(keys)) == len(keys) == 2 * 5 * (5 + 3 * (3 + 2))


def test_draws_of_different_keys_are_independent():
    """Of 64 streams' keys, no two give numbers that go together, in any column."""
    keys = [seeds.derive(seed, role, "stream") for seed in range(32) for role in ROLES]
    rows = []
    for key in keys:
        epochs = tf.range(400, dtype=tf.int64)
        own = tf.stack([tf.fill([400], tf.constant(key, tf.int64)), epochs, epochs % 7], axis=1)
        rows.append(draw_bits(own, 3).numpy().ravel() / 2**31)
    correlations = np.corrcoef(rows)[np.triu_indices(64, 1)]
    assert np.abs(correlations).max() < 5 / 1200**0.5
    assert np.std(correlations) * 1200**0.5 == pytest.approx(1, abs=0.1)


def test_shots_of_the_classes_and_of_the_roles_are_drawn_apart():
    labels = np.repeat(np.arange(10), 100)
    names = tuple("0123456789")

    def places(role, seed):
        derived = seeds.derive(seed, role, "split")
        chosen = splits.split(
            labels, names, seed=derived, shots=10, validation=0.1, needs_validation=False
        )
        return [set(chosen.train[labels[chosen.train] == label] % 100) for label in range(10)]

    # Two sets of 10 places of 100 share one in the mean; the same draw would share all ten.
    pairs = list(itertools.combinations(places("target", 0) + places("source", 0), 2))
    shared = [len(first & second) for first, second in pairs]
    assert np.mean(shared) == pytest.approx(1, abs=0.3) and max(shared) < 7


@pytest.mark.slow
def test_untrained_fresh_head_is_at_chance_whatever_the_seeds(tmp_path):
    """On features of the very classes: a random map of ten groups to ten names, one right in ten.

    A target's head used to start from the numbers of the source's head of the same seed, with which
    the source's features had grown up: 97 % right, without any training.
    """
    accuracies = []
    for source_seed in range(3):
        flags = {
            **{"source": "digits", "target": "digits", "dense_units": 32, "source_steps": 100},
            **{"source_seed": source_seed, "head": "new", "epochs": 0, "baseline": False},
            **{"seeds": tuple(range(10)), "shots": 1, "workdir": str(tmp_path / str(source_seed))},
        }
        report = tl_keras.run(from_flat(flags)).record
        assert report["source"]["test"]["accuracy"] > 0.9
        accuracies += [one["test"]["accuracy"] for one in report["runs"]]
    # Of one run the deviation is about 0.09, a tenth of which is its mean's over 30.
    assert np.mean(accuracies) == pytest.approx(0.1, abs=0.06)
    assert max(accuracies) < 0.5
