"""Tests of precision: what is chosen, what stays in float32, and that training in it learns."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from made import Records, setting, sweep

from tl_keras.config import Config, Training
from tl_keras.experiment import experiment
from tl_keras.methods import catalog
from tl_keras.models import building, precision
from tl_keras.models import catalog as models
from tl_keras.models.naming import leaves
from tl_keras.models.precision import choose, set_compute_dtype
from tl_keras.training.checkpoints import Checkpoints
from tl_keras.training.loop import Loop


@pytest.mark.parametrize(
    ("flags", "model", "training", "frozen"),
    [
        ({"amx_bf16", "avx512_bf16"}, "resnet50", "bfloat16", "bfloat16"),
        ({"amx_bf16", "avx512_bf16"}, "mobilenet_v2", "float32", "float32"),
        ({"avx512_bf16"}, "vgg16", "bfloat16", "bfloat16"),
        ({"avx512_bf16"}, "mobilenet_v2_035", "float32", "float32"),
        ({"avx2"}, "resnet50", "float32", "float32"),
        ({"amx_bf16"}, "small_cnn", "bfloat16", "bfloat16"),
    ],
)
def test_auto_knows_processors(monkeypatch, flags, model, training, frozen):
    monkeypatch.setattr(precision, "_processor_flags", lambda: flags)
    found = choose("auto", model)
    assert (found.training, found.frozen) == (training, frozen)
    assert found.reason


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ([(8, 0)], "bfloat16"),
        ([(9, 0), (7, 5)], "float16"),
        ([(6, 1)], "float32"),
        ([None], "float32"),
    ],
)
def test_auto_goes_by_the_oldest_gpu(monkeypatch, capabilities, expected):
    gpus = [tf.config.PhysicalDevice(f"GPU:{i}", "GPU") for i in range(len(capabilities))]
    details = {
        gpu.name: {"compute_capability": found} if found else {}
        for gpu, found in zip(gpus, capabilities, strict=True)
    }
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu.name])
    assert choose("auto", "mobilenet_v2").training == expected
    assert choose("auto", "small_cnn").training == "float32"


def test_a_flag_is_taken_at_its_word():
    assert choose("float16", "small_cnn")[:2] == ("float16", "float16")


def test_processor_flags_are_read_where_there_are_such(monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
    assert precision._processor_flags() == set()
    (tmp_path / "cpuinfo").write_text("model name\t: A\nflags\t\t: fpu amx_bf16 \nbugs\t: none\n")
    assert {"fpu", "amx_bf16"} <= precision._processor_flags()


def built(name: str) -> keras.Model:
    size = max(models.find(name).min_size, 32)
    return building.build(
        name, 3, image_size=size, input_channels=3, body_channels=3, dense_units=8, seed=1
    )


@pytest.mark.parametrize(
    "name",
    sweep(
        ["small_cnn", "mobilenet_025", "convnext_tiny", "densenet121"],
        fast=["small_cnn", "mobilenet_025"],
    ),
)
def test_model_in_bfloat16_is_nearly_the_same_function_and_can_be_brought_back(name):
    model = built(name)
    side = model.input.shape[1]
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    exact = model(images)
    config = model.get_config()
    set_compute_dtype(model, "bfloat16")
    found = model(images)
    assert {weight.dtype for weight in model.weights} <= {"float32", "uint32", "int64"}
    assert "bfloat16" in {layer.compute_dtype for layer in leaves(model)}
    for key, wanted in exact.items():
        assert found[key].dtype == tf.float32
        scale = np.abs(wanted).max()
        assert 0 < np.abs(found[key] - wanted).max() < 0.1 * scale
    set_compute_dtype(model, "float32")
    assert model.get_config() == config
    np.testing.assert_array_equal(model(images)["logits"], exact["logits"])


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_training_in_16_bits_learns_what_float32_does(tmp_path, name):
    losses = {}
    for each in ("float32", name):
        given = setting(tmp_path, trainable="all", steps=30, clip_norm=1.0, learning_rate=0.003)
        set_compute_dtype(given.model, each)
        prepared, records = catalog.METHODS["finetune"].prepare(given), Records()
        folder = tmp_path / each
        Loop(prepared.task, given.training, given.strategy, folder, records, "test").run()
        losses[each] = [values["train/loss"] for _, values in records]
    assert losses[name] != losses["float32"]
    np.testing.assert_allclose(losses[name], losses["float32"], rtol=0.05, atol=0.02)


def test_scale_of_the_loss_is_kept_in_checkpoints_and_from_stage_to_stage(tmp_path):
    given = setting(tmp_path, method="lp_ft", trainable="all", steps=20)
    set_compute_dtype(given.model, "float16")
    prepared = catalog.METHODS["lp_ft"].prepare(given)
    loop = Loop(prepared.task, given.training, given.strategy, tmp_path, Records(), "test")
    scale = loop._optimizer.dynamic_scale
    scale.assign(64.0)
    loop.run()
    assert float(scale) == 64.0
    # The second stage forgot the steps of the first.
    assert int(loop._optimizer.iterations) == 10
    scale.assign(1.0)
    assert Checkpoints(tmp_path / "checkpoints", loop._variables()).restore() is not None
    assert float(scale) == 64.0


def test_a_step_whose_gradients_leave_float16_is_passed_over(tmp_path):
    given = setting(tmp_path, trainable="all", steps=1)
    set_compute_dtype(given.model, "float16")
    prepared = catalog.METHODS["finetune"].prepare(given)
    loop = Loop(prepared.task, given.training, given.strategy, tmp_path, Records(), "test")
    before = given.model.get_weights()
    loop._optimizer.dynamic_scale.assign(2.0**120)
    loop.run()
    assert float(loop._optimizer.dynamic_scale) == 2.0**119
    for kept, weight in zip(before, given.model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, kept)


def test_experiment_in_bfloat16_leaves_a_model_in_float32(tmp_path):
    config = Config(
        precision="bfloat16",
        source="none",
        target="digits",
        method="scratch",
        workdir=str(tmp_path / "work"),
        training=Training(steps=3),
    )
    for flags in (config, dataclasses.replace(config, method="finetune", source="digits")):
        flags = dataclasses.replace(flags, workdir=f"{flags.workdir}-{flags.method}")
        report = experiment.run(flags).record
        assert report["precision_found"] == ["bfloat16", "bfloat16", "as --precision says"]
        arm = report["runs"][0]["arm"]
        model = keras.models.load_model(f"{flags.workdir}/{arm}-0/model.keras")
        assert {layer.dtype_policy.name for layer in leaves(model)} == {"float32"}
