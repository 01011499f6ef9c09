import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
from tensorboard.util import tensor_util

from tl_keras.errors import WriteError
from tl_keras.report.tensorboard import EventLog

NAMES = ("a", "b", "c")


def read(folder):
    # 0 keeps all: by default the accumulator samples.
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    return events.Reload()


def points(events, name):
    return [
        (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
        for event in events.Tensors(name)
    ]


def texts(events, name):
    (event,) = events.Tensors(name)
    return tensor_util.make_ndarray(event.tensor_proto).item().decode()


def hparams(events, part):
    content = events.SummaryMetadata(f"_hparams_/{part}").plugin_data.content
    return getattr(plugin_data_pb2.HParamsPluginData.FromString(content), part)


def test_scalars_have_their_name_step_and_value(tmp_path):
    with EventLog(tmp_path) as log:
        log.add_scalars(10, {"train/loss": 0.5, "train/accuracy": 0.25})
        log.add_scalars(20, {"train/loss": math.nan})
    events = read(tmp_path)
    assert points(events, "train/accuracy") == [(10, 0.25)]
    (first, second) = points(events, "train/loss")
    assert first == (10, 0.5)
    assert second[0] == 20
    assert math.isnan(second[1])
    assert events.SummaryMetadata("train/loss").plugin_data.plugin_name == "scalars"


def test_event_log_replaces_the_events_of_its_own_folder_only(tmp_path):
    other = tmp_path / "transfer-0"
    for folder in (tmp_path, other):
        with EventLog(folder) as log:
            log.add_scalars(1, {"train/loss": 9.0})
    (tmp_path / "metrics.jsonl").write_text("kept")
    with EventLog(tmp_path) as log:
        log.add_scalars(1, {"train/loss": 1.0})
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1
    assert points(read(tmp_path), "train/loss")[0] == (1, 1.0)
    assert points(read(other), "train/loss") == [(1, 9.0)]
    assert (tmp_path / "metrics.jsonl").read_text() == "kept"


def test_event_log_under_a_file_is_a_write_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match="file"):
        EventLog(tmp_path / "file" / "run")


def test_config_text_is_a_table_in_which_no_value_breaks_a_row(tmp_path):
    with EventLog(tmp_path) as log:
        log.add_config({"trainable": "conv|dense", "seeds": (0, 1), "shots": 5, "n": None})
    assert texts(read(tmp_path), "config").splitlines() == [
        "| flag | value |",
        "| --- | --- |",
        r"| trainable | conv\|dense |",
        "| seeds | 0,1 |",
        "| shots | 5 |",
        "| n |  |",
    ]


def test_text_is_in_the_text_tab(tmp_path):
    with EventLog(tmp_path) as log:
        log.add_text("account", "copied **all**", 3)
    events = read(tmp_path)
    assert texts(events, "account") == "copied **all**"
    assert events.SummaryMetadata("account").plugin_data.plugin_name == "text"


def test_pictures_are_pngs_with_a_tag_and_a_step_of_their_own(tmp_path):
    images = np.zeros((4, 6, 6, 1), np.uint8)
    labels, predictions = np.array([0, 1, 2, 0]), np.array([0, 1, 1, 2])
    with EventLog(tmp_path) as log:
        log.add_batch(images, labels, NAMES, 0)
        log.add_confusion(np.eye(3, dtype=int), NAMES, 7)
        log.add_mistakes(images, labels, predictions, NAMES, 8, np.full(4, 0.5))
        log.add_pairs("rebuilt", images, images, ("image", "rebuilt"), 9)
    events = read(tmp_path)
    for name, step in (("batch", 0), ("confusion", 7), ("misclassified", 8), ("rebuilt", 9)):
        (event,) = events.Tensors(f"visuals/{name}")
        width, height, picture = tensor_util.make_ndarray(event.tensor_proto)
        assert event.step == step
        assert picture.startswith(b"\x89PNG")
        assert int(width) > 300
        assert int(height) > 100


def test_histograms_count_all_finite_values(tmp_path):
    kernel = np.arange(60.0).reshape(3, 4, 5)
    kernel[0, 0, :2] = np.nan, np.inf
    with EventLog(tmp_path) as log:
        log.add_histograms({"dense/kernel": kernel, "empty": np.zeros(0)}, 5)
    (event,) = read(tmp_path).Tensors("weights/dense/kernel")
    buckets = tensor_util.make_ndarray(event.tensor_proto)
    assert event.step == 5
    assert buckets[:, 2].sum() == 58
    assert (buckets[0, 0], buckets[-1, 1]) == (2, 59)


def test_hparams_start_and_end_a_session_named_after_the_run_s_folder(tmp_path):
    with EventLog(tmp_path / "transfer-3") as log:
        log.add_hparams(
            {
                "arm": "transfer", "seed": np.int64(3), "learning_rate": 0.5, "baseline": True,
                "seeds": (3, 4), "none": None, "target": "folder:\udcff",
            },
            {"test/accuracy": 0.75},
            90,
        )  # fmt: skip
    events = read(tmp_path / "transfer-3")
    start, end = hparams(events, "session_start_info"), hparams(events, "session_end_info")
    assert start.group_name == str(tmp_path / "transfer-3"), "others have a transfer-3 too"
    assert start.hparams["arm"].string_value == "transfer"
    assert start.hparams["seed"].number_value == 3
    assert start.hparams["learning_rate"].number_value == 0.5
    assert start.hparams["baseline"].bool_value is True
    assert start.hparams["seeds"].string_value == "3,4"
    assert start.hparams["none"].string_value == ""
    assert start.hparams["target"].string_value == "folder:\\udcff"
    assert end.status == api_pb2.STATUS_SUCCESS
    assert end.end_time_secs >= start.start_time_secs > 0
    assert points(events, "test/accuracy") == [(90, 0.75)]


def test_hparams_writes_no_point_twice(tmp_path):
    with EventLog(tmp_path) as log:
        log.add_scalars(90, {"test/accuracy": 0.75})
        log.add_hparams({"seed": 0}, {"test/accuracy": 0.75, "test/loss": 0.5}, 90)
    events = read(tmp_path)
    assert points(events, "test/accuracy") == [(90, 0.75)]
    assert points(events, "test/loss") == [(90, 0.5)]
