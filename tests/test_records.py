import json
import math
from pathlib import Path

import pytest

from tl_keras.errors import WriteError
from tl_keras.report.records import MetricsLog


def written(path, *records):
    with MetricsLog(path) as log:
        for step, values in records:
            log.write(step, values)
    return path


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_metrics_log_appends_a_json_line_a_measurement(path):
    written(path, (10, {"train/loss": 0.5}), (20, {"train/loss": 0.25, "train/accuracy": 1}))
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 10, "train/loss": 0.5},
        {"step": 20, "train/loss": 0.25, "train/accuracy": 1.0},
    ]


def test_metrics_log_can_be_read_before_it_is_closed(path):
    with MetricsLog(path) as log:
        log.write(1, {"train/loss": 2.0})
        assert json.loads(path.read_text()) == {"step": 1, "train/loss": 2.0}


def test_metrics_log_has_null_for_what_is_not_finite(path):
    written(path, (1, {"a/x": math.nan, "a/y": math.inf, "a/z": 1.5}))
    assert json.loads(path.read_text()) == {"step": 1, "a/x": None, "a/y": None, "a/z": 1.5}


def test_metrics_log_begins_with_what_was_recorded_before_and_nothing_else(path):
    written(path, (10, {"a/x": 1.0}), (20, {"a/x": 2.0}))
    path.write_text(path.read_text() + '{"st')
    with MetricsLog(path, [(10, {"a/x": 1.0}), (10, {"a/y": math.nan})]) as log:
        log.write(30, {"a/x": 3.0})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 10, "a/x": 1.0}, {"step": 10, "a/y": None}, {"step": 30, "a/x": 3.0},
    ]  # fmt: skip
    assert list(path.parent.iterdir()) == [path]


def test_metrics_log_where_no_folder_can_be_is_a_write_error(path):
    path.parent.joinpath("file").write_text("in the way")
    with pytest.raises(WriteError, match="cannot be written"):
        MetricsLog(path.parent / "file" / "metrics.jsonl")


def test_metrics_log_on_a_full_disk_is_a_write_error(path, monkeypatch):
    log = MetricsLog(path)
    monkeypatch.setattr(log, "_file", Path("/dev/full").open("a"))  # noqa: SIM115
    with pytest.raises(WriteError, match="No space left"):
        log.write(1, {"a/x": 1.0})
    with pytest.raises(WriteError, match="No space left"):
        log.close()
