"""Tests of the statistics of normalisation that belong to the final weights."""

import dataclasses

import keras
import made
import numpy as np
import pytest
import tensorflow as tf

from tl_keras.config.trainable import Trainable
from tl_keras.data.pipeline import Stream
from tl_keras.methods import scratch
from tl_keras.models import batch_statistics, building, norms, weights
from tl_keras.models.batch_statistics import Measurer
from tl_keras.models.operations import use_fused_ops
from tl_keras.training import statistics
from tl_keras.training.averaging import Average
from tl_keras.training.optimizers import Schedule
from tl_keras.training.task import Task
from tl_keras.training.validation import Validator


def with_norms(seed: int = 1) -> keras.Model:
    """Return a conv4 for the bands of `made`, which has norms and dropout."""
    return building.build(
        "conv4", 3, image_size=8, input_channels=1, body_channels=1, dense_units=8, seed=seed
    )


def task_of(model: keras.Model, stream: Stream) -> Task:
    """Return a task as far as statistics need to know it."""
    return Task(model, [], {"target": stream}, objective=lambda batch: None)


def moving(model: keras.Model) -> dict[str, np.ndarray]:
    return {n: value for n, value in weights.get_tensors(model).items() if "moving" in n}


def test_statistics_of_one_batch_are_its_mean_and_its_variance():
    inputs = keras.Input((4, 5, 3))
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(inputs))
    use_fused_ops(model)
    images = np.random.default_rng(0).normal(3, [1, 2, 5], (7, 4, 5, 3)).astype(np.float32)
    found = Measurer(model).measure([tf.constant(images)])["norm"]
    np.testing.assert_allclose(found[0], images.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[1], images.var((0, 1, 2)), rtol=1e-4)
    # In parts of any size, as long as nothing stands before the norm.
    parts = Measurer(model).measure([images[:2], images[2:3], images[3:]])["norm"]
    np.testing.assert_allclose(parts, found, rtol=1e-4)


def test_statistics_follow_layer_by_layer_and_leave_the_model_as_it_was():
    model = with_norms()
    images = tf.constant(made.pictures(60).images)
    before = weights.hash_tensors(weights.get_tensors(model))
    found = Measurer(model).measure([images])
    assert weights.hash_tensors(weights.get_tensors(model)) == before
    batch_statistics.assign(model, found)
    # By its own statistics the batch comes out of each norm with mean 0 and variance 1.
    for norm in batch_statistics.find_updating_norms(model):
        inside = keras.Model(model.input, norm.output)
        outputs = np.asarray(inside(images, training=False), np.float64)
        axes = tuple(range(outputs.ndim - 1))
        plain = norm.moving_variance.numpy() / (norm.moving_variance.numpy() + norm.epsilon)
        np.testing.assert_allclose(outputs.mean(axes), 0, atol=1e-4)
        np.testing.assert_allclose(outputs.var(axes), plain, rtol=1e-3, atol=1e-5)


def test_dropout_is_off_while_statistics_are_measured():
    model, images = with_norms(), tf.constant(made.pictures(60).images)
    first, second = (Measurer(model).measure([images]) for _ in range(2))
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_frozen_norms_keep_what_they_have():
    model = with_norms()
    building.set_trainable(model, Trainable.parse("last:2"))
    assert [norm.name for norm in batch_statistics.find_updating_norms(model)] == ["dense_bn"]
    stream = Stream(*made.pictures(60)[:2], batch_size=16, seed=0)
    before = moving(model)
    statistics.assign_final_statistics(model, task_of(model, stream))
    changed = {n for n, value in moving(model).items() if not np.array_equal(value, before[n])}
    assert changed == {"dense_bn/moving_mean", "dense_bn/moving_variance"}


def test_statistics_frozen_in_training_stay_while_scale_and_offset_train():
    model = with_norms()
    norms.freeze_statistics(model)
    assert not batch_statistics.find_updating_norms(model)
    before = moving(model)
    images = tf.constant(made.pictures(12).images)
    with tf.GradientTape() as tape:
        in_training = model(images, training=True)["logits"]
        loss = tf.reduce_sum(in_training**2)
    gamma = model.get_layer("dense_bn").gamma
    assert np.abs(tape.gradient(loss, gamma.value)).max() > 0
    for name, value in moving(model).items():
        np.testing.assert_array_equal(value, before[name])


def keep_in_class_order(count: int) -> dict[str, np.ndarray]:
    """Return the statistics kept for pictures that are stored class by class."""
    images = made.pictures(3 * count)
    stored = images.take(np.argsort(images.labels, kind="stable"))
    model = with_norms()
    statistics.assign_final_statistics(
        model, task_of(model, Stream(*stored[:2], batch_size=16, seed=0))
    )
    return moving(model)


def test_statistics_do_not_depend_on_the_order_in_which_images_are_stored(monkeypatch):
    monkeypatch.setattr(statistics, "max_batch_size", lambda inputs, size: 50)
    found = keep_in_class_order(200)
    whole = with_norms()
    batch_statistics.assign(
        whole, Measurer(whole).measure([tf.constant(made.pictures(600).images)])
    )
    for name, value in moving(whole).items():
        np.testing.assert_allclose(found[name], value, rtol=0.1, atol=0.02)


def test_statistics_are_those_of_the_images_that_train_and_of_no_other():
    images, model = made.pictures(60), with_norms()
    other = images.images.copy()
    other[30:] = 255
    chosen = np.arange(30)
    found = []
    for pixels in (images.images, other):
        stream = Stream(pixels, images.labels, 16, seed=0, chosen=chosen)
        statistics.assign_final_statistics(model, task_of(model, stream))
        found.append(moving(model))
    for name, value in found[0].items():
        np.testing.assert_array_equal(found[1][name], value)


def test_validation_goes_by_the_statistics_of_the_weights_and_puts_the_others_back(tmp_path):
    given = made.setting(tmp_path, model=with_norms())
    task = scratch.prepare(given).task
    losses = {}
    for kind in ("recomputed", "moving"):
        training = dataclasses.replace(given.training, batch_norm=kind)
        average = Average(training, 20, task.model.variables)
        validator = Validator(task, training, given.strategy, average, Schedule(training, 20))
        before = moving(task.model)
        losses[kind] = validator.evaluate()["validation/loss"]
        for name, value in moving(task.model).items():
            np.testing.assert_array_equal(value, before[name])
    # The moving ones are those of no image at all: mean 0, variance 1.
    assert losses["recomputed"] != pytest.approx(losses["moving"], rel=0.01)


@pytest.mark.parametrize("kind", ["recomputed", "moving"])
def test_short_run_is_judged_by_what_it_learned(tmp_path, kind):
    """Eight steps: moving averages are 43 % what they began with, and say little of the weights."""
    given = made.setting(tmp_path, model=with_norms(), steps=8, learning_rate=0.01)
    training = dataclasses.replace(given.training, batch_norm=kind)
    given = dataclasses.replace(given, training=training)
    prepared = scratch.prepare(given)
    made.train(prepared, given, tmp_path / kind)
    if kind == "recomputed":
        statistics.assign_final_statistics(prepared.model, prepared.task)
    test = made.pictures(90, seed=7)
    logits = prepared.predict(test)
    by_batch = prepared.model(tf.constant(test.images), training=True)["logits"].numpy()
    accuracy, wanted = (np.mean(one.argmax(1) == test.labels) for one in (logits, by_batch))
    assert wanted > 0.9
    assert (accuracy > wanted - 0.1) == (kind == "recomputed")


def test_a_graph_is_made_once_for_all_looks_at_the_validation_images(tmp_path, monkeypatch):
    given = made.setting(tmp_path, model=with_norms())
    task = scratch.prepare(given).task
    average = Average(given.training, 20, task.model.variables)
    validator = Validator(
        task, given.training, given.strategy, average, Schedule(given.training, 20)
    )
    traced = []
    entered = norms.collect_moments
    monkeypatch.setattr(norms, "collect_moments", lambda: traced.append(1) or entered())
    for _ in range(4):
        validator.evaluate()
    assert len(traced) <= 2


def test_statistics_of_joint_training_are_of_the_mixture(tmp_path):
    """Norms were trained on batches of both: statistics of one alone are those of other inputs."""
    given = made.setting(tmp_path, model=with_norms())
    bright = given.source_images.images // 2 + 128
    given = dataclasses.replace(given, source_train=given.source_images._replace(images=bright))
    model = with_norms()
    names = ("target", "source")
    streams = {"target": given.stream(given.images), "source": given.source_stream()}
    task = dataclasses.replace(task_of(model, streams["target"]), streams=streams)
    found = {}
    for normalised in (names, names[:1], names[1:]):
        statistics.assign_final_statistics(model, dataclasses.replace(task, normalised=normalised))
        found[normalised] = model.get_layer("conv1_bn").moving_mean.numpy()
    np.testing.assert_allclose(
        found[names], (found[names[:1]] + found[names[1:]]) / 2, rtol=0.15, atol=0.02
    )
    assert np.abs(found[names[:1]] - found[names[1:]]).max() > 0.1
