"""Each transfer method against its definition."""

import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Records, count_computed_rows, setting, small_model

from tl_keras.config.terms import Term
from tl_keras.errors import UsageError
from tl_keras.methods import catalog
from tl_keras.methods.feature_cache import FeatureCache
from tl_keras.models import weights
from tl_keras.training import loop
from tl_keras.training.loop import Loop


def loop_of(prepared, given, folder, records=None):
    records = Records() if records is None else records
    return Loop(prepared.task, given.training, given.strategy, folder, records, "test")


def train(prepared, given, folder):
    records = Records()
    loop_of(prepared, given, folder, records).run()
    return records


def test_catalog_refuses_a_method_it_does_not_know():
    with pytest.raises(UsageError, match="--method=finetun: 'finetun' is not known. Choose"):
        catalog.find(Term("finetun"))


@pytest.mark.parametrize("name", list(catalog.METHODS))
def test_method_learns_the_pictures(tmp_path, name):
    given = setting(tmp_path, steps=60, method="features:256")
    prepared = catalog.METHODS[name].prepare(given)
    train(prepared, given, tmp_path / "run")
    logits = prepared.predict(given.images)
    assert np.mean(logits.argmax(1) == given.images.labels) > 0.9
    whole = prepared.model(given.images.images, training=False)["logits"]
    np.testing.assert_allclose(whole, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("trainable", "moving"),
    [
        ("all", {"conv", "dense", "head"}),
        ("head", {"head"}),
        ("last:2", {"dense", "head"}),
        ("^conv", {"conv", "head"}),
    ],
)
def test_finetune_moves_what_is_trainable_and_nothing_else(tmp_path, trainable, moving):
    given = setting(tmp_path, trainable=trainable)
    before = weights.get_tensors(given.model)
    prepared = catalog.METHODS["finetune"].prepare(given)
    train(prepared, given, tmp_path / "run")
    after = weights.get_tensors(prepared.model)
    moved = {n.split("/")[0] for n in before if not np.array_equal(before[n], after[n])}
    assert moved == moving


def test_l2sp_stays_nearer_to_the_source_than_plain_finetuning(tmp_path):
    distances = {}
    for name in ("finetune", "l2sp"):
        given = setting(tmp_path, penalty="l2sp:5" if name == "l2sp" else "")
        start = weights.get_tensors(given.model)
        prepared = catalog.METHODS[name].prepare(given)
        train(prepared, given, tmp_path / name)
        end = weights.get_tensors(prepared.model)
        distances[name] = sum(np.sum((end[n] - start[n]) ** 2) for n in end if "head" not in n)
    assert distances["l2sp"] < 0.5 * distances["finetune"]


def test_joint_objective_is_the_source_loss_and_lambda_times_the_target_loss(tmp_path):
    given = setting(tmp_path, method="joint:0.25")
    prepared = catalog.METHODS["joint"].prepare(given)
    images, source = given.images, given.source_images
    batch = {
        "target": (tf.constant(images.images[:6]), tf.constant(images.labels[:6])),
        "source": (tf.constant(source.images[:9]), tf.constant(source.labels[:9])),
    }
    terms, figures = prepared.task.objective(batch, tf.constant(0.0))

    def loss(pictures, labels):
        scores = given.model(pictures)["logits"]
        return float(np.mean(keras.losses.sparse_categorical_crossentropy(labels, scores, True)))

    # All classes match, so both heads still are the source's.
    assert float(terms["source"]) == pytest.approx(loss(source.images[:9], source.labels[:9]), 1e-5)
    wanted = 0.25 * loss(images.images[:6], images.labels[:6])
    assert float(terms["target"]) == pytest.approx(wanted, 1e-5)
    guesses = given.model(images.images[:6])["logits"].numpy().argmax(1)
    assert float(figures["accuracy"]) == pytest.approx(np.mean(guesses == images.labels[:6]))


def test_joint_trains_both_heads_and_keeps_the_sources_out_of_the_model(tmp_path):
    given = setting(tmp_path)
    prepared = catalog.METHODS["joint"].prepare(given)
    extra = prepared.task.variables[len(prepared.model.trainable_variables) :]
    before = [variable.numpy() for variable in extra]
    records = train(prepared, given, tmp_path / "run")
    assert len(extra) == 2
    assert all(not np.array_equal(b, v.numpy()) for b, v in zip(before, extra, strict=True))
    assert {"train/source", "train/target"} <= set(records[-1][1])
    assert [layer.name for layer in prepared.model.layers].count("source_head") == 0


def test_features_sees_each_picture_once(tmp_path, monkeypatch):
    seen = count_computed_rows(monkeypatch)

    def run(name, **flags):
        given = setting(tmp_path, **flags)
        prepared = catalog.METHODS["features"].prepare(given)
        train(prepared, given, tmp_path / name)
        return prepared

    run("first").predict(setting(tmp_path).images)
    assert sum(seen) == 40
    run("second").predict(setting(tmp_path).images)
    assert sum(seen) == 40
    run("other", model=small_model(seed=77))
    assert sum(seen) == 80


def test_features_are_computed_in_the_time_of_the_run_and_not_for_a_finished_one(
    tmp_path, monkeypatch
):
    seen = count_computed_rows(monkeypatch)
    now = [0.0]

    def clock():
        now[0] += 0.001
        return now[0]

    monkeypatch.setattr(loop.time, "perf_counter", clock)
    rows = FeatureCache.rows

    def slow(self, *arguments):
        now[0] += 1000.0
        return rows(self, *arguments)

    monkeypatch.setattr(FeatureCache, "rows", slow)
    seconds = {}
    for method, trainable in (("features", "all"), ("finetune", "head")):
        given = setting(tmp_path, trainable=trainable)
        prepared = catalog.METHODS[method].prepare(given)
        assert now[0] < 1.0
        seconds[method] = loop_of(prepared, given, tmp_path / f"run-{method}").run().seconds
        now[0] = 0.0
    # One pass over the images that train, and one over those that validate.
    assert seconds["features"] == pytest.approx(2000.0, abs=1.0)
    assert seconds["finetune"] == pytest.approx(2000.0, abs=1.0)
    # It is finished: nothing is computed, although the features are gone.
    del seen[:]
    shutil.rmtree(tmp_path / "features")
    given = setting(tmp_path)
    prepared = catalog.METHODS["features"].prepare(given)
    assert loop_of(prepared, given, tmp_path / "run-features").run().steps == 20
    assert seen == [] and now[0] < 1.0


@pytest.mark.parametrize("method", ["features", "features:7"])
def test_features_leave_the_body_as_it_is_and_give_one_whole_model(tmp_path, method):
    given = setting(tmp_path, method=method)
    before = weights.get_tensors(given.model)
    prepared = catalog.METHODS["features"].prepare(given)
    train(prepared, given, tmp_path / "run")
    after = weights.get_tensors(prepared.model)
    for name in ("conv/kernel", "conv/bias", "dense/kernel", "dense/bias"):
        np.testing.assert_array_equal(before[name], after[name])
    assert ("head_hidden/kernel" in after) == (method != "features")
    prepared.model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    outputs = loaded(given.images.images)["logits"]
    np.testing.assert_allclose(outputs, prepared.predict(given.images), rtol=1e-4, atol=1e-4)
