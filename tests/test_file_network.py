"""Files whose weights fit and whose network is another one are refused, by the layer's name."""

import keras
import numpy as np
import pytest
from made import sweep

from tl_keras.errors import DataError
from tl_keras.models import building, catalog, file_network, preprocessing
from tl_keras.models.weights_file import WeightsFile

L = keras.layers
FLAG = "--source_weights=a.keras"


def built(name: str, size: int = 32, channels: int = 3) -> keras.Model:
    return building.build(
        name, 3, image_size=size, input_channels=channels, body_channels=channels, dense_units=8
    )


@pytest.fixture(scope="module")
def mobilenet():
    """Our model."""
    return built("mobilenet_025")


def cloned(network: keras.Model, change) -> keras.Model:
    """Return a network with layers that `change` gives instead of its own."""
    return keras.models.clone_model(network, clone_function=change)


def altered(layer: keras.Layer, **settings) -> keras.Layer:
    return type(layer).from_config({**layer.get_config(), **settings})


def refusal(network: keras.Model, model: keras.Model, path) -> str:
    network.save(path)
    with pytest.raises(DataError) as caught:
        WeightsFile(path, FLAG).read(model)
    told = str(caught.value)
    assert told.startswith(FLAG) and "\n" not in told and len(told) < 600
    return told


def stock(name: str = "MobileNet", **arguments) -> keras.Model:
    arguments = {"weights": None, "include_top": False, "input_shape": (32, 32, 3), **arguments}
    return getattr(keras.applications, name)(**arguments)


@pytest.mark.parametrize("ending", sweep(["a.keras", "a.h5"], fast=["a.keras"]))
@pytest.mark.parametrize("inside", sweep([False, True], fast=[True]))
@pytest.mark.parametrize(
    "layer, change, words",
    [
        (
            "conv_pw_3_relu",
            lambda layer: L.LeakyReLU(name=layer.name),
            "'conv_pw_3_relu' as LeakyReLU with negative_slope 0.3, and --model=mobilenet_025 has"
            " 'conv_pw_3_relu' as Activation with activation 'relu6'",
        ),
        ("conv_pw_3_relu", lambda layer: altered(layer, max_value=None), "activation 'relu'"),
        ("conv1", lambda layer: altered(layer, strides=(1, 1)), "'conv1' as Conv2D with strides"),
        ("conv_dw_1", lambda layer: altered(layer, padding="valid"), "D with padding 'valid'"),
        (
            "conv_dw_1",
            lambda layer: altered(layer, dilation_rate=(2, 2)),
            "'conv_dw_1' as DepthwiseConv2D with dilation_rate [2, 2]",
        ),
        (
            "conv_pw_2_bn",
            lambda layer: altered(layer, epsilon=0.01),
            "'conv_pw_2_bn' as BatchNormalization with epsilon 0.01, and --model=mobilenet_025 has"
            " 'conv_pw_2_bn' as BatchNormalization with epsilon 0.001",
        ),
    ],
)
def test_layer_that_computes_otherwise_is_refused(
    layer, change, words, inside, ending, mobilenet, tmp_path
):
    network = cloned(
        stock(alpha=0.25, input_shape=(64, 64, 3)),
        lambda one: change(one) if one.name == layer else altered(one),
    )
    if inside:
        network = keras.Sequential(
            [keras.Input((64, 64, 3)), network, L.GlobalAveragePooling2D(), L.Dense(2)]
        )
    told = refusal(network, mobilenet, tmp_path / ending)
    assert words in told and "Choose the --model that it was saved from" in told


def test_resnet_with_another_activation_is_refused_whatever_its_name(tmp_path):
    def change(layer):
        if isinstance(layer, L.Activation) and layer.name == "conv2_block2_1_relu":
            return L.Activation("gelu", name="other")
        return altered(layer)

    told = refusal(cloned(stock("ResNet50"), change), built("resnet50"), tmp_path / "a.keras")
    assert "'other' as Activation with activation 'gelu', and --model=resnet50 has" in told
    assert "'conv2_block2_1_relu' as Activation with activation 'relu'" in told


@pytest.mark.parametrize(
    "pooling, words",
    [
        (L.GlobalMaxPooling2D, "a GlobalMaxPooling2D, and --model=mobilenet_025 by"),
        (L.Flatten, "a Flatten, and --model=mobilenet_025 by a GlobalAveragePooling2D"),
    ],
)
def test_other_pooling_is_refused(pooling, words, mobilenet, tmp_path):
    network = stock(alpha=0.25, input_shape=(64, 64, 3))
    for size in (64, 32):
        network = stock(alpha=0.25, input_shape=(size, size, 3))
        model = keras.Sequential([keras.Input((size, size, 3)), network, pooling(), L.Dense(2)])
        if size == 32 and pooling is L.Flatten:
            # Of one pixel the list is the average.
            model.save(tmp_path / "b.keras")
            assert WeightsFile(tmp_path / "b.keras", FLAG).read(mobilenet).tensors
        else:
            assert words in refusal(model, mobilenet, tmp_path / "a.keras")


def test_pooling_inside_of_the_network_is_looked_at(mobilenet, tmp_path):
    told = refusal(stock(alpha=0.25, pooling="max"), mobilenet, tmp_path / "a.keras")
    assert "a GlobalMaxPooling2D" in told
    stock(alpha=0.25, pooling="avg").save(tmp_path / "b.keras")
    assert WeightsFile(tmp_path / "b.keras", FLAG).read(mobilenet).tensors


def test_norm_before_the_pooling_is_another_network_than_one_after_it(tmp_path):
    """ConvNeXt without its own pooling normalises each place of the map."""
    told = refusal(stock("ConvNeXtTiny"), built("convnext_tiny"), tmp_path / "a.keras")
    assert "as LayerNormalization" in told and "as GlobalAveragePooling2D" in told


def test_order_of_layers_is_looked_at(tmp_path):
    def network(swapped: bool):
        between = [L.MaxPooling2D(), L.ReLU(name="relu")]
        return keras.Sequential(
            [
                *(keras.Input((8, 8, 1)), L.Conv2D(32, 3, name="conv")),
                *(between if swapped else between[::-1]),
                *(L.Flatten(), L.Dense(8, "relu", name="dense"), L.Dense(3)),
            ]
        )

    model = built("small_cnn", 8, 1)
    network(swapped=False).save(tmp_path / "b.keras")
    assert WeightsFile(tmp_path / "b.keras", FLAG).read(model).tensors
    assert "Activation with activation 'relu'" in refusal(
        network(swapped=True), model, tmp_path / "a.keras"
    )


@pytest.mark.parametrize(
    "name, arguments",
    [
        pytest.param("nasnet_mobile", {}, marks=pytest.mark.slow),
        pytest.param("inception_v3", {"input_shape": (75, 75, 3)}, marks=pytest.mark.slow),
        ("mobilenet_v3_small", {"include_top": True, "classifier_activation": None}),
        pytest.param("convnext_tiny", {"pooling": "avg"}, marks=pytest.mark.slow),
        pytest.param("densenet121", {"include_top": True}, marks=pytest.mark.slow),
        pytest.param("xception", {"input_shape": (71, 71, 3)}, marks=pytest.mark.slow),
    ],
)
def test_networks_of_keras_are_their_own_whatever_was_built_before(name, arguments, tmp_path):
    """Layers of these have numbers for names, or are called alike in parallel branches."""
    size = arguments.get("input_shape", (32, 32, 3))[0]
    network = stock(catalog.find(name).function, **arguments)
    network.save(tmp_path / "a.keras")
    model = built(name, size)
    assert WeightsFile(tmp_path / "a.keras", FLAG).read(model).tensors


@pytest.mark.parametrize(
    "name",
    sweep(
        [
            *("small_cnn", "mobilenet_025", "resnet50", "densenet121", "mobilenet_v3_small"),
            *("efficientnet_b0", "efficientnet_v2_b0", "efficientnet_v2_s", "convnext_tiny"),
        ],
        fast=["small_cnn", "mobilenet_025", "resnet50"],
    ),
)
def test_preprocessing_of_the_catalog_is_what_its_models_do(name):
    channels = 1 if name == "small_cnn" else 3
    found = file_network.find_preprocessing(built(name, 32, channels)).preprocessing
    assert found.is_equivalent(preprocessing.of_entry(catalog.find(name)))
    other = preprocessing.Preprocessing((0.02,), (1.0,))
    model = building.build(
        name,
        3,
        image_size=32,
        input_channels=channels,
        body_channels=channels,
        dense_units=8,
        preprocessing=other,
    )
    assert file_network.find_preprocessing(model).preprocessing.is_equivalent(other)
    np.testing.assert_array_equal(found.is_equivalent(other), False)
