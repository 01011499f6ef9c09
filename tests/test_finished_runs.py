"""The finished runs of a folder: those of earlier calls are in the report, damaged ones are not."""

import numpy as np
import pytest

from tl_keras.storage import files, finished_runs, predictions, results

LABELS = np.arange(10)


def finish(root, arm, seed, wrong=0, with_predictions=True):
    """Leave a finished run in `root`, with some of its images wrong, and return its record."""
    folder = root / f"{arm}-{seed}"
    left = {"model.keras": files.write_bytes(folder / "model.keras", b"a model")}
    if with_predictions:
        predicted = np.where(wrong > LABELS, -1, LABELS)
        left["predictions.npz"] = predictions.write(folder, LABELS, predicted)
    record = {"arm": arm, "seed": seed, "files": left}
    results.write(folder, record)
    return record


def listed(found):
    return [(record["arm"], record["seed"]) for record in found.records]


def test_collection_holds_the_runs_of_earlier_calls_ordered_by_seed_and_arm(tmp_path):
    for seed in (10, 2):
        for arm in ("scratch", "transfer"):
            finish(tmp_path, arm, seed, wrong=seed // 2)
    now = [finish(tmp_path, "transfer", 3), finish(tmp_path, "scratch", 3, wrong=4)]
    found = finished_runs.collect(tmp_path, now)
    assert listed(found) == [(arm, s) for s in (2, 3, 10) for arm in ("transfer", "scratch")]
    assert found.correct["transfer"][10].tolist() == [False] * 5 + [True] * 5
    assert found.correct["scratch"][3].tolist() == [False] * 4 + [True] * 6
    assert list(found.correct["scratch"]) == [2, 3, 10]


def test_collection_does_not_change_the_records_of_the_call(tmp_path):
    record = finish(tmp_path, "transfer", 0)
    finished_runs.collect(tmp_path, [record]).records[0]["zero_shot"] = 1
    assert "zero_shot" not in record


@pytest.mark.parametrize("damaged", ["result.json", "model.keras", "predictions.npz"])
@pytest.mark.parametrize("is_gone", [True, False])
def test_damaged_run_of_an_earlier_call_is_named_and_left_out(tmp_path, caplog, damaged, is_gone):
    for seed in (0, 1):
        finish(tmp_path, "transfer", seed)
    path = tmp_path / "transfer-0" / damaged
    path.unlink() if is_gone else path.write_bytes(b"{}")
    record = results.read(tmp_path / "transfer-1")
    for _ in range(2):
        caplog.clear()
        with caplog.at_level("WARNING"):
            found = finished_runs.collect(tmp_path, [record])
        assert listed(found) == [("transfer", 1)] and list(found.correct["transfer"]) == [1]
        assert f"{tmp_path / 'transfer-0'} of an earlier call is left out" in caplog.text
        assert "made again from" not in caplog.text


def test_run_without_predictions_is_made_again_or_left_out(tmp_path, caplog):
    finish(tmp_path, "transfer", 0, with_predictions=False)
    with caplog.at_level("WARNING"):
        assert finished_runs.read(tmp_path / "transfer-0") is None
        assert finished_runs.collect(tmp_path, []).records == []
    assert "transfer-0 has no predictions.npz" in caplog.text
    assert "transfer, seed 0" in caplog.text
    # Its files are whole: a run that is made again may begin with its checkpoint.
    assert not list(tmp_path.rglob("*.damaged"))


def test_finished_run_is_read(tmp_path):
    assert finished_runs.read(tmp_path) is None
    record = finish(tmp_path, "scratch", 4)
    assert finished_runs.read(tmp_path / "scratch-4") == record


def test_collection_passes_over_other_folders_and_files(tmp_path):
    for name in ("source", "features", "transfer-x", "transfer-01", "transfer-1.old", "pretrain-0"):
        (tmp_path / name).mkdir()
    (tmp_path / "scratch-7").write_text("")
    assert finished_runs.collect(tmp_path, []) == ([], {})
    assert finished_runs.collect(tmp_path / "nowhere", []) == ([], {})
