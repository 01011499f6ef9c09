import math
import subprocess
import sys

import keras
import numpy as np
import pytest
from made import sweep

from tl_keras.errors import UsageError
from tl_keras.models import catalog
from tl_keras.models.building import INITIALIZERS, build, named_weights

# Of the body, without head, for colour images of the model's own size: the published counts.
PARAMETERS = {
    "small_cnn": 693_248,
    "conv4": 468_064,
    "resnet50": 23_587_712,
    "resnet101": 42_658_176,
    "resnet152": 58_370_944,
    "resnet50_v2": 23_564_800,
    "resnet101_v2": 42_626_560,
    "resnet152_v2": 58_331_648,
    "vgg16": 14_714_688,
    "vgg19": 20_024_384,
    "xception": 20_861_480,
    "inception_v3": 21_802_784,
    "inception_resnet_v2": 54_336_736,
    "mobilenet": 3_228_864,
    "mobilenet_025": 218_544,
    "mobilenet_v2": 2_257_984,
    "mobilenet_v2_035": 410_208,
    "mobilenet_v3_small": 939_120,
    "mobilenet_v3_large": 2_996_352,
    "densenet121": 7_037_504,
    "densenet169": 12_642_880,
    "densenet201": 18_321_984,
    "nasnet_mobile": 4_269_716,
    "nasnet_large": 84_916_818,
    "efficientnet_b0": 4_049_571,
    "efficientnet_b1": 6_575_239,
    "efficientnet_b2": 7_768_569,
    "efficientnet_b3": 10_783_535,
    "efficientnet_b4": 17_673_823,
    "efficientnet_b5": 28_513_527,
    "efficientnet_b6": 40_960_143,
    "efficientnet_b7": 64_097_687,
    "efficientnet_v2_b0": 5_919_312,
    "efficientnet_v2_b1": 6_931_124,
    "efficientnet_v2_b2": 8_769_374,
    "efficientnet_v2_b3": 12_930_622,
    "efficientnet_v2_s": 20_331_360,
    "efficientnet_v2_m": 53_150_388,
    "efficientnet_v2_l": 117_746_848,
    "convnext_tiny": 27_820_128,
    "convnext_small": 49_454_688,
    "convnext_base": 87_566_464,
    "convnext_large": 196_230_336,
    "convnext_xlarge": 348_147_968,
}


@pytest.fixture
def shaped():
    """Return a builder of models whose weights have shapes and no memory: giants in a second."""

    def build_shaped(name, size):
        with keras.StatelessScope(initialize_variables=False):
            return build(
                name, 10, image_size=size, input_channels=3, body_channels=3, dense_units=128
            )

    yield build_shaped
    # Keras remembers the weights it owes values to, and would fill them in at the next occasion.
    keras.utils.clear_session()


def test_catalog_is_all_tested():
    assert set(PARAMETERS) == set(catalog.MODELS)


def test_catalog_has_every_application():
    applications = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {entry.function for entry in catalog.MODELS.values()} == applications | {""}


@pytest.mark.parametrize("name", sweep(catalog.MODELS))
def test_build_has_the_published_number_of_parameters(name, shaped):
    model = shaped(name, catalog.find(name).image_size)
    tensors = named_weights(model)
    head = 10 * (model.output["features"].shape[-1] + 1)
    assert sum(math.prod(one.shape) for one in tensors.values()) == PARAMETERS[name] + head
    assert len(tensors) == len(model.weights)
    # What the seed draws is all that is drawn: a tensor of rank 2 is never a constant.
    drawn = {one.name for one in tensors.values() if len(one.shape) > 1}
    assert drawn <= set(INITIALIZERS)


@pytest.mark.parametrize(
    "name",
    sweep(
        ["small_cnn", "conv4", "xception", "inception_v3", "nasnet_mobile", "mobilenet_v3_small"],
        fast=["small_cnn", "xception", "mobilenet_v3_small"],
    ),
)
def test_build_accepts_the_smallest_size(name, shaped):
    size = catalog.find(name).min_size
    assert shaped(name, size).input_shape == (None, size, size, 3)
    with pytest.raises(UsageError, match=rf"--image_size={size - 1} is below the {size} pixels"):
        shaped(name, size - 1)


def make_conv4(channels=1, seed=1, size=28):
    sizes = {"image_size": size, "input_channels": channels, "body_channels": 1, "dense_units": 128}
    return build("conv4", 10, **sizes, seed=seed)


def test_conv4_has_four_normalised_convolutions_and_a_normalised_dense_layer():
    model = make_conv4()
    shapes = {name: tuple(one.shape) for name, one in named_weights(model).items()}
    kernels = {name: shape for name, shape in shapes.items() if name.endswith("kernel")}
    assert kernels == {
        "conv1/kernel": (3, 3, 1, 32),
        "conv2/kernel": (3, 3, 32, 32),
        "conv3/kernel": (3, 3, 32, 64),
        "conv4/kernel": (3, 3, 64, 64),
        "dense/kernel": (7 * 7 * 64, 128),
        "head/kernel": (128, 10),
    }
    assert {name for name in shapes if name.endswith("bias")} == {"head/bias"}
    for name, shape in kernels.items():
        if name != "head/kernel":
            assert shapes[f"{name.removesuffix('/kernel')}_bn/moving_mean"] == shape[-1:]
    assert [one.rate for one in model.layers if isinstance(one, keras.layers.Dropout)] == [
        *(0.25, 0.25, 0.5)
    ]


def test_conv4_sees_grey_the_same_in_one_channel_and_in_three():
    grey = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 1), dtype=np.uint8)
    one, three = make_conv4(1), make_conv4(3)
    found = three(np.repeat(grey, 3, axis=-1), training=False)["logits"]
    np.testing.assert_allclose(found, one(grey, training=False)["logits"], atol=1e-4)


def test_conv4_has_the_weights_and_the_dropout_of_its_seed():
    images = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 1), dtype=np.uint8)
    first, again, other = (make_conv4(size=12, seed=seed) for seed in (1, 1, 2))
    for wanted, same in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(wanted, same)
    kernels = [named_weights(one)["dense/kernel"].numpy() for one in (first, other)]
    assert not np.allclose(*kernels)
    outputs = [one(images, training=True)["features"] for one in (first, again)]
    np.testing.assert_array_equal(*outputs)
    assert not np.allclose(outputs[0], first(images, training=False)["features"])


def test_find_suggests_the_nearest_name():
    with pytest.raises(UsageError, match="--model=rasnet50 is not known: did you mean resnet50?"):
        catalog.find("rasnet50")
    with pytest.raises(UsageError, match="not known: Choose one of small_cnn, conv4"):
        catalog.find("qqqq")


def test_catalog_is_light_to_import():
    code = "import sys, tl_keras.models.catalog; print({'keras', 'numpy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
