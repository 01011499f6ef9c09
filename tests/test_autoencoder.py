"""The autoencoder against its definition: sizes, error, seeds, and that it learns to rebuild."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from made import assert_continues_to_the_bit, setting, small_model, train

from tl_keras.methods import autoencoder
from tl_keras.models import building, weights


def unlabelled(tmp_path, **flags):
    """Return the setting of a pretraining."""
    given = setting(tmp_path, pretrain="autoencoder", **flags)
    return dataclasses.replace(given, source_weights=None)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [4, 8, 9, 10, 27, 28, 32, 75, 224])
def test_decoder_fits_images_of_every_size(size, channels) -> None:
    decoder = autoencoder._decoder(5, (size, size, channels), seed=0)
    features = 3 * np.random.default_rng(0).normal(size=(2, 5)).astype(np.float32)
    images = decoder(features).numpy()
    assert images.shape == (2, size, size, channels)
    assert 0 <= images.min() < images.max() <= 1
    dense = decoder.layers[1].kernel.shape
    assert dense[0] == 5 and dense[1] <= 64 * autoencoder.WIDTH
    assert decoder.count_params() < 100_000


def test_objective_is_the_mean_squared_error_of_pixels_from_0_to_1(tmp_path) -> None:
    given = unlabelled(tmp_path)
    prepared = autoencoder.prepare(given)
    images = given.images.images[:6]
    batch = {"target": (tf.constant(images), tf.constant(given.images.labels[:6]))}
    terms, _ = prepared.task.objective(batch, tf.constant(0.0))
    rebuilt = prepared.rebuild(images)
    assert rebuilt.shape == images.shape and rebuilt.dtype == np.float32
    wanted = np.mean(((rebuilt.astype(np.float64) - images) / 255) ** 2)
    assert float(terms["mean_squared_error"]) == pytest.approx(wanted, rel=1e-5)


def test_evaluation_sees_every_image_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(autoencoder, "IMAGES_PER_BATCH", 16)
    given = unlabelled(tmp_path)
    prepared = autoencoder.prepare(given)
    # The last image, which fills the last batch, is unlike the others.
    given.images.images[-1] = 255
    rebuilt = prepared.rebuild(given.images.images).astype(np.float64)
    wanted = np.mean(((rebuilt - given.images.images) / 255) ** 2)
    found = prepared.evaluate(given.images)
    assert found == {"mean_squared_error": pytest.approx(wanted, rel=1e-5), "loss": found["loss"]}
    assert found["loss"] == found["mean_squared_error"]


def test_autoencoder_rebuilds_the_images_and_leaves_the_head(tmp_path) -> None:
    given = unlabelled(tmp_path, steps=150)
    prepared = autoencoder.prepare(given)
    before, tensors = prepared.evaluate(given.images), weights.get_tensors(given.model)
    records = train(prepared, given, tmp_path / "run")
    after, learned = prepared.evaluate(given.images), weights.get_tensors(given.model)
    # The three bands are all that is not noise, and noise of 0 to 80 has a variance of 0.008.
    assert after["loss"] < 0.02 < 0.05 < before["loss"]
    assert records[-1][1]["train/loss"] < 0.02
    same = {name for name in tensors if np.array_equal(tensors[name], learned[name])}
    assert same == {"head/kernel", "head/bias"}


def test_autoencoder_trains_on_all_images_without_their_labels(tmp_path) -> None:
    found = []
    for labels in (np.arange(40) % 3, np.zeros(40, np.int64)):
        given = unlabelled(tmp_path)
        given = dataclasses.replace(given, images=given.images._replace(labels=labels))
        prepared = autoencoder.prepare(given)
        assert prepared.task.streams["target"].count == 40
        train(prepared, given, tmp_path / str(len(found)))
        found.append(weights.hash_tensors(weights.get_tensors(prepared.model)))
    assert found[0] == found[1]


def test_autoencoder_starts_from_its_seed_whatever_was_built_before(tmp_path) -> None:
    def start(seed):
        given = dataclasses.replace(unlabelled(tmp_path), seed=seed)
        return [variable.numpy() for variable in autoencoder.prepare(given).task.variables]

    first = start(3)
    small_model()
    for one, two in zip(first, start(3), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[4], start(4)[4])


def test_autoencoder_continues_to_the_bit(tmp_path) -> None:
    assert_continues_to_the_bit(
        tmp_path, autoencoder.prepare, lambda: unlabelled(tmp_path, steps=24, eval_steps=6)
    )


def test_autoencoder_rebuilds_colour_for_a_body_that_sees_grey(tmp_path) -> None:
    model = building.build(
        "small_cnn", 3, image_size=8, input_channels=3, body_channels=1, dense_units=8, seed=1
    )
    given = unlabelled(tmp_path, model=model)
    prepared = autoencoder.prepare(given)
    images = np.repeat(given.images.images, 3, axis=-1)
    assert prepared.rebuild(images).shape == images.shape
