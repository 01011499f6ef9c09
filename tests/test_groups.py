"""Layer groups: what they are, that they are all of the body, and the maps between them."""

import itertools

import keras
import numpy as np
import pytest
from made import sweep

from tl_keras.models.building import build, named_body
from tl_keras.models.feature_maps import find_feature_maps
from tl_keras.models.groups import find_groups, steps_from_head

# Of each family the smallest, at the size in pixels that it takes at least, or at 32.
ARCHITECTURES = {
    "small_cnn": 12,
    "conv4": 12,
    "vgg16": 32,
    "resnet50": 32,
    "mobilenet_025": 32,
    "mobilenet_v2_035": 32,
    "mobilenet_v3_small": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "convnext_tiny": 32,
    "inception_v3": 75,
    "nasnet_mobile": 32,
}
# NASNet's cells take what the last two cells made: no map is all there is.
WITHOUT_MAPS = {"nasnet_mobile": 3, "small_cnn": 1, "conv4": 1}


def make(name, size=None):
    size = size or ARCHITECTURES[name]
    settings = {"input_channels": 3, "body_channels": 3, "dense_units": 8, "seed": 1}
    return build(name, 3, image_size=size, **settings)


@pytest.fixture(scope="module", params=sweep(ARCHITECTURES))
def model(request):
    return make(request.param)


def prefixes(grouped):
    """Return the words that the names of each group begin with."""
    return [{name.partition("_")[0] for name in group} for group in grouped]


def test_groups_are_a_partition_of_the_body_in_its_order(model):
    grouped = find_groups(model)
    assert len(grouped) >= 2 and all(grouped)
    assert list(itertools.chain(*grouped)) == list(named_body(model))


def test_groups_of_applications_are_none_of_normalisation_alone(model):
    kernels = (keras.layers.Conv2D, keras.layers.SeparableConv2D, keras.layers.Dense)
    kernels = (*kernels, keras.layers.DepthwiseConv2D)
    for group in find_groups(model):
        assert any(isinstance(named_body(model)[name], kernels) for name in group), group


def test_feature_maps_are_what_all_behind_them_is_computed_of(model):
    maps = find_feature_maps(model)
    assert len(find_groups(model)) - len(maps) == WITHOUT_MAPS.get(model.name, 0)
    assert set(maps) <= {group[-1] for group in find_groups(model)}
    size = ARCHITECTURES[model.name]
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    tensors = [*maps.values(), model.output["features"]]
    found = keras.Model(model.input, tensors)(images, training=False)
    for (start, end), (value, wanted) in zip(
        itertools.pairwise(tensors),
        itertools.pairwise(np.asarray(one) for one in found),
        strict=True,
    ):
        again = keras.Model(start, end)(value, training=False)
        assert wanted.std() > 0
        np.testing.assert_allclose(again, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())


def test_feature_maps_are_of_falling_resolution(model):
    sides = [maps.shape[1] for maps in find_feature_maps(model).values()]
    assert sides == sorted(sides, reverse=True)
    assert len(set(sides)) == len(sides) or model.name == "conv4"


def test_groups_of_resnet50_are_its_stages():
    model = make("resnet50", 64)
    assert prefixes(find_groups(model)) == [{f"conv{number}"} for number in range(1, 6)]
    assert [maps is model.get_layer(name).output for name, maps in zip(
        ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out",
         "conv5_block3_out"], find_feature_maps(model).values(), strict=True,
    )] == [True] * 5  # fmt: skip


def test_groups_of_vgg16_are_its_blocks():
    model = make("vgg16")
    assert prefixes(find_groups(model)) == [{f"block{number}"} for number in range(1, 6)]
    last = ["block1_conv2", "block2_conv2", "block3_conv3", "block4_conv3", "block5_conv3"]
    assert list(find_feature_maps(model)) == last
    assert all(find_feature_maps(model)[name] is model.get_layer(name).output for name in last)


def test_groups_of_our_own_models_are_their_layers_each_with_its_normalisation():
    assert find_groups(make("small_cnn")) == [["conv"], ["dense"]]
    conv4 = make("conv4")
    names = ["conv1", "conv2", "conv3", "conv4", "dense"]
    assert find_groups(conv4) == [[name, f"{name}_bn"] for name in names]
    for name in names[:-1]:
        assert find_feature_maps(conv4)[f"{name}_bn"] is conv4.get_layer(f"{name}_relu").output


def test_steps_from_head_count_groups():
    assert steps_from_head(make("small_cnn")) == {"conv": 2, "dense": 1}
    steps = steps_from_head(make("vgg16"))
    assert steps["block5_conv1"] == steps["block5_conv3"] == 1 and steps["block1_conv1"] == 5
