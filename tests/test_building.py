import math
import random
import re
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from made import sweep

from tl_keras.config.trainable import Trainable
from tl_keras.errors import UsageError
from tl_keras.models.building import build, find_head, named_body, named_weights, set_trainable
from tl_keras.models.operations import use_fused_ops


def make(name, size=32, channels=3, body=3, **settings):
    settings = {"dense_units": 8, "seed": 1} | settings
    return build(name, 10, image_size=size, input_channels=channels, body_channels=body, **settings)


def pictures(size, channels, count=2):
    shape = (count, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def values(model):
    return {name: variable.numpy() for name, variable in named_weights(model).items()}


def test_small_cnn_has_the_layers_of_the_articles():
    model = make("small_cnn", 28, 1, 1, dense_units=128)
    assert {name: tuple(one.shape) for name, one in named_weights(model).items()} == {
        "conv/kernel": (3, 3, 1, 32),
        "conv/bias": (32,),
        "dense/kernel": (13 * 13 * 32, 128),
        "dense/bias": (128,),
        "head/kernel": (128, 10),
        "head/bias": (10,),
    }
    assert find_head(model).activation is keras.activations.linear


def test_small_cnn_computes_what_it_says():
    model = make("small_cnn", 4, 1, 1)
    image = pictures(4, 1, 1)
    tensors = values(model)
    windows = np.lib.stride_tricks.sliding_window_view(image[0, :, :, 0] / 255, (3, 3))
    conv = np.einsum("ijkl,klc->ijc", windows, tensors["conv/kernel"][:, :, 0])
    pooled = np.maximum(conv, 0).max((0, 1))
    features = np.maximum(pooled @ tensors["dense/kernel"], 0)
    found = model(image)
    assert np.allclose(found["features"][0], features, atol=1e-5)
    assert np.allclose(found["logits"][0], features @ tensors["head/kernel"], atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("body", [1, 3])
def test_small_cnn_sees_grey_the_same_in_one_channel_and_in_three(channels, body):
    grey = pictures(28, 1)
    wanted = make("small_cnn", 28, body, body)(np.repeat(grey, body, axis=-1))
    found = make("small_cnn", 28, channels, body)(np.repeat(grey, channels, axis=-1))
    assert np.allclose(found["logits"], wanted["logits"], atol=1e-3)


@pytest.mark.parametrize("name", ["mobilenet_025", "vgg16", "mobilenet_v3_small"])
def test_applications_repeat_grey_to_three_channels(name):
    grey = pictures(32, 1)
    one, three = make(name, channels=1), make(name, channels=3)
    assert list(named_weights(one)) == list(named_weights(three))
    wanted = three(np.repeat(grey, 3, axis=-1))["logits"]
    assert np.array_equal(one(grey)["logits"], wanted)


@pytest.mark.parametrize("name", ["small_cnn", "mobilenet_025"])
def test_build_returns_float32_features_and_logits(name):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make(name)
    finally:
        keras.config.set_dtype_policy("float32")
    found = model(pictures(32, 3, 5))
    assert list(found) == ["features", "logits"]
    assert found["logits"].shape == (5, 10)
    assert found["features"].shape == (5, 8 if name == "small_cnn" else 256)
    assert {one.dtype.name for one in found.values()} == {"float32"}
    assert model.inputs[0].dtype == "uint8"
    assert model.inputs[0].name == "image"


@pytest.mark.parametrize(
    "name",
    sweep(["small_cnn", "mobilenet_025", "xception"], fast=["small_cnn", "mobilenet_025"]),
)
def test_build_draws_the_same_weights_whatever_was_built_before(name):
    first = values(make(name, 75))
    random.seed(7)
    keras.layers.Conv2D(2, 3)
    again, other = values(make(name, 75)), values(make(name, 75, seed=2))
    assert list(first) == list(again)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    kernels = [key for key in first if first[key].ndim > 1]
    assert not any(np.allclose(first[key], other[key]) for key in kernels)
    assert not any(np.allclose(first[key], 0) for key in kernels)


def test_build_draws_the_same_weights_in_another_process():
    code = """if True:
        import keras, numpy as np
        keras.layers.Conv2D(3, 3)
        from tl_keras.models.building import build
        model = build("mobilenet_025", 10, image_size=32, input_channels=3, body_channels=3,
                      dense_units=8, seed=1)
        print([float(np.abs(one).sum(dtype=np.float64)).hex() for one in model.get_weights()])
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    sums = [np.abs(one).sum(dtype=np.float64) for one in make("mobilenet_025").get_weights()]
    assert found.stdout.strip() == str([float(one).hex() for one in sums])


def test_build_keeps_the_initializers_of_the_layers():
    tensors = values(make("small_cnn", 28))
    limit = math.sqrt(6 / (9 * 3 + 9 * 32))
    assert 0.95 * limit < np.abs(tensors["conv/kernel"]).max() <= limit
    assert not tensors["conv/bias"].any()
    stem = values(make("efficientnet_b0"))["stem_conv/kernel"]
    assert stem.std() == pytest.approx(math.sqrt(2 / (9 * 32)), rel=0.1)


@pytest.mark.slow
def test_build_seeds_the_noise_of_dropout():
    image = pictures(32, 3, 8)
    first, again, other = (make("efficientnet_b0", seed=seed) for seed in (1, 1, 2))
    other.set_weights(first.get_weights())
    for model in (first, again, other):
        set_trainable(
            model, Trainable.parse("head")
        )  # batch normalisation of fresh weights is noise enough
    wanted = first(image, training=True)["logits"]
    assert np.array_equal(again(image, training=True)["logits"], wanted)
    assert not np.allclose(other(image, training=True)["logits"], wanted)


@pytest.mark.parametrize(
    "name",
    sweep(["inception_v3", "xception", "convnext_tiny", "efficientnet_b0"], fast=["xception"]),
)
def test_tensor_names_do_not_depend_on_what_was_built_before(name):
    first, second = (make(name, 96) for _ in range(2))
    assert list(named_weights(first)) == list(named_weights(second))
    assert [one.name for one in first.layers] == [one.name for one in second.layers]
    numbered = [key for key in named_weights(first) if re.match(r"conv2d_\d+/kernel", key)]
    assert len(numbered) == {"inception_v3": 93, "xception": 3}.get(name, 0)


@pytest.mark.slow
def test_tensor_names_number_inception_as_a_fresh_process_does():
    make("inception_v3", 75, seed=None)
    tensors = named_weights(make("inception_v3", 75, seed=None))
    assert list(tensors)[-2:] == ["head/kernel", "head/bias"]
    # By creation, not by place: of the layers side by side, Keras lists a deeper branch first.
    shapes = [tuple(tensors[f"conv2d_{number}/kernel"].shape) for number in (5, 6, 7, 93)]
    assert shapes == [(1, 1, 192, 64), (1, 1, 192, 48), (5, 5, 48, 64), (1, 1, 2048, 192)]


def test_tensor_names_leave_the_states_of_random_generators_out():
    model = make("efficientnet_b0")
    assert len(model.variables) > len(model.weights) == len(named_weights(model))


@pytest.mark.parametrize(
    ("name", "channels"),
    sweep(
        [
            ("small_cnn", 1),
            ("small_cnn", 3),
            ("mobilenet_025", 1),
            ("densenet121", 3),
            ("efficientnet_b0", 3),
        ],
        fast=[("small_cnn", 1), ("small_cnn", 3), ("mobilenet_025", 1)],
    ),
)
def test_build_makes_a_model_that_keras_alone_loads(name, channels, tmp_path):
    model = make(name, 32, channels, 1)
    image = pictures(32, channels)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path, safe_mode=True)
    for key, value in model(image).items():
        # Up to rounding: what Keras loads normalises in several operations, and ours in one.
        np.testing.assert_allclose(loaded(image)[key], value, rtol=1e-4, atol=1e-5)
    use_fused_ops(loaded)
    for key, value in model(image).items():
        assert np.array_equal(loaded(image)[key], value)
    assert list(named_weights(loaded)) == list(named_weights(model))
    with zipfile.ZipFile(path) as archive:
        assert b"tl_keras" not in archive.read("config.json")


@pytest.mark.parametrize(
    ("name", "last"),
    [("vgg16", "block1_pool"), ("convnext_tiny", "convnext_tiny_stage_0_block_1_layer_scale")],
)
def test_build_makes_the_first_layers_of_a_large_model_so_too(name, last, tmp_path):
    model = make(name, 32, 1)
    first = keras.Model(model.input, model.get_layer(last).output)
    path = tmp_path / "model.keras"
    first.save(path)
    image = pictures(32, 1)
    assert np.array_equal(keras.models.load_model(path)(image), first(image))


def test_build_refuses_imagenet_for_a_model_of_our_own():
    with pytest.raises(UsageError, match="--source=imagenet has no weights for --model=small_cnn"):
        make("small_cnn", weights="imagenet")


@pytest.mark.parametrize(
    ("spec", "trains"),
    [
        ("all", ["conv", "dense", "head"]),
        ("head", ["head"]),
        ("last:1", ["head"]),
        ("last:2", ["dense", "head"]),
        ("last:3", ["conv", "dense", "head"]),
        ("^con", ["conv", "head"]),
        ("n", ["conv", "dense", "head"]),
    ],
)
def test_set_trainable_chooses_layers(spec, trains):
    model = make("small_cnn", 28)
    model.trainable = False
    assert set_trainable(model, Trainable.parse(spec)) == trains
    names = {id(one): name for name, one in named_weights(model).items()}
    assert [names[id(one)] for one in model.trainable_variables] == [
        f"{name}/{kind}" for name in trains for kind in ("kernel", "bias")
    ]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("last:4", r"--trainable=last:4: N of last:N must be from 1 \(the head\) to 3"),
        ("block5", r"--trainable=block5 is found in no layer's name\. .*conv, dense"),
        ("head$", "is found in no layer's name"),
        ("", "--trainable= is found in no layer's name"),
    ],
)
def test_set_trainable_says_what_is_wrong(spec, message):
    with pytest.raises(UsageError, match=message):
        set_trainable(make("small_cnn", 28), Trainable.parse(spec))


@pytest.mark.parametrize("spec", ["last:0", "last:", "last:two", "last:²", "last:-1", "conv["])
def test_trainable_that_cannot_be_read_is_refused(spec):
    with pytest.raises(ValueError):
        Trainable.parse(spec)


def test_set_trainable_reaches_layers_inside_layers():
    model = make("convnext_tiny", 32)
    assert set_trainable(model, Trainable("pattern", pattern="_stem_conv")) == [
        "convnext_tiny_stem_conv",
        "head",
    ]
    assert len(model.trainable_variables) == 4


def test_set_trainable_freezes_the_statistics_of_batch_normalization():
    model = make("mobilenet_025")
    image = pictures(32, 3, 8)
    set_trainable(model, Trainable.parse("conv1"))
    before = values(model)
    frozen = model(image, training=True)
    after = values(model)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"conv1_bn/moving_mean", "conv1_bn/moving_variance"}
    set_trainable(model, Trainable.parse("head"))
    assert np.array_equal(model(image, training=True)["logits"], model(image)["logits"])
    assert not np.array_equal(model(image)["logits"], frozen["logits"])


def test_named_body_holds_the_layers_with_weights():
    assert list(named_body(make("small_cnn", 28))) == ["conv", "dense"]
    names = list(named_body(make("efficientnet_b0", 32)))
    assert names[0] == "stem_conv"
    assert names[-1] == "top_bn"


def test_build_lets_normalisation_follow_a_short_run():
    model = build(
        "mobilenet_025", 2, image_size=32, input_channels=3, body_channels=3, dense_units=8, seed=0
    )
    first = keras.Model(model.input, model.get_layer("conv1_bn").output)
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype(np.uint8)
    for _ in range(60):
        trained = first(images, training=True)
    np.testing.assert_allclose(first(images, training=False), trained, atol=0.05)
