"""Checkpoints: what is saved comes back, the newest first, and nothing half."""

import keras
import numpy as np

from tl_keras.training.checkpoints import Checkpoints


def variables():
    """Return two variables, as a model and an optimizer would have."""
    return [keras.Variable(np.arange(3.0)), keras.Variable(7, dtype="int64", trainable=False)]


def test_checkpoints_restore_nothing_where_nothing_was_saved(tmp_path):
    assert Checkpoints(tmp_path / "none", variables()).restore() is None


def test_checkpoints_restore_the_newest_state_and_its_record(tmp_path):
    held = variables()
    checkpoints = Checkpoints(tmp_path, held)
    for step in (10, 20, 30):
        held[0].assign(np.full(3, step))
        held[1].assign(step)
        checkpoints.save(step, {"step": step, "best_loss": None, "stopped": False})
    fresh = variables()
    record = Checkpoints(tmp_path, fresh).restore()
    assert record == {"step": 30, "best_loss": None, "stopped": False}
    np.testing.assert_array_equal(fresh[0], [30, 30, 30])
    assert int(fresh[1]) == 30


def test_checkpoints_keep_two_states(tmp_path):
    checkpoints = Checkpoints(tmp_path, variables())
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {})
    assert sorted(path.name for path in tmp_path.glob("*.index")) == [
        "ckpt-3.index",
        "ckpt-4.index",
    ]


def test_checkpoints_ignore_a_state_that_was_never_finished(tmp_path):
    held = variables()
    Checkpoints(tmp_path, held).save(5, {"step": 5})
    (tmp_path / "ckpt-6.data-00000-of-00001").write_bytes(b"half")
    fresh = variables()
    assert Checkpoints(tmp_path, fresh).restore() == {"step": 5}
