"""The penalties of fine-tuning against their formulas, written once more in NumPy."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from made import Records, pictures, setting, small_model, source_weights
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from tl_keras.data.dataset import ImageSet
from tl_keras.methods import catalog, delta
from tl_keras.methods.interface import MethodInputs
from tl_keras.methods.penalty import AddedPenalties, add_penalties
from tl_keras.models import building, weights
from tl_keras.models.feature_maps import find_feature_maps
from tl_keras.models.precision import set_compute_dtype
from tl_keras.models.weights import Weights
from tl_keras.training.loop import Loop

# Such that each is felt beside a cross-entropy of about 1.
STRENGTHS = {
    "l2": (0.3,),
    "l2sp": (0.7, 0.2),
    "feature_distance": (3.0,),
    "delta": (5.0,),
    "bss": (0.5, 5),
    "distill": (4.0, 3.0),
}
COMPARING = [name for name, row in catalog.PENALTIES.items() if row.compares]


def flag(name):
    return ":".join([name, *map(str, STRENGTHS[name])])


class Case(NamedTuple):
    """One penalty on a model that has left the source's weights."""

    given: MethodInputs
    added: AddedPenalties
    start: dict[str, np.ndarray]

    def named(self):
        """Return what trains: variables by name, the source's head too."""
        names = building.named_weights(self.given.model)
        extra = {f"source_head/{v.name}": v for v in self.added.variables}
        return {n: v for n, v in names.items() if v.trainable} | extra

    def tensors(self):
        """Return all weights as they are, float64."""
        extra = {f"source_head/{v.name}": v.numpy() for v in self.added.variables}
        return wide(weights.get_tensors(self.given.model) | extra)


def wide(tensors):
    return {name: value.astype(np.float64) for name, value in tensors.items()}


def case_of(folder, penalty, precision="float32", **flags):
    given = setting(folder, penalty=penalty, **flags)
    set_compute_dtype(given.model, precision)
    building.set_trainable(given.model, given.config.trainable)
    start = wide(weights.get_tensors(given.model))
    case = Case(given, add_penalties(given), start)
    disturb(case.named().values())
    return case


def disturb(variables):
    generator = np.random.default_rng(3)
    for variable in variables:
        variable.assign(variable.numpy() + generator.normal(0, 0.1, variable.shape))


def terms(added, images):
    images = tf.constant(images)
    return added.terms(images, added.model(images, training=True))


# The formulas, of float64 weights


def conv_maps(tensors, images):
    windows = np.lib.stride_tricks.sliding_window_view(images[..., 0] / 255, (3, 3), axis=(1, 2))
    scores = np.einsum("nijkl,klc->nijc", windows, tensors["conv/kernel"][:, :, 0])
    return np.maximum(scores + tensors["conv/bias"], 0)


def features_behind(tensors, maps):
    count, _, _, channels = maps.shape
    pooled = maps.reshape(count, 3, 2, 3, 2, channels).max((2, 4)).reshape(count, -1)
    return np.maximum(pooled @ tensors["dense/kernel"] + tensors["dense/bias"], 0)


def features_of(tensors, images):
    return features_behind(tensors, conv_maps(tensors, images))


def channel_weights(case):
    chosen = np.random.default_rng((0, 2)).permutation(case.given.split.train)[: delta.IMAGES]
    images, labels = case.given.images.images[chosen], case.given.images.labels[chosen]
    maps = conv_maps(case.start, images)
    head = LogisticRegression(max_iter=1000).fit(features_behind(case.start, maps), labels)
    losses = []
    for channel in range(32):
        lacking = maps * (np.arange(32) != channel)
        losses.append(log_loss(labels, head.predict_proba(features_behind(case.start, lacking))))
    return softmax(losses)


def l2(case, now, images, alpha):
    kernels = [name for name in case.named() if name.endswith("kernel")]
    return alpha / 2 * sum(np.sum(now[name] ** 2) for name in kernels)


def l2sp(case, now, images, alpha, beta):
    body = [name for name in case.named() if not name.startswith("head")]
    head = [name for name in case.named() if name.startswith("head")]
    pulled = sum(np.sum((now[name] - case.start[name]) ** 2) for name in body)
    return alpha / 2 * pulled + beta / 2 * sum(np.sum(now[name] ** 2) for name in head)


def feature_distance(case, now, images, strength):
    away = features_of(now, images) - features_of(case.start, images)
    return strength * np.mean([row @ row / len(row) for row in away])


def delta_formula(case, now, images, alpha):
    away = conv_maps(now, images) - conv_maps(case.start, images)
    _, height, width, channels = away.shape
    squares = 0.5 * channels / (height * width) * np.sum(away**2, axis=(1, 2))
    return alpha * np.mean(squares @ channel_weights(case))


def bss(case, now, images, eta, k):
    values = np.linalg.svd(features_of(now, images))[1]
    return eta * sum(sorted(values**2)[:k])


def distill(case, now, images, strength, temperature):
    source = case.given.source.tensors
    before = features_of(case.start, images) @ source["head/kernel"] + source["head/bias"]
    logits = features_of(now, images) @ now["source_head/kernel"] + now["source_head/bias"]
    p, q = (log_softmax(z / temperature, axis=1) for z in (before, logits))
    return strength * temperature**2 * np.mean(np.sum(np.exp(p) * (p - q), axis=1))


FORMULAS = {
    "l2": l2, "l2sp": l2sp, "feature_distance": feature_distance, "delta": delta_formula,
    "bss": bss, "distill": distill,
}  # fmt: skip


def test_penalties_each_have_a_formula_here():
    assert set(FORMULAS) == set(STRENGTHS) == set(catalog.PENALTIES)
    for name, strengths in STRENGTHS.items():
        assert len(strengths) == len(catalog.PENALTIES[name].strengths)


# The features are 8: one image, fewer than features, and more.
@pytest.mark.parametrize("count", [1, 5, 12])
@pytest.mark.parametrize("name", FORMULAS)
def test_penalty_is_its_formula_for_any_number_of_images(tmp_path, name, count):
    case = case_of(tmp_path, flag(name))
    images = pictures(count, seed=9).images
    wanted = FORMULAS[name](case, case.tensors(), images, *STRENGTHS[name])
    found = terms(case.added, images)
    assert list(found) == [name] and found[name].dtype == tf.float32 and found[name].shape == ()
    assert wanted > 0.005
    assert float(found[name]) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", FORMULAS)
def test_penalty_is_its_formula_where_the_model_computes_in_16_bits(tmp_path, name, precision):
    case = case_of(tmp_path, flag(name), precision)
    images = pictures(12, seed=9).images
    wanted = FORMULAS[name](case, case.tensors(), images, *STRENGTHS[name])
    found = terms(case.added, images)[name]
    assert found.dtype == tf.float32
    assert float(found) == pytest.approx(wanted, rel=0.03)


@pytest.mark.parametrize("name", FORMULAS)
def test_penalty_has_the_gradient_of_its_formula(tmp_path, name):
    case = case_of(tmp_path, flag(name))
    images = pictures(12, seed=9).images
    named, now = case.named(), case.tensors()
    with tf.GradientTape() as tape:
        value = terms(case.added, images)[name]
    found = tape.gradient(value, [v.value for v in named.values()])
    generator = np.random.default_rng(4)
    for _ in range(3):
        way = {n: generator.normal(0, 1, v.shape) for n, v in named.items()}
        slope = sum(
            np.sum(way[n] * g.numpy()) for n, g in zip(named, found, strict=True) if g is not None
        )
        sides = [
            FORMULAS[name](
                case, now | {n: now[n] + step * way[n] for n in way}, images, *STRENGTHS[name]
            )
            for step in (1e-6, -1e-6)
        ]
        assert slope == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("trainable", ["head", "^conv", "last:2"])
@pytest.mark.parametrize("name", ["l2", "l2sp"])
def test_penalty_of_weights_leaves_out_what_is_frozen(tmp_path, name, trainable):
    case = case_of(tmp_path, flag(name), trainable=trainable)
    assert len(case.named()) < 6
    # As far from the source as anything, and from zero.
    building.named_weights(case.given.model)["dense/bias"].assign(np.full(8, 9.0))
    wanted = FORMULAS[name](case, case.tensors(), None, *STRENGTHS[name])
    assert float(terms(case.added, pictures(2).images)[name]) == pytest.approx(wanted, rel=1e-5)


def given_model(folder, name, size, penalty):
    """Return a setting of pictures of `size` pixels, whose source is the very same model."""
    model = building.build(
        name, 3, image_size=size, input_channels=1, body_channels=1, dense_units=8, seed=1
    )
    given = setting(folder, model=model, penalty=penalty)
    known = Weights(weights.get_tensors(model), given.source.origin)
    return dataclasses.replace(given, source_weights=known, image_size=size)


@pytest.mark.parametrize(("model", "size"), [("conv4", 8), ("mobilenet_025", 32)])
def test_penalties_are_zero_at_the_source_though_dropout_and_statistics_differ(
    tmp_path, monkeypatch, model, size
):
    given = given_model(tmp_path, model, size, ",".join(["l2sp:1:0", *map(flag, COMPARING)]))
    rises = {
        name: np.arange(maps.shape[-1]) for name, maps in find_feature_maps(given.model).items()
    }
    monkeypatch.setattr(delta, "measure_loss_rises", lambda setting: rises)
    added = add_penalties(given)
    images = np.repeat(np.repeat(pictures(6).images, size // 8, axis=1), size // 8, axis=2)
    images = tf.constant(images)
    start = given.model.get_weights()
    outputs = added.model(images, training=True)
    # That pass has moved the statistics, and the source is where they were.
    given.model.set_weights(start)
    found = added.terms(images, outputs)
    assert {n: float(v) for n, v in found.items()} == dict.fromkeys(["l2sp", *COMPARING], 0.0)
    inference = given.model(images, training=False)["features"]
    assert not np.allclose(outputs["features"], inference, atol=1e-3)


def test_distill_trains_the_head_of_the_source(tmp_path):
    given = setting(tmp_path, penalty="distill", steps=3, trainable="all")
    prepared = catalog.METHODS["finetune"].prepare(given)
    extra = prepared.task.variables[len(given.model.trainable_variables) :]
    before = [variable.numpy() for variable in extra]
    for value, name in zip(before, ("kernel", "bias"), strict=True):
        np.testing.assert_array_equal(value, given.source.tensors[f"head/{name}"])
    Loop(prepared.task, given.training, given.strategy, tmp_path, Records(), "test").run()
    assert all(not np.array_equal(b, v.numpy()) for b, v in zip(before, extra, strict=True))


# DELTA's weights of channels


def test_delta_weighs_a_channel_that_the_loss_needs_more_than_a_dead_one(tmp_path):
    given = setting(tmp_path, penalty="delta")
    kernel = building.named_weights(given.model)["conv/kernel"]
    kernel.assign(np.ones(kernel.shape) * (np.arange(32) == 5))
    dense = building.named_weights(given.model)["dense/kernel"]
    dense.assign(np.abs(dense.numpy()))
    rises = delta.measure_loss_rises(given)
    assert list(rises) == ["conv"] and rises["conv"].shape == (32,)
    assert rises["conv"][5] > 0.1
    np.testing.assert_allclose(np.delete(rises["conv"], 5), 0, atol=1e-12)


def test_delta_weights_are_a_softmax_over_the_channels(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(delta, "compute_distance", lambda worth, *_: seen.append(worth) or 0.0)
    given = given_model(tmp_path, "conv4", 8, "delta")
    rises = delta.measure_loss_rises(given)
    terms(add_penalties(given), pictures(3).images)
    assert list(seen[0]) == ["conv1_bn", "conv2_bn", "conv3_bn", "conv4_bn"]
    for name, worth in seen[0].items():
        assert float(tf.reduce_sum(worth)) == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(worth, softmax(rises[name]), rtol=1e-5)


def test_delta_weighs_all_channels_the_same_where_there_is_one_class(tmp_path):
    given = setting(tmp_path)
    alike = ImageSet(given.images.images, np.zeros(40, np.int64))
    rises = delta.measure_loss_rises(dataclasses.replace(given, images=alike))
    np.testing.assert_array_equal(rises["conv"], np.zeros(32))


# Two replicas


ALL = ",".join(map(flag, STRENGTHS))


def after_one_step(strategy):
    """Return the figures of one step of the loop, and how the weights moved."""
    with strategy.scope():
        model = small_model()
    weights.copy(source_weights(), model, ("a", "b", "c"), "match", "--source=bands")
    folder = Path(tempfile.mkdtemp())
    settings = {"steps": 1, "batch_size": 12, "optimizer": "sgd", "momentum": 0.0}
    given = setting(folder, model=model, penalty=ALL, **settings)
    given = dataclasses.replace(given, strategy=strategy)
    task = catalog.METHODS["finetune"].prepare(given).task
    disturb(task.variables)
    before = [variable.numpy() for variable in task.variables]
    records = Records()
    Loop(task, given.training, strategy, folder, records, "test").run()
    pairs = zip(task.variables, before, strict=True)
    return records[-1][1], np.concatenate([(v.numpy() - old).ravel() for v, old in pairs]).tolist()


TWO_REPLICAS = """
import json, sys
import tensorflow as tf
from tl_keras.distributed import distribution
distribution.configure_devices(2)
sys.path.insert(0, sys.argv[1])
import test_penalties
from tl_keras.distributed.distribution import make_strategy
strategies = [make_strategy(name, 2) for name in ("one_device", "mirrored")]
assert [one.num_replicas_in_sync for one in strategies] == [1, 2]
print(json.dumps([test_penalties.after_one_step(strategy) for strategy in strategies]))
"""


@pytest.mark.slow
def test_penalties_give_the_same_on_two_replicas():
    command = [sys.executable, "-c", TWO_REPLICAS, str(Path(__file__).parent)]
    program = subprocess.run(command, capture_output=True, text=True, check=False)
    assert program.returncode == 0, program.stderr[-2000:]
    (one, moved), (two, moved_too) = json.loads(program.stdout.splitlines()[-1])
    names = ["cross_entropy", *STRENGTHS]
    assert {f"train/{name}" for name in names} < one.keys() == two.keys()
    for figure, value in one.items():
        assert two[figure] == pytest.approx(value, rel=1e-4), figure
    assert one["train/loss"] == pytest.approx(sum(one[f"train/{name}"] for name in names), rel=1e-5)
    assert np.linalg.norm(np.subtract(moved, moved_too)) < 1e-4 * np.linalg.norm(moved)


def test_penalties_are_all_felt_in_the_step_on_two_replicas(tmp_path):
    case = case_of(tmp_path, ALL)
    sizes = {}
    for name in STRENGTHS:
        with tf.GradientTape() as tape:
            value = terms(case.added, case.given.images.images[:12])[name]
        gradients = tape.gradient(value, [v.value for v in case.named().values()])
        sizes[name] = float(tf.linalg.global_norm([g for g in gradients if g is not None]))
    assert min(sizes.values()) > 0.01 * max(sizes.values()), sizes
