"""Which tensors of a file belong to which layer, by what Keras 2 and Keras 3 write of them."""

import pytest

from tl_keras.errors import DataError
from tl_keras.models import building, file_layers
from tl_keras.models.file_structure import Structure, TensorLocation

ANY = TensorLocation((3,), "<f4", 0)


@pytest.fixture(scope="module")
def conv4():
    """A model with layers of the same class, named by their author."""
    return building.build(
        "conv4", 3, image_size=8, input_channels=1, body_channels=1, dense_units=8, seed=0
    )


@pytest.fixture(scope="module")
def inception():
    """A model whose layers are numbered: conv2d to conv2d_93."""
    return building.build(
        "inception_v3", 3, image_size=75, input_channels=3, body_channels=3, dense_units=8
    )


def keras_3(groups: dict[str, str], variables: int = 1, nested: str = "") -> Structure:
    """Return the structure of a file of Keras 3 with groups, and names of layers where known."""
    tensors = {
        f"{nested}layers/{group}/vars/{number}": ANY
        for group in groups
        for number in reversed(range(variables))
    }
    texts = {f"{nested}layers/{g}/vars": {"name": [name]} for g, name in groups.items() if name}
    return Structure(tensors, texts, "")


def keras_2(layers: dict[str, list[str]], place: str = "") -> Structure:
    """Return the structure of a file of Keras 2 with layers and their weights' names."""
    texts = {place.rstrip("/"): {"layer_names": list(layers)}}
    tensors = {}
    for layer, names in layers.items():
        texts[f"{place}{layer}"] = {"weight_names": names}
        tensors |= {f"{place}{layer}/{name}": ANY for name in reversed(names)}
    return Structure(tensors, texts, "")


def test_tensors_with_names_of_their_own_have_no_layers(conv4):
    named = Structure({"conv1/kernel": ANY}, {"": {"tl_keras": ["{}"]}}, "{}")
    assert file_layers.find_layers(named, conv4) is None


def test_layers_of_keras_3_go_by_their_names(conv4):
    file = keras_3({"conv2d": "conv4", "conv2d_1": "conv1", "dense": "predictions"}, variables=12)
    layers = file_layers.find_layers(file, conv4)
    assert set(layers) == {"conv1", "conv4", "predictions"}
    # In the order of numbers, not of letters: 10 comes after 9.
    assert layers["conv1"] == [f"layers/conv2d_1/vars/{number}" for number in range(12)]


def test_layers_of_keras_3_without_names_go_by_their_class_and_order(conv4):
    groups = {f"conv2d_{n}" if n else "conv2d": "" for n in (10, 3, 2, 1, 0)}
    layers = file_layers.find_layers(keras_3({**groups, "dense": "", "dense_1": ""}), conv4)
    assert layers == {
        "conv1": ["layers/conv2d/vars/0"],
        "conv2": ["layers/conv2d_1/vars/0"],
        "conv3": ["layers/conv2d_2/vars/0"],
        "conv4": ["layers/conv2d_3/vars/0"],
        "dense": ["layers/dense/vars/0"],
    }


def test_layers_in_two_models_without_names_are_not_guessed(conv4):
    one = keras_3({"conv2d": "", "dense": ""}, nested="layers/functional/")
    other = keras_3({"conv2d": ""}, nested="layers/sequential/")
    both = Structure({**one.tensors, **other.tensors}, {}, "")
    assert set(file_layers.find_layers(both, conv4)) == {"dense"}
    assert set(file_layers.find_layers(one, conv4)) == {"conv1", "dense"}


def test_layers_of_the_same_name_are_not_guessed(conv4):
    file = keras_3({"conv2d": "conv1", "conv2d_1": "conv1", "conv2d_2": "conv2"})
    assert set(file_layers.find_layers(file, conv4)) == {"conv2"}
    twice = keras_2({"conv1": ["conv1/kernel:0"]})
    twice.texts[""]["layer_names"] *= 2
    assert file_layers.find_layers(twice, conv4) == {}


def test_layers_numbered_by_another_process_are_numbered_anew(inception):
    names = {f"conv2d_{n}": f"conv2d_{n + 94}" for n in range(94)}
    layers = file_layers.find_layers(keras_3({**names, "dense": "dense_7"}), inception)
    assert layers["conv2d"] == ["layers/conv2d_0/vars/0"]
    assert layers["conv2d_93"] == ["layers/conv2d_93/vars/0"]
    # The body has no layer of this class, so that its number means nothing.
    assert layers["dense"] == ["layers/dense/vars/0"]
    old = file_layers.find_layers(keras_2({name: ["a/b"] for name in names.values()}), inception)
    assert set(old) == set(layers) - {"dense"}


def test_numbers_of_any_length_are_read(inception):
    odd = keras_3({"conv2d_" + "9" * 5000: "conv2d_" + "8" * 5000, "conv2d": "conv2d_007"})
    odd.tensors["vars/" + "7" * 5000] = ANY
    assert len(file_layers.find_layers(odd, inception)) == 2


@pytest.mark.parametrize("place", ["", "model_weights/"])
def test_layers_of_keras_2_go_by_their_names_and_the_order_of_their_lists(place, conv4):
    names = ["conv1/gamma:0", "conv1/beta:0", "conv1/moving_mean:0"]
    file = keras_2({"input_1": [], "conv1": names}, place)
    layers = file_layers.find_layers(file, conv4)
    assert layers["conv1"] == [f"{place}conv1/{name}" for name in names]


def test_a_model_among_the_layers_of_keras_2_is_taken_apart(conv4):
    file = keras_2({"base": ["conv1/kernel:0", "conv2/kernel:0"], "dense": ["dense/kernel:0"]})
    layers = file_layers.find_layers(file, conv4)
    assert layers == {
        "conv1": ["base/conv1/kernel:0"],
        "conv2": ["base/conv2/kernel:0"],
        "dense": ["dense/dense/kernel:0"],
    }


def test_long_lists_of_keras_2_are_put_together(conv4):
    file = keras_2({"conv1": ["a/x"], "conv2": ["a/x"]})
    file.texts[""] = {"layer_names0": ["conv1"], "layer_names1": ["conv2"]}
    assert set(file_layers.find_layers(file, conv4)) == {"conv1", "conv2"}


def test_a_list_that_names_no_tensor_is_refused(conv4):
    file = keras_2({"conv1": ["a/x"]})
    file.tensors.clear()
    with pytest.raises(DataError, match=r"names 'a/x', and does not contain it"):
        file_layers.find_layers(file, conv4)
