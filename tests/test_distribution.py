"""Tests that a run is the same however many replicas share its batches."""

import dataclasses
import os
import tempfile
import types
from collections.abc import Iterable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Records, connected, pictures, setting

from tl_keras.config.augmentation import parse
from tl_keras.distributed import cluster, distribution, joining
from tl_keras.errors import UsageError
from tl_keras.methods import catalog, simclr
from tl_keras.models import building, operations, weights
from tl_keras.training.loop import Loop

# Adam makes much of gradients that are next to nothing, and with them of their last bits.
STEADY = {"optimizer": "sgd", "momentum": 0.9}
# What trains on 30 pictures in batches of 13: no batch divides them, and no number of replicas it.
CASES = {
    "small_cnn": {},
    "norms": {"model": "norm_net", **STEADY},
    # Thresholds and dropout behind norms tip over at some last bit, on any devices: here after ten
    # steps. One thread less does the same.
    "norms and dropout": {"model": "conv4", "steps": 8, "learning_rate": 1e-3, **STEADY},
    "joint": {"method": "joint:0.5", **STEADY},
    "penalties": {"penalty": "l2sp:0.1:0.1,feature_distance:0.5,bss:0.01,distill:0.5"},
    "features": {"method": "features"},
    "head first, mixtures": {"method": "lp_ft", "augment": "shift:0.2,mixup:0.4"},
    "unlabelled": {"pretrain": "simclr", "augment": "shift:0.2", **STEADY},
    "clipped, averaged": {"clip_norm": 0.5, "ema": 0.9, "learning_rate": 1e-3, **STEADY},
}


def built(network: str) -> keras.Model:
    """Return a model of the catalog for the pictures of `made`."""
    return building.build(
        network, 3, image_size=8, input_channels=1, body_channels=1, dense_units=8, seed=1
    )


def norm_net(synchronised: bool = True) -> keras.Model:
    """Return a small model of convolutions and norms, with nothing that a last bit can tip over."""
    image = keras.Input((8, 8, 1), dtype="uint8")
    maps = keras.layers.Rescaling(1 / 255)(image)
    for number, filters in enumerate((8, 16)):
        kernel = keras.initializers.GlorotUniform(seed=number)
        maps = keras.layers.Conv2D(filters, 3, use_bias=False, kernel_initializer=kernel)(maps)
        maps = keras.layers.BatchNormalization()(maps)
        maps = keras.layers.Activation("swish")(maps)
    features = keras.layers.GlobalAveragePooling2D(name="features")(maps)
    kernel = keras.initializers.GlorotUniform(seed=9)
    head = keras.layers.Dense(3, kernel_initializer=kernel, name="head")
    model = keras.Model(image, {"features": features, "logits": head(features)})
    operations.use_fused_ops(model, synchronised=synchronised)
    return model


def train(replicas: int, steps: int, names: Iterable[str]) -> dict:
    """Return what each case records, how much of the test it gets right, and what it ends with."""
    distribution.configure_devices(replicas)
    joining.join("auto", 60)
    strategy = distribution.make_strategy("auto", replicas)
    found = {"replicas": strategy.num_replicas_in_sync}
    for name, flags in ((name, CASES[name]) for name in names):
        folder = Path(tempfile.mkdtemp())
        flags = {"steps": steps, "batch_size": 13, "eval_steps": 20, **flags}
        augment, network = flags.pop("augment", "none"), flags.pop("model", "small_cnn")
        with strategy.scope():
            model = norm_net() if network == "norm_net" else built(network)
        given = dataclasses.replace(
            setting(folder, model=model, **flags), strategy=strategy, augmentation=parse(augment)
        )
        prepared = simclr if "pretrain" in flags else catalog.find(given.config.method)
        prepared, records = prepared.prepare(given), Records()
        Loop(prepared.task, given.training, strategy, folder, records, "test").run()
        right = 0
        if "pretrain" not in flags:
            test = pictures(47, seed=5)
            logits = prepared.predict(test)
            assert len(logits) == 47
            right = int((logits.argmax(axis=1) == test.labels).sum())
        tensors = weights.get_tensors(prepared.model)
        found[name] = records, right, {n: v.tolist() for n, v in tensors.items()}
    return found


def trained(
    steps: int, replicas: int = 0, processes: int = 1, names: Iterable[str] = CASES
) -> dict:
    """Return what `train` does, in processes of its own: devices cannot be divided twice."""
    call = f"t.train({replicas}, {steps}, {[*names]})"
    code = f"import json, test_distribution as t; print(json.dumps({call}))"
    return connected(*[code] * processes)[0]


@pytest.fixture(scope="module")
def steps(request) -> int:
    """How many steps each case takes."""
    return 200 if request.config.getoption("--torture") else 40


@pytest.fixture(scope="module")
def alone(steps) -> dict:
    """What one replica finds."""
    return trained(steps)


# Uneven shares, and another process; with --torture, more of each.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "processes", "is_torture"),
    [(3, 1, False), (0, 2, False), (2, 1, True), (4, 1, True), (0, 3, True)],
)
def test_replicas_that_share_batches_come_to_what_one_does(
    alone, steps, replicas, processes, is_torture, request
):
    if is_torture and not request.config.getoption("--torture"):
        pytest.skip("a part of the long form: make torture")
    shared = trained(steps, replicas, processes)
    assert alone["replicas"] == 1
    assert shared["replicas"] == max(replicas, processes)
    assert_same(alone, shared)


@pytest.mark.slow
def test_two_processes_come_to_what_one_does_on_one_model():
    alone, shared = (trained(10, processes=count, names=["small_cnn"]) for count in (1, 2))
    assert (alone["replicas"], shared["replicas"]) == (1, 2)
    assert_same(alone, shared)


def assert_same(alone: dict, shared: dict) -> None:
    """Hold what several replicas found to what one did, up to rounding."""
    assert alone.keys() == shared.keys()
    for name in alone.keys() - {"replicas"}:
        records, right, tensors = alone[name]
        same_records, same_right, same_tensors = shared[name]
        assert same_right == right
        for (step, values), (same_step, same) in zip(records, same_records, strict=True):
            assert step == same_step
            # Of pictures that look nearly the same, a last bit says which is the nearest.
            values.pop("train/contrastive_accuracy", None)
            same.pop("train/contrastive_accuracy", None)
            assert same == pytest.approx(values, rel=1e-5, abs=1e-6), (name, step)
        for tensor, value in tensors.items():
            away = np.linalg.norm(np.subtract(same_tensors[tensor], value))
            assert away <= 1e-5 * np.linalg.norm(value), (name, tensor)


def norms_of(synchronised: bool) -> dict:
    """Return what two replicas train: the kernels, and the statistics that each of them has."""
    distribution.configure_devices(2)
    strategy = distribution.make_strategy("auto", 2)
    with strategy.scope():
        model = norm_net(synchronised)
    folder = Path(tempfile.mkdtemp())
    given = setting(folder, model=model, steps=5, batch_size=13, **STEADY)
    task = catalog.METHODS["finetune"].prepare(dataclasses.replace(given, strategy=strategy)).task
    Loop(task, given.training, strategy, folder, Records(), "test").run()
    return {
        "kernel": model.weights[0].numpy().tolist(),
        "moving": [
            [one.numpy().tolist() for one in strategy.experimental_local_results(weight.value)]
            for weight in model.non_trainable_weights
        ],
    }


@pytest.mark.slow
def test_norms_of_their_own_shares_leave_one_models_statistics():
    code = "import json, test_distribution as t; print(json.dumps(t.norms_of({})))"
    together, apart = (connected(code.format(kind))[0] for kind in (True, False))
    assert not np.allclose(apart["kernel"], together["kernel"], rtol=1e-5)
    assert len(apart["moving"]) == 4
    for first, second in apart["moving"]:
        assert first == second
    assert not np.allclose(apart["moving"][-1], together["moving"][-1], rtol=1e-5)


# What is asked for, and what there is


def gpus(monkeypatch, count: int) -> None:
    """Pretend that there are so many GPUs."""
    found = [f"gpu {number}" for number in range(count)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
    devices = [types.SimpleNamespace(name=name) for name in found]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: devices)


@pytest.mark.parametrize(
    ("name", "replicas", "there", "expected"),
    [
        ("auto", 0, 0, 0),
        ("auto", 0, 1, 0),
        ("auto", 0, 2, 2),
        ("auto", 2, 3, 2),
        ("auto", 1, 3, 0),
        ("mirrored", 0, 3, 3),
        ("mirrored", 2, 3, 2),
        ("one_device", 0, 3, 0),
        ("multi_worker", 0, 0, 0),
        ("multi_worker", 0, 2, 2),
    ],
)
def test_replicas_are_on_as_many_gpus_as_are_asked_for(
    monkeypatch, name, replicas, there, expected
):
    gpus(monkeypatch, there)
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda devices: devices)
    found = distribution.make_strategy(name, replicas)
    if expected:
        assert found == [f"gpu {number}" for number in range(expected)]
    else:
        assert found is tf.distribute.get_strategy()


def test_gpus_that_are_not_there_are_named(monkeypatch):
    with pytest.raises(UsageError, match="--strategy=mirrored finds no GPU. Try it .* --repl"):
        distribution.make_strategy("mirrored")
    gpus(monkeypatch, 2)
    with pytest.raises(UsageError, match="--replicas=3 is more than the number of GPUs, 2"):
        distribution.make_strategy("auto", 3)


def test_tpu_that_is_not_there_is_told_of():
    with pytest.raises(UsageError, match="--strategy=tpu finds no TPU"):
        distribution.make_strategy("tpu")
    with pytest.raises(UsageError, match="--replicas=2 cannot be combined with --strategy=tpu"):
        distribution.make_strategy("tpu", 2)


def test_mirrored_replicas_are_of_no_cluster(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "nonsense")
    gpus(monkeypatch, 2)
    hidden = lambda devices: "TF_CONFIG" in os.environ  # noqa: E731
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", hidden)
    assert distribution.make_strategy("mirrored") is False
    assert os.environ["TF_CONFIG"] == "nonsense"


def test_processor_of_a_cluster_is_not_divided(monkeypatch):
    joined = cluster.Cluster(count=2)
    monkeypatch.setattr(cluster, "current", lambda: joined)
    for name in ("auto", "multi_worker"):
        assert distribution.make_strategy(name) is joined.strategy
        with pytest.raises(UsageError, match="--replicas=2 cannot be used in a cluster"):
            distribution.make_strategy(name, 2)


def test_memory_of_gpus_grows_as_it_is_needed(monkeypatch):
    gpus(monkeypatch, 2)
    calls = []
    grow = lambda *given: calls.append(given)  # noqa: E731
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    distribution.configure_devices(2)
    assert calls == [("gpu 0", True), ("gpu 1", True)]


def test_processor_is_not_divided_once_it_is_in_use():
    tf.zeros(1)
    with pytest.raises(
        UsageError, match="--replicas=2: TensorFlow is already initialized with 1 logi"
    ):
        distribution.configure_devices(2)
    distribution.configure_devices(0)


def test_each_replica_needs_an_example(tmp_path):
    given = setting(tmp_path, batch_size=3)
    task = catalog.METHODS["finetune"].prepare(given).task
    shared = types.SimpleNamespace(num_replicas_in_sync=4)
    with pytest.raises(UsageError, match="a batch of 3 images is too small for 4 replicas"):
        Loop(task, given.training, shared, tmp_path, Records(), "test")
