"""SimCLR against its formula, on one replica and on two."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from made import assert_continues_to_the_bit, setting, small_model, train

from tl_keras.config import Training
from tl_keras.config.augmentation import parse
from tl_keras.data import catalog
from tl_keras.methods import simclr
from tl_keras.models import weights


def unlabelled(tmp_path, **flags):
    """Return the setting of a pretraining whose views differ."""
    given = setting(tmp_path, **{"pretrain": "simclr", **flags})
    return dataclasses.replace(
        given, augmentation=parse("shift:0.15,zoom:0.2"), source_weights=None
    )


def pairs(count: int, width: int = 6, noise: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Return two (count, width) float32 views, of which those of one row resemble each other."""
    generator = np.random.default_rng(count)
    first = generator.normal(size=(count, width))
    second = first + noise * generator.normal(size=(count, width))
    return first.astype(np.float32), second.astype(np.float32)


def reference(
    first: np.ndarray, second: np.ndarray, temperature: float, indices: np.ndarray | None = None
) -> tuple[float, float]:
    """Return equation 1 of the paper and the contrastive accuracy, term by term in float64.

    Views of one image are no negatives of each other: `indices` tells the images apart.
    """
    rows = np.concatenate([first, second]).astype(np.float64)
    images = np.tile(np.arange(len(first)) if indices is None else indices, 2)
    count, losses, right = len(first), [], []
    for i, row in enumerate(rows):
        j = (i + count) % len(rows)
        angles = {
            k: row @ other / np.linalg.norm(row) / np.linalg.norm(other)
            for k, other in enumerate(rows)
            if k == j or images[k] != images[i]
        }
        others = sum(np.exp(angle / temperature) for angle in angles.values())
        losses.append(-np.log(np.exp(angles[j] / temperature) / others))
        right.append(max(angles, key=angles.get) == j)
    return float(np.mean(losses)), float(np.mean(right))


@pytest.mark.parametrize("temperature", [0.05, 0.2, 1.0, 10.0])
@pytest.mark.parametrize("count", [1, 2, 17])
def test_nt_xent_is_that_of_the_paper(count, temperature) -> None:
    views = pairs(count)
    found = simclr.nt_xent(*map(tf.constant, views), tf.range(count), temperature)
    loss, accuracy = reference(*views, temperature)
    assert float(found.loss) == pytest.approx(loss, rel=1e-4, abs=1e-6)
    assert float(found.accuracy) == pytest.approx(accuracy)


def test_nt_xent_does_not_look_at_the_length_of_a_projection() -> None:
    first, second = pairs(9)
    plain = simclr.nt_xent(tf.constant(first), tf.constant(second), tf.range(9), 0.2)
    longer = simclr.nt_xent(tf.constant(first * 30), tf.constant(second * 0.1), tf.range(9), 0.2)
    assert float(longer.loss) == pytest.approx(float(plain.loss), rel=1e-4)


def test_contrastive_accuracy_counts_the_views_that_find_each_other() -> None:
    images = tf.constant(np.eye(8, dtype=np.float32))
    assert float(simclr.nt_xent(images, images, tf.range(8), 0.2).accuracy) == 1
    reverse = tf.reverse(images, [0])
    assert float(simclr.nt_xent(images, reverse, tf.range(8), 0.2).accuracy) == 0


def test_views_of_one_image_are_no_negatives_of_each_other() -> None:
    first, second = pairs(6)
    indices = np.array([4, 1, 4, 0, 1, 4])
    found = simclr.nt_xent(tf.constant(first), tf.constant(second), tf.constant(indices), 0.3)
    loss, accuracy = reference(first, second, 0.3, indices)
    assert float(found.loss) == pytest.approx(loss, rel=1e-4)
    assert float(found.accuracy) == pytest.approx(accuracy)
    assert loss < 0.9 * reference(first, second, 0.3)[0]


def test_a_batch_of_one_image_alone_has_no_negatives() -> None:
    views = [tf.constant(one) for one in pairs(5)]
    assert float(simclr.nt_xent(*views, tf.zeros(5, tf.int64), 0.3).loss) == 0


def test_objective_compares_two_views_of_the_same_images(tmp_path) -> None:
    given = unlabelled(tmp_path, pretrain="simclr:0.5")
    task = simclr.prepare(given).task
    streams = task.streams.values()
    (first, labels), (second, same) = (next(iter(one.batches())) for one in streams)
    np.testing.assert_array_equal(labels, same)
    assert_objective_is_the_formula(given, task, first, second, labels)


def test_objective_leaves_out_an_image_that_the_next_epoch_brings_again(tmp_path) -> None:
    given = unlabelled(tmp_path, pretrain="simclr:0.5", batch_size=32)
    task = simclr.prepare(given).task
    stream = task.streams["target"]
    # 40 images in batches of 32: the second batch has 8 of the first epoch, 24 of the next one.
    step = next(step for step in range(1, 5) if len(np.unique(stream.order(step, 0, 1)[0])) < 32)
    indices = stream.order(step, 0, 1)[0].numpy()
    (first, labels), (second, _) = (next(iter(one.batches(step))) for one in task.streams.values())
    assert_objective_is_the_formula(given, task, first, second, labels, indices)


def assert_objective_is_the_formula(given, task, first, second, labels, indices=None) -> None:
    """Compare a task's objective of a batch with the formula, in float64."""
    assert np.mean(np.any(first.numpy() != second.numpy(), axis=(1, 2, 3))) > 0.9
    batch = dict(zip(task.streams, ((first, labels), (second, labels)), strict=True))
    terms, figures = task.objective(batch, tf.constant(0.0))
    hidden, last = given.model.get_layer("features"), task.variables[-4:]
    assert hidden.output.shape[-1] == last[0].shape[0] == last[0].shape[1]

    def projected(images):
        features = given.model(images)["features"].numpy().astype(np.float64)
        kernel, bias, kernel2, bias2 = (v.numpy().astype(np.float64) for v in last)
        return np.maximum(features @ kernel + bias, 0) @ kernel2 + bias2

    loss, accuracy = reference(projected(first), projected(second), 0.5, indices)
    assert float(terms["nt_xent"]) == pytest.approx(loss, rel=1e-4)
    assert float(figures["contrastive_accuracy"]) == pytest.approx(accuracy)


def test_objective_does_not_depend_on_the_labels(tmp_path) -> None:
    found = []
    for labels in (np.arange(40) % 3, np.zeros(40, np.int64)):
        given = unlabelled(tmp_path)
        given = dataclasses.replace(given, images=given.images._replace(labels=labels))
        prepared = simclr.prepare(given)
        train(prepared, given, tmp_path / str(len(found)))
        found.append(weights.hash_tensors(weights.get_tensors(prepared.model)))
    assert found[0] == found[1]


def test_all_images_train_and_none_validates(tmp_path) -> None:
    task = simclr.prepare(unlabelled(tmp_path)).task
    assert {one.count for one in task.streams.values()} == {40}
    assert task.validation is None


def test_simclr_learns_to_tell_the_images_apart(tmp_path) -> None:
    given = unlabelled(tmp_path, steps=150, batch_size=40)
    prepared = simclr.prepare(given)
    before, head = prepared.evaluate(given.images), weights.get_tensors(given.model)["head/kernel"]
    records = train(prepared, given, tmp_path / "run")
    after = prepared.evaluate(given.images)
    assert set(after) == {"contrastive_accuracy", "loss"}
    assert after["loss"] < before["loss"] - 0.5
    assert after["contrastive_accuracy"] > before["contrastive_accuracy"]
    assert {"train/loss", "train/contrastive_accuracy"} <= set(records[-1][1])
    np.testing.assert_array_equal(weights.get_tensors(given.model)["head/kernel"], head)


def test_simclr_starts_from_its_seed_whatever_was_built_before(tmp_path) -> None:
    def start(seed):
        given = dataclasses.replace(unlabelled(tmp_path), seed=seed)
        return [v.numpy() for v in simclr.prepare(given).task.variables[-4:]]

    first = start(3)
    small_model()
    for one, two in zip(first, start(3), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], start(4)[0])


def test_simclr_continues_to_the_bit(tmp_path) -> None:
    assert_continues_to_the_bit(
        tmp_path, simclr.prepare, lambda: unlabelled(tmp_path, steps=24, eval_steps=6)
    )


@pytest.mark.parametrize("name", sorted(catalog.DATASETS))
def test_auto_never_makes_both_views_the_same(name) -> None:
    assert not catalog.find(name).augment.is_identity


def losses_and_weights(strategy: tf.distribute.Strategy) -> list:
    """Return what 12 steps with clipped gradients record and lead to, under a strategy."""
    with strategy.scope():
        model = small_model()
    given = dataclasses.replace(
        unlabelled(Path(tempfile.mkdtemp()), model=model),
        strategy=strategy,
        training=Training(steps=12, batch_size=16, learning_rate=0.01, clip_norm=0.5),
    )
    records = train(simclr.prepare(given), given, Path(tempfile.mkdtemp()))
    tensors = weights.get_tensors(model)
    return [strategy.num_replicas_in_sync, records, tensors["conv/kernel"].ravel().tolist()]


# Images of which one is twice on a replica, and others are on both.
TWICE = [0, 7, 0, 3, 4, 7, 6, 4, 8, 9]

TWO_REPLICAS = """
import json, sys
import numpy as np
import tensorflow as tf
from tl_keras.distributed import distribution
distribution.configure_devices(2)
sys.path.insert(0, sys.argv[1])
import test_simclr
from tl_keras.methods import simclr
from tl_keras.distributed.distribution import make_strategy

strategy = make_strategy("mirrored", 2)
views = test_simclr.pairs(10)

@tf.function
def contrast(indices):
    def replica():
        start = 5 * tf.distribute.get_replica_context().replica_id_in_sync_group
        shares = (tf.convert_to_tensor(one)[start : start + 5] for one in (*views, indices))
        return simclr.nt_xent(*shares, 0.3)
    found = strategy.run(replica)
    return [strategy.reduce(tf.distribute.ReduceOp.MEAN, one, axis=None) for one in found]

found = {
    "contrast": [float(one) for one in contrast(np.arange(10))],
    "twice": [float(one) for one in contrast(np.array(test_simclr.TWICE))],
}
for name, one in (("one_device", make_strategy("one_device")), ("mirrored", strategy)):
    found[name] = test_simclr.losses_and_weights(one)
print(json.dumps(found))
"""


@pytest.mark.slow
def test_simclr_compares_the_whole_batch_on_two_replicas() -> None:
    command = [sys.executable, "-c", TWO_REPLICAS, str(Path(__file__).parent)]
    program = subprocess.run(command, capture_output=True, text=True, check=False)
    assert program.returncode == 0, program.stderr[-2000:]
    found = json.loads(program.stdout.splitlines()[-1])
    assert found["contrast"] == pytest.approx(reference(*pairs(10), 0.3), rel=1e-4)
    twice = reference(*pairs(10), 0.3, np.array(TWICE))
    assert found["twice"] == pytest.approx(twice, rel=1e-4)
    (one, records, kernel), (two, same_records, same_kernel) = (
        found["one_device"],
        found["mirrored"],
    )
    assert (one, two) == (1, 2)
    for (step, values), (same_step, same) in zip(records, same_records, strict=True):
        assert step == same_step
        assert same == pytest.approx(values, rel=1e-3)
    np.testing.assert_allclose(same_kernel, kernel, rtol=1e-3, atol=1e-5)
