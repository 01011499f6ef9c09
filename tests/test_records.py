import json
import math
from pathlib import Path

import pytest

from tl_keras.errors import DataError, WriteError
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
    written(path, (10, {"train/loss": 0.5}))
    written(path, (20, {"train/loss": 0.25, "train/accuracy": 1}))
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
    (record,) = MetricsLog.resume(path, 1)
    assert math.isnan(record.values["a/x"])
    assert math.isnan(record.values["a/y"])
    assert json.loads(path.read_text())["a/x"] is None


def test_resume_keeps_lines_up_to_the_step(path):
    written(path, (10, {"a/x": 1.0}), (20, {"a/x": 2.0}), (20, {"b/x": 3.0}), (30, {"a/x": 4.0}))
    kept = MetricsLog.resume(path, 20)
    assert kept == [(10, {"a/x": 1.0}), (20, {"a/x": 2.0}), (20, {"b/x": 3.0})]
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10, 20, 20]
    assert list(path.parent.iterdir()) == [path]


def test_resume_at_minus_one_empties_the_log(path):
    written(path, (0, {"a/x": 1.0}))
    assert MetricsLog.resume(path, -1) == []
    assert path.read_text() == ""


def test_resume_without_a_log_is_empty(path):
    assert MetricsLog.resume(path, 5) == []
    assert not path.exists()


@pytest.mark.parametrize("torn", ['{"st', '{"step": 30, "a/x": 1', "\0\0\0", '{"step": 30, "a'])
def test_resume_drops_a_torn_last_line_so_that_appending_works(path, torn):
    written(path, (10, {"a/x": 1.0}))
    path.write_text(path.read_text() + torn)
    assert MetricsLog.resume(path, 100) == [(10, {"a/x": 1.0})]
    written(path, (40, {"a/x": 2.0}))
    assert [record.step for record in MetricsLog.resume(path, 100)] == [10, 40]


@pytest.mark.parametrize("line", ["{", "[]", '{"a/x": 1.0}', '{"step": 1, "a/x": "much"}', "\0"])
def test_resume_names_a_damaged_line_in_the_middle(path, line):
    path.write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is damaged"):
        MetricsLog.resume(path, 5)
    assert path.read_bytes() == before


def test_metrics_log_in_a_missing_folder_is_a_write_error(tmp_path):
    with pytest.raises(WriteError, match="nowhere"):
        MetricsLog(tmp_path / "nowhere" / "metrics.jsonl")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_metrics_log_on_a_full_disk_is_a_write_error():
    log = MetricsLog("/dev/full")
    with pytest.raises(WriteError, match="No space left"):
        log.write(1, {"a/x": 1.0})
    with pytest.raises(WriteError, match="No space left"):
        log.close()
