"""Checkpoints: what is saved comes back, the newest that is whole, and nothing damaged."""

import random

import keras
import numpy as np
import pytest

from tl_keras.config.pace import Pace
from tl_keras.errors import DataError, DivergedError
from tl_keras.training import checkpoints
from tl_keras.training.checkpoints import Checkpoints, Clock


def variables():
    """Return two variables, as a model and an optimizer would have."""
    return [keras.Variable(np.arange(3.0)), keras.Variable(7, dtype="int64", trainable=False)]


def saved(folder, *steps):
    held = variables()
    kept = Checkpoints(folder, held)
    for step in steps:
        held[0].assign(np.full(3, step))
        held[1].assign(step)
        kept.save(step, {"step": step, "loss": 0.1}, {"figures": np.full((step, 2), step)})
    return folder


def restored(folder):
    fresh = variables()
    found = Checkpoints(folder, fresh).restore()
    assert found is None or found.record["step"] == int(fresh[1]) == int(fresh[0][0])
    return found


def test_checkpoints_restore_nothing_where_nothing_was_saved(tmp_path):
    assert restored(tmp_path / "none") is None


def test_checkpoints_restore_the_newest_state_and_all_that_it_holds(tmp_path):
    fresh = variables()
    record, arrays = Checkpoints(saved(tmp_path, 10, 20, 30), fresh).restore()
    assert record == {"step": 30, "loss": 0.1}
    np.testing.assert_array_equal(arrays["figures"], np.full((30, 2), 30))
    np.testing.assert_array_equal(fresh[0], [30, 30, 30])
    assert int(fresh[1]) == 30


def test_checkpoints_keep_two_states(tmp_path):
    (tmp_path / "0000000002.npz.unfinished").write_bytes(b"of a killed process")
    assert sorted(path.name for path in saved(tmp_path, 1, 2, 3, 4).iterdir()) == [
        "0000000003.json", "0000000003.npz", "0000000004.json", "0000000004.npz",
    ]  # fmt: skip


def test_checkpoints_ignore_a_state_that_was_never_finished(tmp_path, caplog):
    saved(tmp_path, 5)
    (tmp_path / "0000000006.npz").write_bytes(b"half")
    assert restored(tmp_path).record["step"] == 5
    saved(tmp_path, 7)
    assert not (tmp_path / "0000000006.npz").exists()


def test_checkpoints_say_so_where_the_only_state_was_never_finished(tmp_path, caplog):
    (tmp_path / "0000000006.npz").write_bytes(b"half")
    with caplog.at_level("WARNING"):
        assert restored(tmp_path) is None
    assert "0000000006.npz was not finished. Training begins at step 0" in caplog.text


def flipped(data: bytes) -> bytes:
    place = random.Random(len(data)).randrange(len(data) * 8)
    changed = bytearray(data)
    changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "flipped": lambda path: path.write_bytes(flipped(path.read_bytes())),
    "emptied": lambda path: path.write_bytes(b""),
    "removed": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", ["json", "npz"])
def test_checkpoints_fall_back_to_the_state_before_a_damaged_one(tmp_path, damage, ending, caplog):
    saved(tmp_path, 5, 9)
    DAMAGE[damage](tmp_path / f"0000000009.{ending}")
    with caplog.at_level("WARNING"):
        assert restored(tmp_path).record["step"] == 5
    if (damage, ending) != ("removed", "json"):
        assert f"0000000009.{ending}" in caplog.text and "set aside" in caplog.text
    saved(tmp_path, 9)
    assert restored(tmp_path).record["step"] == 9


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_checkpoints_do_not_begin_anew_where_no_state_is_whole(tmp_path, damage):
    saved(tmp_path / "checkpoints", 5, 9)
    for path in (tmp_path / "checkpoints").glob("*.npz"):
        DAMAGE[damage](path)
    for _ in range(2):
        with pytest.raises(DataError, match=f"no intact checkpoint. Remove .*{tmp_path}"):
            restored(tmp_path / "checkpoints")


def test_checkpoints_refuse_the_state_of_another_model(tmp_path):
    saved(tmp_path, 5)
    for others in (variables()[:1], [*variables(), *variables()], variables()[::-1]):
        with pytest.raises(DataError, match="another model or optimizer"):
            Checkpoints(tmp_path, others).restore()
    assert restored(tmp_path).record["step"] == 5


def test_checkpoints_keep_the_last_good_state_where_numbers_are_not_finite(tmp_path):
    held = variables()
    kept = Checkpoints(tmp_path, held)
    kept.save(1, {"step": 1}, {})
    held[0].assign([0, np.nan, 1])
    with pytest.raises(DivergedError, match="is not finite after step 2"):
        kept.save(2, {"step": 2}, {})
    assert [path.stem for path in tmp_path.glob("*.json")] == ["0000000001"]


def test_clock_keeps_to_steps_and_passes_none_over():
    clock = Clock(Pace(steps=10))
    assert [step for step in range(1, 31) if clock.is_due(step)] == [10, 20, 30]
    assert (clock.limit_steps(0, 50), clock.limit_steps(7, 50), clock.limit_steps(10, 4)) == (
        10,
        3,
        4,
    )
    assert Clock(Pace(seconds=9)).limit_steps(7, 50) == 50


def test_clock_keeps_to_seconds_and_waits_longer_where_saving_is_slow(monkeypatch):
    now = 100.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    clock = Clock(Pace(seconds=30))
    due = []
    for now in (120.0, 130.0):  # noqa: B007
        due.append(clock.is_due(1))
    clock.mark_saved(1, 1.0)
    for now in (179.0, 180.0):  # noqa: B007
        due.append(clock.is_due(2))
    assert due == [False, True, False, True]
    assert not Clock(Pace(seconds=0)).is_due(1)
