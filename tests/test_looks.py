"""Looks at a comparison: other seeds are a new one, and the same ones again are not."""

import re
from pathlib import Path

import pytest

from tl_keras.errors import WriteError
from tl_keras.report import looks

PAGE = Path(__file__).resolve().parents[1] / "experiments" / "intervals.md"


def test_looks_are_counted_where_the_seeds_are_others(tmp_path):
    assert looks.record(tmp_path, [1, 0]) == [[0, 1]]
    before = (tmp_path / "looks.json").read_bytes()
    assert looks.record(tmp_path, [0, 1]) == [[0, 1]]
    assert (tmp_path / "looks.json").read_bytes() == before
    assert looks.record(tmp_path, [0, 1, 2]) == [[0, 1], [0, 1, 2]]
    assert looks.record(tmp_path, [0, 1]) == [[0, 1], [0, 1, 2]]


@pytest.mark.parametrize("seeds", [[], [4]])
def test_report_without_a_verdict_is_no_look(tmp_path, seeds):
    assert looks.record(tmp_path, seeds) == []
    assert not list(tmp_path.iterdir())


def test_looks_that_are_damaged_are_told_and_begun_anew(tmp_path, caplog):
    looks.record(tmp_path, [0, 1])
    (tmp_path / "looks.json").write_text('{"looks": []}')
    with caplog.at_level("WARNING"):
        assert looks.record(tmp_path, [0, 1, 2]) == [[0, 1, 2]]
    assert "looks.json is damaged" in caplog.text and "are lost" in caplog.text
    assert (tmp_path / "looks.json.damaged").is_file()
    assert looks.record(tmp_path, [0, 1, 2]) == [[0, 1, 2]]


def test_looks_that_cannot_be_written_are_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError):
        looks.record(tmp_path / "file", [0, 1])


def test_figure_of_the_warning_is_that_of_the_simulation():
    page = PAGE.read_text(encoding="utf-8").partition("## Seeds added until")[2]
    figures = re.search(r"\| the interval of the report \| (.*) \|", page)[1].split(" | ")
    assert round(max(map(float, figures))) == looks.FALSE_VERDICTS
