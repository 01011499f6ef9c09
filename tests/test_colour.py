"""Colour beside grey: a source keeps its colours where the target is grey, and the other way."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import pictures, setting, sweep, train

from tl_keras.data.dataset import ImageSet
from tl_keras.data.splits import Split
from tl_keras.methods import joint
from tl_keras.methods.frozen_part import FrozenPart
from tl_keras.models import building, model_file, weights
from tl_keras.models.colour import with_colour_input
from tl_keras.models.frozen_split import split_frozen
from tl_keras.models.weights import Origin, Weights

SIZES = {"small_cnn": 8, "conv4": 8, "mobilenet_v2_035": 32}
# Of the same luma, so that they are one grey.
COLOURS = ((200, 0, 0), (0, 102, 0))


def build(name: str, classes: int, channels: int, seed: int = 1) -> keras.Model:
    return building.build(
        name,
        classes,
        image_size=SIZES[name],
        input_channels=channels,
        body_channels=3,
        dense_units=16,
        seed=seed,
    )


def coloured(count: int, size: int) -> ImageSet:
    """Return pictures of two classes that differ in nothing but their colour, under grey noise."""
    labels = np.arange(count) % 2
    noise = np.random.default_rng(3).integers(0, 50, (count, size, size, 1))
    images = np.array(COLOURS)[labels][:, None, None, :] + noise
    return ImageSet(images.astype(np.uint8), labels)


def grey(count: int, size: int) -> ImageSet:
    found = pictures(count)
    return ImageSet(
        np.kron(found.images, np.ones((1, size // 8, size // 8, 1), np.uint8)), found.labels
    )


def given(tmp_path, name="small_cnn", source=coloured, target=grey, **flags):
    """Return the setting of a joint training from a source in colour to a grey target."""
    size = SIZES[name]
    source_train, images = source(40, size), target(40, size)
    classes = tuple("abc"[: int(source_train.labels.max()) + 1])
    model = build(name, int(images.labels.max()) + 1, images.images.shape[-1])
    source_model = build(name, len(classes), source_train.images.shape[-1], seed=5)
    origin = Origin("source", classes, name, size, 3)
    known = Weights(weights.get_tensors(source_model), origin)
    weights.copy(
        known, model, ("x", "y", "z")[: model.output["logits"].shape[-1]], "match", "--source=s"
    )
    flags = {"steps": 60, "learning_rate": 0.01, "method": "joint", **flags}
    found = setting(tmp_path, model, **flags)
    return dataclasses.replace(
        found,
        config=dataclasses.replace(found.config, model=name),
        images=images,
        split=Split(np.arange(30), np.arange(30, 40)),
        image_size=size,
        source_weights=known,
        source_train=source_train,
    )


@pytest.mark.parametrize("name", SIZES)
def test_in_colour_shares_the_weights_and_sees_the_colours(name) -> None:
    model = build(name, 3, channels=1)
    seen = with_colour_input(model)
    assert seen.input.shape == (None, SIZES[name], SIZES[name], 3)
    assert {id(one) for one in seen.weights} == {id(one) for one in model.weights}
    images = grey(6, SIZES[name]).images
    repeated = np.repeat(images, 3, axis=-1)
    for key, value in model(images).items():
        np.testing.assert_array_equal(seen(repeated)[key], value)
    # As the model does that is built for colours.
    other = build(name, 3, channels=3, seed=9)
    weights.assign(other, weights.get_tensors(model))
    colours = coloured(6, SIZES[name]).images
    np.testing.assert_array_equal(seen(colours)["logits"], other(colours)["logits"])
    assert np.ptp(seen(colours)["logits"], axis=0).max() > 0


def test_in_colour_leaves_what_repeats_no_channel() -> None:
    model = build("small_cnn", 3, channels=3)
    assert with_colour_input(model) is model


HEAD = {"trainable": "head", "learning_rate": 0.1}
CASES = [
    ("small_cnn", {}),
    ("small_cnn", HEAD),
    ("small_cnn", {**HEAD, "cache_gb": 0}),
    ("small_cnn", {"trainable": "last:2"}),
    ("small_cnn", {"unfreeze": "lp_ft"}),
    ("small_cnn", {"unfreeze": "gradual"}),
    ("conv4", {}),
    ("conv4", {"unfreeze": "gradual"}),
]


@pytest.mark.parametrize(("name", "flags"), sweep(CASES, fast=[CASES[0], CASES[5]]), ids=str)
def test_joint_learns_a_source_whose_classes_differ_in_colour_alone(tmp_path, name, flags) -> None:
    own = given(tmp_path, name, **flags)
    prepared = joint.prepare(own)
    records = train(prepared, own, tmp_path / "run")
    # Chance is 0.69: without the colours there is nothing to learn.
    assert records[-1][1]["train/source"] < 0.35
    assert "validation/accuracy" in records[-1][1]
    assert prepared.model.input.shape[-1] == 1
    logits = prepared.predict(own.images)
    assert np.mean(logits.argmax(1) == own.images.labels) > 0.6
    assert_is_saved_whole(tmp_path, own, prepared)


def assert_is_saved_whole(tmp_path, own, prepared) -> None:
    """Save the model, load it with Keras alone, and compare what both say of the target."""
    name = own.config.model
    origin = Origin("bands", ("x", "y", "z"), name, SIZES[name], 3)
    model_file.save(tmp_path / "model.keras", prepared.model, origin)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded(own.images.images, training=False)["logits"]
    np.testing.assert_allclose(again, prepared.predict(own.images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", ["head", "last:2"])
@pytest.mark.parametrize("name", sweep(SIZES, fast=["small_cnn"]))
def test_frozen_part_sees_the_colours_and_repeats_grey(tmp_path, name, spec) -> None:
    own = given(tmp_path, name, trainable=spec)
    joint.prepare(own)
    frozen = split_frozen(own.model).frozen
    part = FrozenPart(own, frozen)
    other = build(name, 3, channels=3)
    weights.assign(other, weights.get_tensors(own.model))
    tensor = other.get_layer(frozen.layers[-1].name).output
    wanted = keras.Model(other.input, tensor)
    for images in (own.images.images[:7], own.source_images.images[:9]):
        found = part.compute(images)
        colours = images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)
        expected = wanted(colours).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.abs(found[0] - found[1]).max() > 1e-2 * np.abs(found).max()


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("small_cnn", {"trainable": "head"}),
        pytest.param("small_cnn", {"unfreeze": "lp_ft"}, marks=pytest.mark.slow),
        pytest.param("conv4", {"trainable": "last:2"}, marks=pytest.mark.slow),
        pytest.param("mobilenet_v2_035", {"trainable": "last:3"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_colours_that_are_kept_on_disk_are_those_that_are_computed_each_time(
    tmp_path, name, flags
) -> None:
    found = []
    for cache_gb in (0, 5):
        own = given(tmp_path, name, steps=24, cache_gb=cache_gb, **flags)
        prepared = joint.prepare(own)
        records = train(prepared, own, tmp_path / f"run{cache_gb}")
        last = records[-1][1]["validation/loss"]
        found.append([*(values["train/source"] for _, values in records), last])
        assert_is_saved_whole(tmp_path, own, prepared)
    assert (tmp_path / "features").exists()
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("flags", [{}, HEAD], ids=str)
def test_grey_source_is_repeated_for_a_target_in_colour(tmp_path, flags) -> None:
    own = given(tmp_path, source=grey, target=coloured, steps=40, **flags)
    prepared = joint.prepare(own)
    source, images = own.source_images, own.images
    batch = {
        "target": (tf.constant(images.images[:6]), tf.constant(images.labels[:6])),
        "source": (tf.constant(source.images[:9]), tf.constant(source.labels[:9])),
    }
    features = own.model(np.repeat(source.images[:9], 3, axis=-1))["features"].numpy()
    logits = features @ own.source.tensors["head/kernel"] + own.source.tensors["head/bias"]
    wanted = keras.losses.sparse_categorical_crossentropy(source.labels[:9], logits, True)
    terms, _ = prepared.task.objective(batch, tf.constant(0.0))
    assert float(terms["source"]) == pytest.approx(float(np.mean(wanted)), rel=1e-5)
    records = train(prepared, own, tmp_path / "run")
    assert prepared.model.input.shape[-1] == 3
    assert records[-1][1]["train/target"] < 0.5
