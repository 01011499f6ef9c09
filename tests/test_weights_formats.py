"""Weights that Keras saved, in each of its formats, as the weights of our models."""

import logging

import h5py
import keras
import numpy as np
import pytest
from made import small_model, sweep

from tl_keras.errors import DataError
from tl_keras.models import building, catalog, naming, weights
from tl_keras.models.weights import Origin
from tl_keras.models.weights_file import WeightsFile

FLAG = "--source_weights=file"
BODY = ["conv/kernel", "conv/bias", "dense/kernel", "dense/bias"]


def built(name: str = "mobilenet_v2_035", **arguments) -> keras.Model:
    sizes = {"image_size": 32, "input_channels": 3, "body_channels": 3, "dense_units": 8}
    return building.build(name, 3, **{**sizes, **arguments})


@pytest.fixture(scope="module")
def mobilenet():
    """Our model, whose weights are other ones."""
    return built()


@pytest.fixture(scope="module")
def efficientnet():
    """A model with constants of its preprocessing among its weights."""
    return built("efficientnet_b0")


@pytest.fixture(
    scope="module", params=sweep([True, False], fast=[True]), ids=["with_top", "without_top"]
)
def network(request):
    """Keras's own MobileNet, with weights that differ from each other."""
    network = keras.applications.MobileNetV2(
        alpha=0.35, include_top=request.param, weights=None, input_shape=(32, 32, 3)
    )
    random = np.random.default_rng(0)
    network.set_weights([random.random(one.shape, np.float32) for one in network.weights])
    return network


def read(path, model):
    found = WeightsFile(path, FLAG).read(model)
    assert found.origin is None
    return found.tensors


def body_of(model) -> dict[str, np.ndarray]:
    tensors = weights.get_tensors(model)
    return {name: value for name, value in tensors.items() if not name.startswith("head/")}


def assert_same(tensors, expected, names) -> None:
    assert list(tensors) == list(names)
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, expected[name])
        assert value.dtype == np.float32


def _weights(model, path):
    model.save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)


def _weights_without_names(model, path):
    """Write what Keras 3 wrote before its groups had the layers' names."""
    _weights(model, path)
    with h5py.File(path, "a") as file:
        groups: list[h5py.Group] = []
        file.visititems(lambda _, item: groups.append(item))
        for group in groups:
            group.attrs.pop("name", None)


def _archive(model, path):
    model.compile("adam", "mse")
    model.save(path.with_suffix(".keras"))
    path.with_suffix(".keras").rename(path)


def _old_model(model, path):
    model.save(path)


def _old_weights(model, path):
    """Write what tf.keras's save_weights wrote: the group of the weights alone."""
    model.save(path.with_name("model.h5"))
    with h5py.File(path.with_name("model.h5")) as file, h5py.File(path, "w") as alone:
        group = file["model_weights"]
        for name in group:
            group.copy(name, alone)
        alone.attrs["layer_names"] = np.array([n.encode() for n in group.attrs["layer_names"]])


every_format = pytest.mark.parametrize(
    "save", [_weights, _weights_without_names, _archive, _old_model, _old_weights]
)


@every_format
def test_mobilenet_of_keras_is_taken_over(save, network, mobilenet, tmp_path, caplog):
    save(network, tmp_path / "a.h5")
    with caplog.at_level(logging.INFO):
        found = read(tmp_path / "a.h5", mobilenet)
    assert_same(found, weights.get_tensors(network), body_of(mobilenet))
    skipped = [one.message for one in caplog.records if "skipped" in one.message]
    if network.layers[-1].name == "predictions":
        assert skipped[0].startswith(f"{FLAG}: skipped 2 tensors: ")
    else:
        assert not skipped


@every_format
def test_mobilenet_inside_a_users_model_is_taken_over(save, network, mobilenet, tmp_path):
    on_top = [keras.layers.Flatten(), keras.layers.Dense(5)]
    save(keras.Sequential([keras.Input((32, 32, 3)), network, *on_top]), tmp_path / "a.h5")
    assert_same(
        read(tmp_path / "a.h5", mobilenet), weights.get_tensors(network), body_of(mobilenet)
    )


def test_layers_that_keras_numbered_are_taken_over(tmp_path):
    """What was built before in the process takes the first numbers."""
    keras.layers.Conv2D(2, 3), keras.layers.BatchNormalization()
    network = keras.applications.NASNetMobile(
        weights=None, input_shape=(32, 32, 3), include_top=False
    )
    random = np.random.default_rng(0)
    network.set_weights([random.random(one.shape, np.float32) for one in network.weights])
    on_top = [keras.layers.Flatten(), keras.layers.Dense(2)]
    _weights(keras.Sequential([network, *on_top]), tmp_path / "a.h5")
    model = built("nasnet_mobile")
    assert_same(read(tmp_path / "a.h5", model), weights.get_tensors(network), body_of(model))


@every_format
def test_sequential_with_layers_of_the_same_names_is_taken_over(save, tmp_path, caplog):
    own = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, activation="relu", name="conv", bias_initializer="uniform"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(8, "relu", name="dense", bias_initializer="uniform"),
            keras.layers.Dense(5, name="predictions"),
        ]
    )
    save(own, tmp_path / "a.h5")
    with caplog.at_level(logging.INFO):
        assert_same(read(tmp_path / "a.h5", small_model()), weights.get_tensors(own), BODY)
    assert f"{FLAG}: skipped 2 tensors: " in caplog.text


def test_weights_of_keras_applications_are_taken_over(shared_data, mobilenet):
    name = catalog.find("mobilenet_v2_035").weights_file(224)
    known = built(image_size=224, weights="imagenet")
    found = read(shared_data / "keras_home" / "models" / name, mobilenet)
    assert_same(found, weights.get_tensors(known), body_of(mobilenet))


@pytest.mark.slow
def test_weights_of_keras_applications_with_their_classifier_are_taken_over(shared_data):
    folder, model = shared_data / "keras_home" / "models", built("mobilenet_025")
    with_top = read(folder / "mobilenet_2_5_224_tf.h5", model)
    assert_same(with_top, read(folder / "mobilenet_2_5_224_tf_no_top.h5", model), body_of(model))


def test_whole_numbers_of_our_own_file_must_fit(tmp_path, efficientnet):
    tensors = weights.get_tensors(efficientnet)
    origin = Origin("letters", ("a", "b", "c"), "efficientnet_b0", 32, 3)
    for count in (np.int32(7), np.uint64(2**63)):
        tensors["normalization/count"] = count
        weights.save(tmp_path / "own.h5", tensors, origin)
        file = WeightsFile(tmp_path / "own.h5", FLAG)
        if count == 7:
            assert file.read(efficientnet).tensors["normalization/count"] == 7
    with pytest.raises(DataError, match="'normalization/count' holds numbers too large for int64"):
        file.read(efficientnet)


def test_constants_of_the_preprocessing_stay_those_of_the_model(tmp_path, efficientnet):
    """EfficientNet's own weights files hold the deviation where Keras expects the variance."""
    model = efficientnet
    network = keras.applications.EfficientNetB0(include_top=False, weights=None)
    network.save_weights(tmp_path / "a.weights.h5")
    found = read(tmp_path / "a.weights.h5", model)
    assert set(found) == set(body_of(model))
    for name in ("mean", "variance", "count"):
        expected = weights.get_tensors(model)[f"normalization/{name}"]
        np.testing.assert_array_equal(found[f"normalization/{name}"], expected)
    assert found["normalization/variance"].max() < 0.06
    kernel = naming.named_weights(network)["stem_conv/kernel"].numpy()
    np.testing.assert_array_equal(found["stem_conv/kernel"], kernel)
