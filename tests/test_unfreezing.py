"""Stages of what trains, and layers of different speed, through the real loop."""

import dataclasses

import numpy as np
import pytest
from made import Records, setting, small_model

from tl_keras.config.pace import Pace
from tl_keras.errors import UsageError
from tl_keras.methods import catalog, unfreezing
from tl_keras.models import building, groups, weights
from tl_keras.training.loop import Loop


class Snapshots(Records):
    """Keeps the weights at every step that is recorded, too."""

    def __init__(self, given, task):
        super().__init__()
        self.variables = building.named_weights(given.model)
        # The source's head of `joint` is no part of the model.
        own = {id(variable) for variable in self.variables.values()}
        for variable in task.variables:
            if id(variable) not in own:
                self.variables[f"source_head/{variable.name}"] = variable
        self.at = {0: self.now()}

    def now(self):
        """Return a copy of all weights by name."""
        return {name: variable.numpy() for name, variable in self.variables.items()}

    def write(self, step, values):
        """Keep the weights at `step`."""
        super().write(step, values)
        self.at[step] = self.now()


class Begins(Records):
    """Keeps the steps from which it was resumed."""

    def __init__(self):
        super().__init__()
        self.begins = []

    def resume(self, records):
        """Keep the step of the last of `records`."""
        self.begins.append(records[-1][0] if records else 0)
        super().resume(records)


def prepare(folder, model=None, **flags):
    flags = {"steps": 12, "eval_steps": 1, "method": "finetune"} | flags
    given = setting(folder, model=model, **flags)
    return given, catalog.find(given.config.method).prepare(given).task


def run(given, task, folder, records):
    pace = Pace(steps=1)
    return Loop(task, given.training, given.strategy, folder, records, "test", pace).run()


def watched_run(folder, model=None, **flags):
    given, task = prepare(folder, model, **flags)
    records = Snapshots(given, task)
    run(given, task, folder, records)
    return records


def conv4(seed=1):
    sizes = {"image_size": 8, "input_channels": 1, "body_channels": 1, "dense_units": 8}
    return building.build("conv4", 3, **sizes, seed=seed)


def moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


CONV4 = ["conv1", "conv2", "conv3", "conv4", "dense"]


@pytest.mark.parametrize(
    ("flags", "starts", "thawed"),
    [
        pytest.param({"method": "lp_ft"}, [0, 6], [[], CONV4], marks=pytest.mark.slow),
        ({"unfreeze": "lp_ft:0.25"}, [0, 3], [[], CONV4]),
        (
            {"method": "gradual", "trainable": "conv4|dense"},
            [0, 4, 8],
            [[], ["dense"], ["conv4", "dense"]],
        ),
        ({"unfreeze": "gradual:0.5", "trainable": "conv1"}, [0, 6], [[], ["conv1"]]),
    ],
)
def test_stages_move_what_has_thawed_and_keep_the_rest_to_the_bit(tmp_path, flags, starts, thawed):
    at = watched_run(tmp_path, conv4(), **flags).at
    for start, end, layers in zip(starts, [*starts[1:], 12], thawed, strict=True):
        layers = {*layers, *(f"{name}_bn" for name in layers), "head"}
        trains = {name for name in at[0] if name.rpartition("/")[0] in layers}
        # Statistics are among them: of what is frozen they stay, of what has thawed they follow.
        assert any("moving_mean" in name for name in trains) == (len(layers) > 1)
        for step in range(start, end):
            assert moved(at[step], at[step + 1]) <= trains
        assert moved(at[start], at[end]) == trains


def test_stages_are_recorded_by_number(tmp_path):
    records = watched_run(tmp_path / "staged", unfreeze="gradual:0.25:0.5")
    stages = {step: values["train/stage"] for step, values in records}
    assert stages == {s: 1.0 if s <= 3 else 2.0 if s <= 9 else 3.0 for s in range(1, 13)}
    assert all("train/stage" not in values for _, values in watched_run(tmp_path / "plain"))


def test_stages_each_begin_with_a_fresh_optimizer_and_the_rate_of_the_schedule(tmp_path):
    records = watched_run(tmp_path, unfreeze="gradual", schedule="cosine")
    rates = {step: values["train/learning_rate"] for step, values in records}
    for step, rate in rates.items():
        assert rate == pytest.approx(0.005 * (1 + np.cos(np.pi * (step - 1) / 12)), rel=1e-5)
    for start, layer in ((0, "head"), (4, "dense"), (4, "head"), (8, "conv"), (8, "head")):
        name = f"{layer}/bias"
        ways = np.abs(records.at[start + 1][name] - records.at[start][name])
        # Adam's first step is the learning rate: its moments are corrected for their start.
        assert ways.max() == pytest.approx(rates[start + 1], rel=1e-3), (start, name)
    # And only its first: what stood still on the way there would not.
    later = np.abs(records.at[6]["head/bias"] - records.at[5]["head/bias"])
    assert later.max() < 0.999 * rates[6]


@pytest.mark.parametrize(("steps", "flag"), [(1, "lp_ft"), (2, "gradual"), (4, "lp_ft:0.9")])
def test_last_stage_has_a_step_however_short_the_run(tmp_path, steps, flag):
    records = watched_run(tmp_path, unfreeze=flag, steps=steps)
    last = {"lp_ft": 2, "gradual": 3}[flag.partition(":")[0]]
    assert records[-1][0] == steps and records[-1][1]["train/stage"] == last
    assert moved(records.at[steps - 1], records.at[steps]) == set(records.at[0])


STAGED = {"unfreeze": "gradual", "schedule": "cosine", "eval_steps": 5}


# Each kill leaves the checkpoint before it, and the next run begins there: exactly at the start of
# a stage (4, 8), inside the second (6) and the last (10).
@pytest.mark.parametrize(
    ("flags", "kills"),
    [
        pytest.param(STAGED | {"penalty": "distill"}, [5, 7, 9, 11], marks=pytest.mark.slow),
        (STAGED | {"method": "joint"}, [5, 9]),
    ],
)
def test_staged_run_continues_to_the_bit_wherever_it_is_killed(tmp_path, flags, kills):
    given, task = prepare(tmp_path, **flags)
    expected = Records()
    run(given, task, tmp_path / "whole", expected)
    records = Begins()
    for records.fail_at in kills:
        with pytest.raises(KeyboardInterrupt):
            run(*prepare(tmp_path, **flags), tmp_path / "killed", records)
    records.fail_at = None
    given_again, task_again = prepare(tmp_path, **flags)
    run(given_again, task_again, tmp_path / "killed", records)
    assert records.begins == ([0, 4, 6, 8, 10] if len(kills) == 4 else [0, 4, 8])
    assert records == expected
    for variable, again in zip(task.variables, task_again.variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), again.numpy())
    digests = [weights.hash_tensors(weights.get_tensors(one.model)) for one in (given, given_again)]
    assert digests[0] == digests[1]


def test_early_stopping_ends_no_stage_but_the_last(tmp_path):
    # Nothing ever gets better than at the first look.
    slow = {"optimizer": "sgd", "learning_rate": 1e-12, "momentum": 0.0, "early_stopping": 1}
    given, task = prepare(tmp_path, unfreeze="gradual", **slow)
    assert run(given, task, tmp_path / "staged", Records()).steps == 9
    given, task = prepare(tmp_path, **slow)
    assert run(given, task, tmp_path / "plain", Records()).steps == 2


@pytest.mark.parametrize(
    ("flags", "starts"),
    [
        ({}, [0]),
        ({"method": "lp_ft"}, [0, 0.5]),
        ({"method": "lp_ft", "unfreeze": "lp_ft:0.3"}, [0, 0.3]),
        ({"unfreeze": "lp_ft:0"}, [0, 0]),
        ({"unfreeze": "gradual"}, [0, 1 / 3, 2 / 3]),
        ({"unfreeze": "gradual:0.2"}, [0, 0.2, 0.6]),
        ({"method": "gradual", "unfreeze": "gradual:0.2:0.1"}, [0, 0.2, 0.3]),
    ],
)
def test_stages_are_as_long_as_said_and_share_the_rest(tmp_path, flags, starts):
    _, task = prepare(tmp_path, **flags)
    assert [stage.start for stage in task.stages] == pytest.approx(starts)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"unfreeze": "gradual:0.1:0.1:0.1"},
            "--unfreeze=gradual:0.1:0.1:0.1 gives 3 stage lengths, and the model has 2 stages"
            " before the last. Give at most 2",
        ),
        (
            {"unfreeze": "lp_ft", "trainable": "head"},
            "--trainable=head leaves no layer for --unfreeze=lp_ft. Choose --trainable=all",
        ),
        (
            {"method": "gradual", "trainable": "last:1"},
            "--trainable=last:1 leaves no layer for --unfreeze=gradual",
        ),
    ],
)
def test_stages_that_the_model_has_not_are_refused(tmp_path, flags, message):
    with pytest.raises(UsageError) as refused:
        prepare(tmp_path, **flags)
    assert str(refused.value).startswith(message)


# Speeds


@pytest.mark.parametrize("trainable", ["all", "^conv4|^dense"])
def test_multipliers_fall_by_group_from_the_head(tmp_path, trainable):
    flags = {"layer_lr_decay": 0.5, "head_lr_multiplier": 4.0, "trainable": trainable}
    given, task = prepare(tmp_path, conv4(), **flags)
    names = {id(v): name for name, v in building.named_weights(given.model).items()}
    found = {names[id(v)]: m for v, m in zip(task.variables, task.multipliers, strict=True)}
    assert set(found) == {names[id(v)] for v in given.model.trainable_variables}
    steps = groups.steps_from_head(given.model)
    for name, multiplier in found.items():
        layer = name.partition("/")[0]
        wanted = 4.0 if layer == "head" else {1: 0.5, 2: 0.25, 3: 0.125, 4: 0.0625, 5: 0.03125}[
            5 - CONV4.index(layer.removesuffix("_bn"))
        ]  # fmt: skip
        assert multiplier == wanted and (layer == "head" or 0.5 ** steps[layer] == wanted)


def test_multipliers_are_none_where_no_flag_asks_for_them(tmp_path):
    given, task = prepare(tmp_path)
    assert task.multipliers == [] == unfreezing.get_lr_multipliers(given.model, given.config)


def test_multipliers_scale_the_step_that_adam_takes(tmp_path):
    ways = {}
    for name, flags in (
        ("plain", {}),
        ("slow", {"layer_lr_decay": 0.1, "head_lr_multiplier": 3.0}),
    ):
        at = watched_run(tmp_path / name, steps=1, penalty="distill:1:2", **flags).at
        ways[name] = {key: at[1][key].astype(float) - at[0][key] for key in at[0]}
    multipliers = {"conv": 0.01, "dense": 0.1, "head": 3.0, "source_head": 3.0}
    for key, way in ways["plain"].items():
        wanted = multipliers[key.partition("/")[0]] * way
        np.testing.assert_allclose(ways["slow"][key], wanted, rtol=1e-3, atol=6e-8, err_msg=key)
        assert np.abs(way).max() == pytest.approx(0.01, rel=1e-3) or key.startswith("source_head")


# Joint


def test_joint_thaws_in_stages_and_its_source_head_goes_with_the_head(tmp_path):
    speeds = {"layer_lr_decay": 0.5, "head_lr_multiplier": 2.0}
    flags = {"method": "joint", "unfreeze": "lp_ft:0.5", "steps": 4}
    at = watched_run(tmp_path, small_model(seed=9), **flags, **speeds).at
    heads = {f"{head}/{name}" for head in ("head", "source_head") for name in ("kernel", "bias")}
    assert moved(at[0], at[1]) == moved(at[0], at[2]) == heads
    assert moved(at[2], at[3]) == set(at[0])
    for name, multiplier in (("head", 2), ("source_head", 2), ("dense", 0.5), ("conv", 0.25)):
        way = np.abs(at[3][f"{name}/kernel"] - at[2][f"{name}/kernel"]).max()
        assert way == pytest.approx(0.01 * multiplier, rel=1e-3), name


def coloured(name):
    sizes = {"image_size": 32, "input_channels": 3, "body_channels": 3, "dense_units": 8}
    return building.build(name, 3, **sizes)


@pytest.mark.parametrize(
    ("name", "flags", "body", "head"),
    [
        ("mobilenet_v2_035", {}, 0.1, 1.0),
        ("mobilenet_v2_035", {"body_lr_multiplier": 0.5, "head_lr_multiplier": 2.0}, 0.5, 2.0),
        ("conv4", {"body_lr_multiplier": 0.5}, 0.5, 1.0),
    ],
)
def test_body_of_a_network_of_keras_applications_moves_at_a_tenth(
    tmp_path, name, flags, body, head
):
    model = coloured(name)
    config = dataclasses.replace(setting(tmp_path, model, **flags).config, model=name)
    found = unfreezing.get_lr_multipliers(model, config)
    names = {id(v): name for name, v in building.named_weights(model).items()}
    for variable, multiplier in zip(model.trainable_variables, found, strict=True):
        assert multiplier == (head if names[id(variable)].startswith("head/") else body)


def test_body_multiplier_of_one_leaves_a_network_of_keras_applications_as_fast(tmp_path):
    model = coloured("mobilenet_v2_035")
    config = setting(tmp_path, model, body_lr_multiplier=1.0).config
    config = dataclasses.replace(config, model="mobilenet_v2_035")
    assert unfreezing.get_lr_multipliers(model, config) == []
