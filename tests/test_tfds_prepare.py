"""Tests of finding and preparing datasets of tensorflow-datasets."""

import json
import os
import socket
import threading
from pathlib import Path

import pytest
from made_datasets import MadeRagged

from tl_keras.data import reading, tfds_prepare
from tl_keras.errors import DataError, UsageError, WriteError


@pytest.fixture(autouse=True)
def folders_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see or touch what the user has prepared."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> socket.socket:
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mnits", "did you mean .*mnist.*cifar10, .*folder:PATH"),
        ("", "is not known"),
        ("../mnist", "is not known"),
        ("huggingface:mnist", "is not known"),
        ("emnist/lettres", "no such configuration. Choose one of balanced, .*letters"),
        ("mnist/letters", "no such configuration. Leave it out"),
        ("mnist:9.9.9", "cannot be loaded at version 9.9.9"),
        ("imdb_reviews", r"no classified images.*text \(Text\)"),
    ],
)
def test_unknown_dataset_is_a_usage_error_in_one_line(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        reading.open_dataset(name)
    assert "\n" not in str(raised.value)


def test_missing_file_without_network_names_url_and_folder(offline: None, tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "usps.bz2").write_bytes(b"")
    with pytest.raises(DataError) as raised:
        reading.open_dataset("usps", data_dir=str(tmp_path))
    message = str(raised.value)
    url = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/usps.t.bz2"
    assert f"Put usps.t.bz2 from {url} into {manual}" in message
    assert "usps.bz2 from" not in message
    assert not (tmp_path / "usps").exists()


def test_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(tfds_prepare, "_CONNECT_SECONDS", 0.2)
    host = f"127.0.0.1:{listener.getsockname()[1]}"
    with listener:
        assert tfds_prepare._find_unreachable({("http", host)}) == set()
    assert tfds_prepare._find_unreachable({("http", host)}) == {("http", host)}
    given_up = threading.Event()

    def wait(*_: object) -> socket.socket:
        given_up.wait(60)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", wait)
    assert tfds_prepare._find_unreachable({("http", host)}) == {("http", host)}
    given_up.set()


def test_damaged_manual_file_is_a_data_error_and_leaves_nothing(tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    for name in ("usps.bz2", "usps.t.bz2"):
        (manual / name).write_bytes(b"not bzip2")
    with pytest.raises(DataError, match=r"usps\.bz2 cannot be unpacked"):
        reading.open_dataset("usps", data_dir=str(tmp_path))
    assert not list(tmp_path.glob("usps/*"))


def test_manual_file_with_another_checksum_is_a_data_error(tmp_path: Path) -> None:
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "cifar-10-binary.tar.gz").write_bytes(b"not a tar file")
    with pytest.raises(DataError, match="wrong checksum") as raised:
        reading.open_dataset("cifar10", data_dir=str(tmp_path))
    assert "\n" not in str(raised.value)


def test_first_folder_that_holds_a_dataset_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [tmp_path / name for name in ("given", "environment", "home/tensorflow_datasets")]
    monkeypatch.setenv("TFDS_DATA_DIR", str(names[1]))
    assert tfds_prepare.search_folders(str(names[0])) == names
    assert tfds_prepare.search_folders("") == names[1:]
    reading.open_dataset("made_tall", data_dir=str(names[2]))
    builder = tfds_prepare.find_builder("made_tall", str(names[0]))
    assert Path(builder.data_dir) == names[2] / "made_tall" / "1.0.0"
    assert not names[0].exists()


def test_older_prepared_version_is_used(tmp_path: Path) -> None:
    reading.open_dataset("made_tall", data_dir=str(tmp_path))
    current = tmp_path / "made_tall" / "1.0.0"
    info = json.loads((current / "dataset_info.json").read_text())
    (current / "dataset_info.json").write_text(json.dumps(info | {"version": "0.9.0"}))
    current.rename(current.with_name("0.9.0"))
    dataset = reading.open_dataset("made_tall", data_dir=str(tmp_path))
    assert len(dataset.read("test", 4).images) == 20
    assert not current.exists()


def test_preparing_passes_over_folders_that_nobody_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed = tmp_path / "sealed"
    sealed.mkdir()
    sealed.chmod(0o555)
    assert not tfds_prepare.can_write(sealed)
    assert not tfds_prepare.can_write(sealed / "below" / "it")
    assert tfds_prepare.can_write(tmp_path / "new" / "folder")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "open"))
    reading.open_dataset("made_tall", data_dir=str(sealed))
    assert (tmp_path / "open" / "made_tall").exists()
    monkeypatch.setenv("TFDS_DATA_DIR", str(sealed / "too"))
    monkeypatch.setenv("HOME", str(sealed))
    with pytest.raises(WriteError, match="--data_dir"):
        reading.open_dataset("made_ragged", data_dir=str(sealed))


def test_full_disk_while_preparing_is_a_write_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(MadeRagged, "_download_and_prepare", full)
    with pytest.raises(WriteError, match="No space left on device"):
        reading.open_dataset("made_ragged", data_dir=str(tmp_path))
    assert not list(tmp_path.glob("made_ragged/*"))
