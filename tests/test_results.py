"""Results: a run is finished where all that it leaves is whole."""

import json

import pytest

from tl_keras.storage import files, results


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a finished run."""
    sha256 = files.write_bytes(tmp_path / "model.keras", b"a model")
    results.write(tmp_path, {"steps": 7, "files": {"model.keras": sha256}})
    return tmp_path


def test_results_of_a_finished_run_are_read_back(folder):
    assert results.read(folder)["steps"] == 7


def test_results_are_none_where_a_run_is_not_finished(tmp_path):
    assert results.read(tmp_path) is None


def test_results_are_told_to_be_damaged_and_set_aside(folder, caplog):
    path = folder / "result.json"
    path.write_text(path.read_text().replace("7", "8"))
    with caplog.at_level("WARNING"):
        assert results.read(folder) is None
    assert "result.json is damaged" in caplog.text and "made again" in caplog.text
    assert json.loads((folder / "result.json.damaged").read_text())["steps"] == 8
    assert not path.exists()


@pytest.mark.parametrize("damage", ["a motel", "", None])
def test_results_count_for_nothing_without_the_files_they_name(folder, damage, caplog):
    model = folder / "model.keras"
    model.unlink() if damage is None else model.write_text(damage)
    with caplog.at_level("WARNING"):
        assert results.read(folder) is None
    assert "model.keras is damaged or gone" in caplog.text
    assert not model.exists() and not (folder / "result.json").exists()
