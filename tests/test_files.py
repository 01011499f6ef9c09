"""Tests of writing: a file is there whole, the old or the new one, and never half."""

import errno
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_keras.errors import DataError, WriteError
from tl_keras.storage import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_write_bytes_makes_the_folder_and_replaces_the_file(tmp_path) -> None:
    path = tmp_path / "new" / "deeper" / "file"
    for data in (b"a long first version", b"", b"\0second"):
        files.write_bytes(path, data)
        assert path.read_bytes() == data
        assert names(path.parent) == ["file"]


@pytest.mark.parametrize("failing", ["fsync", "write", "replace"])
def test_write_bytes_leaves_the_old_file_whole_when_the_disk_is_full(
    tmp_path, monkeypatch, failing
) -> None:
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing == "fsync":
        monkeypatch.setattr(os, "fsync", full)
    elif failing == "replace":
        monkeypatch.setattr(Path, "replace", full)
    else:
        real_open = Path.open

        def half(self: Path, mode: str):
            file = real_open(self, mode)
            file.write(b"ne")
            file.flush()
            file.close()
            full()

        monkeypatch.setattr(Path, "open", half)
    with pytest.raises(WriteError, match=r"file cannot be written: No space left on device$"):
        files.write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_write_bytes_puts_the_data_on_the_disk_before_it_gives_them_the_name(
    tmp_path, monkeypatch
) -> None:
    path = tmp_path / "file"
    seen = []

    def fsync(descriptor: int) -> None:
        seen.append((os.fstat(descriptor).st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_bytes(path, b"12345")
    # The second time it is the folder: the name has to be there too.
    assert [there for _, there in seen] == [False, True] and seen[0][0] == 5


def test_write_bytes_tells_of_a_folder_in_the_way(tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="folder cannot be written: Is a directory"):
        files.write_bytes(tmp_path / "folder", b"new")
    assert names(tmp_path) == ["folder"]


def test_write_bytes_tells_of_a_file_where_the_folder_should_be(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(WriteError) as failure:
        files.write_bytes(tmp_path / "file" / "inside", b"new")
    assert failure.value.exit_code == 73
    assert (tmp_path / "file").read_bytes() == b"old"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(JSON)
def test_write_json_gives_back_what_it_was_given(tmp_path_factory, value) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    files.write_json(path, value)
    assert json.loads(path.read_text(encoding="utf-8")) == value


def test_write_json_writes_scripts_as_people_read_them(tmp_path) -> None:
    path = tmp_path / "value.json"
    files.write_json(path, {"target": "folder:/数字/é"})
    assert "folder:/数字/é" in path.read_text(encoding="utf-8")


def test_write_json_writes_a_path_that_is_not_utf8(tmp_path) -> None:
    path = tmp_path / "value.json"
    name = os.fsdecode(b"folder:/\xff")
    files.write_json(path, {"target": name})
    assert json.loads(path.read_text(encoding="utf-8")) == {"target": name}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_write_json_refuses_what_json_has_no_word_for(tmp_path, value) -> None:
    path = tmp_path / "value.json"
    files.write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": value})
    assert path.read_text() == "1\n"


@given(st.dictionaries(st.text(st.characters(exclude_categories=())), JSON))
def test_read_state_gives_back_what_was_written(tmp_path_factory, values) -> None:
    path = tmp_path_factory.mktemp("state") / "state.json"
    values.pop("sha256", None)
    files.write_state(path, values)
    assert files.read_state(path) == values


def test_read_state_refuses_whatever_bit_is_flipped(tmp_path) -> None:
    path = tmp_path / "state.json"
    values = {"accuracy": 0.9375, "steps": 200, "name": "scratch", "none": None}
    files.write_state(path, values)
    data = path.read_bytes()
    refused = 0
    for place in range(len(data) * 8):
        changed = bytearray(data)
        changed[place // 8] ^= 1 << place % 8
        path.write_bytes(changed)
        try:
            # A blank may become a line break, or an "e" an "E": the values are what counts.
            assert files.read_state(path) == values
        except DataError as error:
            assert "state.json is damaged" in str(error) and "Remove it" in str(error)
            refused += 1
    assert refused > 0.9 * len(data) * 8


def test_read_state_tells_of_a_file_that_is_not_there(tmp_path) -> None:
    with pytest.raises(DataError, match="none.json cannot be read: No such file"):
        files.read_state(tmp_path / "none.json")


def test_is_whole_tells_files_by_what_they_hold(tmp_path) -> None:
    sha256 = files.write_bytes(tmp_path / "file", b"data")
    assert files.matches_sha256(tmp_path / "file", sha256)
    assert sha256 == files.sha256(tmp_path / "file")
    (tmp_path / "file").write_bytes(b"date")
    assert not files.matches_sha256(tmp_path / "file", sha256)
    assert not files.matches_sha256(tmp_path / "none", sha256)
    with pytest.raises(DataError, match="none cannot be read"):
        files.sha256(tmp_path / "none")


def test_set_aside_keeps_the_file_under_another_name(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"odd")
    for _ in range(2):
        files.set_aside(tmp_path / "file")
    assert names(tmp_path) == ["file.damaged"]


def test_expanded_knows_the_home_folder_and_leaves_what_is_none(monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert files.expand_user("~/data") == Path("/somewhere/data")
    assert files.expand_user("~nobody-of-that-name/data") == Path("~nobody-of-that-name/data")
