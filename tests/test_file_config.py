"""Layers are found in a model's description, and a hostile one says no more than a few words."""

import json
import random

import keras
import pytest
from made import small_model

from tl_keras.models import file_config, file_preprocessing

L = keras.layers


def described(model: keras.Model):
    return json.loads(model.to_json())


def kinds(config) -> list[str]:
    nodes = file_config.read(config)
    assert not isinstance(nodes, str), nodes
    return [node.kind for node in nodes]


def shared_network(scale: float):
    """Return a model in which the second call of an inner model counts."""
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Rescaling(scale)])
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, L.Conv2D(2, 3)(inner(inner(inputs))))


def test_read_resolves_models_inside_of_models_and_splits_off_activations():
    inner_input = keras.Input((8, 8, 3))
    inner = keras.Model(inner_input, L.Conv2D(2, 3, activation="relu", name="a")(inner_input))
    outer = keras.Sequential([keras.Input((8, 8, 3)), inner, L.ReLU(6.0), L.Dense(2, "swish")])
    nodes = file_config.read(described(outer))
    assert [(node.kind, node.settings.get("activation")) for node in nodes] == [
        *[("InputLayer", None), ("Conv2D", None), ("Activation", "relu")],
        *[("Activation", "relu6"), ("Dense", None), ("Activation", "silu")],
    ]
    assert [node.inputs for node in nodes] == [[], [0], [1], [2], [3], [4]]


def test_read_follows_each_call_of_a_layer_that_is_shared():
    nodes = file_config.read(described(shared_network(0.5)))
    assert [node.kind for node in nodes] == ["InputLayer", "Rescaling", "Rescaling", "Conv2D"]
    found = file_preprocessing.find(nodes, lambda name: None)
    assert found.preprocessing.scale == (0.25,)


def keras_2(model: keras.Model):
    """Return a description as Keras 2 wrote it: calls as lists, and models' own call first."""
    config = described(model)
    layers = config["config"]["layers"]
    models = {one["name"] for one in layers if "layers" in one["config"]}
    for layer in layers:
        shape = layer["config"].pop("batch_shape", None)
        if shape:
            layer["config"]["batch_input_shape"] = shape
        calls = []
        for call in layer["inbound_nodes"]:
            histories = [one["config"]["keras_history"] for one in call["args"]]
            calls.append([[n, at + (n in models), out, {}] for n, at, out in histories])
        layer["inbound_nodes"] = calls
        if "layers" in layer["config"]:
            layer["config"] = keras_2_sequential(layer["config"])
    return config


def keras_2_sequential(config):
    return {**config, "layers": config["layers"]}


def test_read_takes_descriptions_of_keras_2_too():
    model = shared_network(0.5)
    expected = file_config.read(described(model))
    assert file_config.read(keras_2(model)) == expected


@pytest.mark.parametrize(
    "config",
    [
        *(None, 3, [], {}, {"class_name": "Functional"}, {"class_name": "Model", "config": []}),
        {"class_name": "Sequential", "config": {"layers": [3]}},
        {"class_name": "Sequential", "config": {"layers": {"a": 1}}},
        {"class_name": "Functional", "config": {"layers": [], "input_layers": [["a"]]}},
    ],
)
def test_read_says_that_other_descriptions_are_not_understood(config):
    found = file_config.read(config)
    assert isinstance(found, (str, list))
    assert found == [] or (isinstance(found, str) and len(found) < 200 and "\n" not in found)


def test_read_refuses_layers_that_take_each_other():
    config = described(shared_network(0.5))
    layer = config["config"]["layers"][1]
    layer["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = [layer["name"], 1, 0]
    assert file_config.read(config) == "its layers have inputs that no layer produces"


def test_read_refuses_models_that_multiply():
    """Thirty models, each of which calls the next one twice, would have a billion layers."""
    part = {"class_name": "Rescaling", "config": {"name": "a", "scale": 2.0}}
    for depth in range(30):
        layers = [{"class_name": "InputLayer", "config": {"batch_shape": [None, 8, 8, 3]}}]
        part = {
            "class_name": "Sequential",
            "config": {"name": f"m{depth}", "layers": [*layers, part, part]},
        }
    assert "nested too deeply" in file_config.read(part)
    for _ in range(11):
        part = part["config"]["layers"][1]
    assert "more than 20,000 layers" in file_config.read(part)


@pytest.mark.parametrize(
    "value, expected",
    [
        (1.5, 1.5),
        (10**400, {"unknown": "a number"}),
        (float("nan"), {"unknown": "a number"}),
        (float("inf"), {"unknown": "a number"}),
        ([1] * 65, {"unknown": "a long list"}),
        ([[1] * 32] * 2, [[1] * 32] * 2),
        ({"class_name": "__tensor__", "config": {"value": [1, 2]}}, [1, 2]),
        ({"class_name": "__slice__", "config": {"step": -1}}, {"slice": [None, None, -1]}),
        ({"class_name": "Anything"}, {"unknown": "an object"}),
    ],
)
def test_simple_gives_small_constants_alone(value, expected):
    assert file_config.simplify(value) == expected


def test_damaged_descriptions_are_read_or_refused_and_raise_nothing(rounds):
    """Everything between the parser and the map of pixels stands whatever JSON may say."""
    inputs = keras.Input((8, 8, 3))
    x = (255 - 2.0 * inputs[..., ::-1]) / 3
    x = L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0])(x)
    x = L.Concatenate()([x[..., :1], x[..., 1:]])
    models = [small_model(), shared_network(0.5), keras.Model(inputs, L.Conv2D(2, 3)(x))]
    texts = [json.dumps(described(model)) for model in models]
    generator, outcomes = random.Random(0), set()
    values = [None, True, -1, 0, 10**400, 1e308, "a", [], {}, [[]], [None], {"class_name": "a"}]

    def spoil(part, chance):
        if generator.random() < chance:
            return generator.choice(values)
        if isinstance(part, dict):
            return {key: spoil(value, chance) for key, value in part.items()}
        return [spoil(one, chance) for one in part] if isinstance(part, list) else part

    for number in range(rounds(20, 3000, 50_000)):
        config = spoil(json.loads(texts[number % 3]), generator.choice([0.002, 0.01, 0.05]))
        nodes = file_config.read(config)
        outcomes.add(type(nodes))
        if isinstance(nodes, list):
            again = [file_config.Node(*one) for one in json.loads(json.dumps(nodes))]
            assert again == nodes
            file_preprocessing.find(again, lambda name: [[1.0], [1.0]])
    assert outcomes == {str, list}
