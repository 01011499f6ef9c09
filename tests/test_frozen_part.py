"""Tests of frozen parts: what is kept on disk comes to what is computed each time."""

import dataclasses
import logging

import numpy as np
import pytest
import tensorflow as tf
from made import Records, count_computed_rows, pictures, setting, small_model, sweep

from tl_keras.config.augmentation import parse
from tl_keras.data import pipeline
from tl_keras.errors import StoppedError, UsageError
from tl_keras.methods import catalog, feature_cache
from tl_keras.methods.frozen_part import FrozenPart
from tl_keras.models import weights
from tl_keras.models.frozen_split import split_frozen
from tl_keras.models.precision import Precision, set_compute_dtype
from tl_keras.runtime import interruption
from tl_keras.training.loop import Loop

# How far rounding alone takes a loss in some dozens of steps: norms are folded into kernels, and
# batches of another size go through the frozen part.
CLOSE = 1e-4


@pytest.fixture(autouse=True)
def computed(monkeypatch):
    """How many rows were computed, call by call."""
    return count_computed_rows(monkeypatch)


def run(folder, **flags):
    """Train as the flags say and return the figures of each record, and the weights."""
    augment = flags.pop("augment", "none")
    name = flags.pop("name", f"run-{len(list(folder.glob('run-*')))}")
    precision = Precision(*[flags.pop("precision", "float32")] * 2, "")
    given = dataclasses.replace(
        setting(folder, **{"steps": 12, **flags}), augmentation=parse(augment), precision=precision
    )
    set_compute_dtype(given.model, given.precision.training)
    prepared, records = catalog.find(given.config.method).prepare(given), Records()
    loop = Loop(prepared.task, given.training, given.strategy, folder / name, records, "test")
    loop.run()
    figures = [{k: v for k, v in values.items() if k != "train/stage"} for _, values in records]
    return figures, weights.get_tensors(prepared.model)


def assert_close(one, other, close=CLOSE):
    for wanted, found in zip(one, other, strict=True):
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=close, abs=close), name


CASES = [
    {"trainable": "head"},
    {"trainable": "last:2", "penalty": "l2sp:0.1,bss:0.01"},
    {"trainable": "head", "early_stopping": 2, "layer_lr_decay": 0.5},
    {"method": "lp_ft"},
    {"method": "gradual"},
    {"method": "joint:0.5", "unfreeze": "lp_ft"},
    {"trainable": "head", "augment": "shift:0.2", "cached_views": 2},
    {"method": "joint", "trainable": "head", "augment": "shift:0.2", "cached_views": 3},
]


@pytest.mark.parametrize("flags", sweep(CASES, fast=[CASES[1], CASES[3], CASES[7]]), ids=str)
def test_cached_run_comes_to_the_uncached_one(tmp_path, computed, flags):
    flags = {"steps": 24, "eval_steps": 4, **flags}
    uncached, weights_uncached = run(tmp_path, **flags, cache_gb=0)
    assert not computed
    cached, weights_cached = run(tmp_path, **flags)
    assert sum(computed) >= 30 * max(1, flags.get("cached_views", 0)) + 10
    assert_close(uncached, cached)
    for name, value in weights_uncached.items():
        np.testing.assert_allclose(weights_cached[name], value, atol=CLOSE)


def test_cached_run_comes_to_the_uncached_one_in_bfloat16(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tl_keras"), "propagate", True)
    caplog.set_level(logging.INFO)
    # The second layer from the end trains on maps, which are kept in 16 bits.
    flags = {"trainable": "last:2", "precision": "bfloat16", "steps": 24, "eval_steps": 4}
    uncached, _ = run(tmp_path, **flags, cache_gb=0)
    cached, _ = run(tmp_path, **flags)
    assert "frozen up to flatten, 288 bfloat16" in caplog.text
    assert_close(uncached, cached, close=0.02)


def test_every_row_is_computed_once_for_all_stages_seeds_and_commands(tmp_path, computed):
    run(tmp_path, method="lp_ft", steps=24)
    assert sum(computed) == 40
    # Other steps, other methods, but the same source: what its head is trained on is there.
    for flags in ({"trainable": "head"}, {"method": "features"}):
        run(tmp_path, **flags, steps=12)
    first = dataclasses.replace(setting(tmp_path, trainable="head"), seed=5)
    prepared = catalog.METHODS["finetune"].prepare(first)
    Loop(prepared.task, first.training, first.strategy, tmp_path / "other", Records(), "t").run()
    assert sum(computed) == 40


@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"trainable": "head", "cache_gb": 1e-6},
        {"trainable": "head", "steps": 1},
        {"trainable": "head", "augment": "shift:0.2"},
        {"trainable": "head", "augment": "mixup:0.2"},
        {"trainable": "head", "penalty": "feature_distance"},
        {"trainable": "head", "augment": "shift:0.2", "cached_views": 20},
    ],
    ids=str,
)
def test_nothing_is_kept_that_would_not_pay_or_has_no_room(tmp_path, computed, flags):
    run(tmp_path, **flags)
    assert not computed
    assert not (tmp_path / "features").exists()


def test_run_that_is_stopped_while_a_stage_is_computed_is_saved_and_continued(
    tmp_path, computed, monkeypatch
):
    flags = {"method": "gradual", "steps": 24, "eval_steps": 4}
    whole, _ = run(tmp_path, **flags)
    calls = len(computed)
    assert calls == 4
    stopped = tmp_path / "stopped"
    del computed[:]
    with monkeypatch.context() as told, pytest.raises(StoppedError):
        told.setattr(interruption, "stop_requested", lambda: len(computed) == 3)
        run(stopped, name="run", **flags)
    assert [path.stem for path in (stopped / "run/checkpoints").glob("*.npz")] == ["0000000008"]
    continued, _ = run(stopped, name="run", **flags)
    assert len(computed) == calls
    assert continued == whole


def test_features_that_are_stopped_while_they_are_computed_are_continued(
    tmp_path, computed, monkeypatch
):
    monkeypatch.setattr(feature_cache, "EXAMPLES_PER_PIECE", 8)
    flags = {"method": "features", "eval_steps": 4}
    whole, weights_whole = run(tmp_path, **flags)
    assert computed == [8, 8, 8, 6, 8, 2]
    stopped = tmp_path / "stopped"
    del computed[:]
    saves = []
    with monkeypatch.context() as told, pytest.raises(StoppedError):
        # The loop has promised to end in order, so that a signal does not end the process at once.
        told.setattr(
            interruption,
            "stop_requested",
            lambda: len(computed) == 3 and not saves.append(interruption._is_graceful.is_set()),
        )
        run(stopped, name="run", **flags)
    assert (computed, saves) == ([8, 8, 8], [True])
    continued, weights_continued = run(stopped, name="run", **flags)
    assert computed[3:] == [6, 8, 2]
    assert continued == whole
    assert weights.hash_tensors(weights_continued) == weights.hash_tensors(weights_whole)


def test_rows_are_the_same_to_the_bit_whatever_else_is_computed_with_them(tmp_path):
    given = setting(tmp_path, trainable="head")
    every = np.arange(40)
    together = part_of(given).transform(given.images, every).images
    for count in (1, 2, 3):
        alone = part_of(setting(tmp_path / str(count), trainable="head"))
        rows = [
            alone.transform(given.images, one).images for one in np.split(every[:6], 6 // count)
        ]
        np.testing.assert_array_equal(np.concatenate(rows), together[:6])


def test_features_without_room_come_to_the_same_bits(tmp_path, computed, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tl_keras"), "propagate", True)
    caplog.set_level(logging.INFO)

    def runs(folder, **flags):
        found = []
        for seed in (1, 2, 3):
            model = small_model(seed)
            given = setting(folder, model=model, method="features", eval_steps=4, **flags)
            prepared, records = catalog.METHODS["features"].prepare(given), Records()
            name = folder / f"run-{seed}"
            Loop(prepared.task, given.training, given.strategy, name, records, "test").run()
            logits = prepared.predict(pictures(25, seed=9))
            found.append((list(records), weights.hash_tensors(weights.get_tensors(prepared.model))))
            found.append(logits.tobytes())
        sizes = [p.stat().st_size for p in (folder / "features").rglob("*") if p.is_file()]
        return found, sum(sizes)

    wanted, needed = runs(tmp_path / "large")
    assert "leaves no room" not in caplog.text
    # Room for the first seed's features, and not for all of its test images' too, or another's.
    found, used = runs(tmp_path / "small", cache_gb=4000 / 1e9)
    assert found == wanted
    assert 1000 < used <= 4000 < needed
    # Once a run.
    assert caplog.text.count("leaves no room") == 3


def test_rows_of_others_leave_a_stage_no_room(tmp_path, computed, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tl_keras"), "propagate", True)
    caplog.set_level(logging.INFO)
    flags = {"method": "finetune", "trainable": "head", "cache_gb": 4000 / 1e9}
    first, _ = run(tmp_path, **flags)
    other = dataclasses.replace(setting(tmp_path, model=small_model(77), **flags))
    before = len(computed)
    prepared = catalog.METHODS["finetune"].prepare(other)
    Loop(prepared.task, other.training, other.strategy, tmp_path / "o", Records(), "t").run()
    assert len(computed) == before
    assert "more than --cache_gb allows, computed in each step" in caplog.text
    # What lies there already takes no more room.
    again, _ = run(tmp_path, **flags)
    assert again == first


def test_log_says_what_is_kept_and_what_has_no_room(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("tl_keras"), "propagate", True)
    caplog.set_level(logging.INFO)
    run(tmp_path, trainable="head")
    assert (
        "frozen up to features, 8 float32: 1.28e-06 GB for 30 images, computed once" in caplog.text
    )
    run(tmp_path, trainable="head", cache_gb=1e-6)
    assert "more than --cache_gb allows" in caplog.text


def part_of(given):
    """Return the frozen part of a setting's model, of which the head trains alone."""
    catalog.METHODS["finetune"].prepare(given)
    return FrozenPart(given, split_frozen(given.model).frozen)


def test_views_are_the_augmentations_of_their_epochs_and_come_in_turn(tmp_path):
    given = dataclasses.replace(
        setting(tmp_path, trainable="head"), augmentation=parse("shift:0.3")
    )
    stream = dataclasses.replace(given.stream(given.images, np.arange(5, 25), 3), batch_size=20)
    part = part_of(given)
    kept = [batch for batch, _ in zip(part.stream(stream).batches(), range(7), strict=False)]
    made = [batch for batch, _ in zip(stream.batches(), range(7), strict=False)]
    for (tensors, labels), (pixels, wanted) in zip(kept, made, strict=True):
        np.testing.assert_array_equal(labels, wanted)
        np.testing.assert_allclose(tensors, part(pixels), rtol=1e-5, atol=1e-6)

    def epoch(number):
        return np.sort(kept[number][0].numpy(), axis=0)

    np.testing.assert_array_equal(epoch(0), epoch(3))
    assert not np.allclose(epoch(0), epoch(1))


@pytest.mark.parametrize("frozen", ["float32", "bfloat16"])
def test_what_is_large_is_read_from_disk(tmp_path, monkeypatch, frozen):
    given = dataclasses.replace(
        setting(tmp_path, trainable="last:2"), precision=Precision("float32", frozen, "")
    )
    part, stream = part_of(given), given.stream(given.images, np.arange(9, 35))
    in_memory = part.stream(stream)
    monkeypatch.setattr(pipeline, "MAX_COPY_BYTES", 0)
    mapped = part.stream(stream)
    assert isinstance(mapped.inputs, np.memmap) and not isinstance(in_memory.inputs, np.memmap)
    for one, other in zip(mapped.batches().take(5), in_memory.batches().take(5), strict=True):
        for found, wanted in zip(one, other, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_tensors_are_kept_in_the_precision_that_pays(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "EXAMPLES_PER_PIECE", 7)
    given = dataclasses.replace(
        setting(tmp_path, trainable="last:2"), precision=Precision("float32", "bfloat16", "")
    )
    part = part_of(given)
    found = part.transform(given.images, np.array([3, 20, 1]))
    assert found.images.dtype == tf.bfloat16.as_numpy_dtype
    np.testing.assert_array_equal(found.labels, given.images.labels[[3, 20, 1]])
    exact = split_frozen(given.model).frozen(given.images.images[[3, 20, 1]])
    np.testing.assert_allclose(found.images.astype(np.float32), exact, rtol=0.05, atol=0.05)


def test_images_of_a_source_with_other_channels_go_through_the_same_part(tmp_path):
    given = setting(tmp_path, trainable="head")
    part, grey = part_of(given), pictures(4).images
    colour = np.repeat(grey, 3, axis=-1)
    np.testing.assert_allclose(part(tf.constant(colour)), part(tf.constant(grey)), atol=1e-5)


def test_features_take_views_and_say_where_they_have_no_room(tmp_path, computed):
    figures, _ = run(tmp_path, method="features", augment="shift:0.2", cached_views=3, steps=60)
    assert sum(computed) == 3 * 30 + 10
    assert figures[-1]["train/accuracy"] > 0.5
    with pytest.raises(UsageError, match="--cache_gb=0 has no room for the .* GB of the features"):
        run(tmp_path, method="features", cache_gb=0)


def test_a_view_says_what_it_is_of():
    # The key of the cache has the augmentation in words.
    assert "shift" in repr(parse("shift:0.2")) and repr(parse("none")) != repr(parse("shift:0.2"))
