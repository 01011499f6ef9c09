"""Tests of the workdir: one experiment each, which no other settings may continue."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tl_keras.config import Config, Training, from_flat, named_options
from tl_keras.errors import DataError, StoppedError, UsageError, WriteError
from tl_keras.storage.files import read_state, write_state
from tl_keras.storage.workdir import (
    LOG,
    VERSION,
    VERSION_NAME,
    Workdir,
    _LogFile,
    default_name,
    scratch,
)


@pytest.fixture(autouse=True)
def _log_is_given_back():
    before = LOG.handlers[:], LOG.level, LOG.propagate
    yield
    for handler in LOG.handlers:
        handler.close()
    LOG.handlers[:], LOG.level, LOG.propagate = before


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(workdir=str(tmp_path / "work"))


FLOAT32 = ["float32", "float32", "as --precision says"]
HERE = {"processor": "one", "intra_op_threads": "2"}


def opened(config: Config, apart_from=()) -> Workdir:
    with Workdir(config, apart_from) as workdir:
        return workdir


def claimed(config: Config, source_weights: str = "", environment=HERE) -> Workdir:
    with Workdir(config) as workdir:
        workdir.claim(config, source_weights, environment, FLOAT32)
        return workdir


def test_workdir_is_free_until_an_experiment_claims_it(config) -> None:
    opened(config)
    claimed(dataclasses.replace(config, shots=5))
    with pytest.raises(UsageError):
        Workdir(config)


def test_workdir_is_that_of_one_process_at_a_time(config) -> None:
    with Workdir(config), pytest.raises(StoppedError) as caught:
        Workdir(config)
    assert f"--workdir={config.workdir} is in use by process {os.getpid()};" in str(caught.value)
    opened(config)
    with pytest.raises(KeyboardInterrupt), Workdir(config):
        raise KeyboardInterrupt
    claimed(config)
    with pytest.raises(UsageError):
        Workdir(dataclasses.replace(config, shots=5))
    opened(config)


def test_workdir_refuses_other_weights_of_the_same_name(config) -> None:
    config = dataclasses.replace(config, source_weights="a.weights.h5")
    claimed(config, "abc")
    with pytest.raises(UsageError, match="a.weights.h5 is not the file that --workdir="):
        claimed(config, "def")
    claimed(config, "abc")


def test_workdir_tells_of_another_environment_and_keeps_both(config, capfd) -> None:
    there = {**HERE, "intra_op_threads": "8"}
    assert claimed(config).history == {
        "environments": [HERE],
        "changes": [],
        "precision_found": FLOAT32,
    }
    assert capfd.readouterr().err == ""
    assert claimed(config, environment=there).history["environments"] == [HERE, there]
    told = capfd.readouterr().err
    assert "last bits may differ: intra_op_threads was 2, is 8" in told
    assert claimed(config).history["environments"] == [HERE, there]


def test_workdir_lets_settings_change_that_the_user_names_and_keeps_that_they_did(config) -> None:
    claimed(config)
    longer = dataclasses.replace(config, training=Training(steps=9, learning_rate=0.5))
    with pytest.raises(UsageError, match="--steps was 0, is 9"):
        claimed(dataclasses.replace(longer, allow_changed="learning_rate"))
    changed = claimed(dataclasses.replace(longer, allow_changed="learning_rate,steps"))
    assert changed.history["changes"] == [
        "--steps was 0, is 9", "--learning_rate was 0.001, is 0.5",
    ]  # fmt: skip
    assert claimed(longer).history["changes"] == changed.history["changes"]
    with pytest.raises(UsageError, match="--steps was 9, is 0"):
        Workdir(config)


def test_workdir_keeps_the_settings_by_flag_name(config) -> None:
    workdir = claimed(config)
    settings = read_state(workdir.root / "config.json")
    settings["seeds"] = tuple(settings["seeds"])
    assert from_flat(settings) == config


def test_workdir_has_a_place_for_each_part(config) -> None:
    workdir = opened(config)
    assert workdir.arm("transfer", 3) == Path(config.workdir) / "transfer-3"


def test_workdir_is_opened_again_by_the_same_experiment(config) -> None:
    first = claimed(config)
    assert claimed(config).root == first.root


@pytest.mark.parametrize(
    "change",
    [{"seeds": (0, 1, 7)}, {"baseline": False}, {"debug": True}, {"data_dir": "elsewhere"}],
    ids=lambda change: next(iter(change)),
)
def test_workdir_accepts_what_does_not_change_the_experiment(config, change) -> None:
    claimed(config)
    name, value = next(iter(change.items()))
    again = claimed(dataclasses.replace(config, **change))
    kept = read_state(again.root / "config.json")[name]
    assert kept == (list(value) if isinstance(value, tuple) else value)


def test_workdir_refuses_other_settings_and_lists_the_differences(config) -> None:
    claimed(config)
    before = (Path(config.workdir) / "config.json").read_bytes()
    other = dataclasses.replace(config, shots=5, training=Training(learning_rate=0.5))
    with pytest.raises(UsageError) as refusal:
        Workdir(other)
    message = str(refusal.value)
    assert f"--workdir={config.workdir}" in message
    assert "--shots was all, is 5" in message
    assert "--learning_rate was 0.001, is 0.5" in message
    assert "source" not in message
    assert "seeds" not in message
    assert (Path(config.workdir) / "config.json").read_bytes() == before


def test_workdir_from_before_a_flag_was_run_with_its_default(config) -> None:
    path = claimed(config).root / "config.json"
    settings = read_state(path)
    del settings["penalty"]
    write_state(path, settings)
    opened(config)
    with pytest.raises(UsageError, match="--penalty was , is l2"):
        Workdir(dataclasses.replace(config, penalty="l2"))


def test_workdir_lets_settings_differ_that_it_is_told_of(config) -> None:
    claimed(config)
    other = dataclasses.replace(config, method="joint")
    assert opened(other, apart_from=("method",)).root == Path(config.workdir)
    with pytest.raises(UsageError, match="--shots was all, is 5"):
        Workdir(dataclasses.replace(other, shots=5), apart_from=("method",))


def another(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value, 99)
    return value + 1 if isinstance(value, (int, float)) else f"{value}x"


# Text of a form of its own.
OTHER = {
    "source_preprocessing": "torch", "shots": 3, "augment": "flip", "source_augment": "flip",
    "scratch_augment": "flip", "checkpoint_every": "7",
    "body_lr_multiplier": "0.5",
}  # fmt: skip


FREE = {
    *("workdir", "data_dir", "debug", "seeds", "baseline", "source_weights_sha256"),
    *("cache_gb", "checkpoint_every", "allow_changed", "deterministic", "max_bad_images"),
    *("max_pixels", "check_pictures", "stream_pictures", "picture_cache", "picture_cache_gb"),
    *("strategy", "replicas", "startup_timeout", "follow_links"),
}


@pytest.mark.parametrize("name", [name for name, _, _ in named_options(Config())])
def test_every_setting_makes_another_experiment_unless_it_changes_no_result(name) -> None:
    values = Config().flat()
    other = from_flat({**values, name: OTHER.get(name) or another(values[name])})
    assert (default_name(other) == default_name(Config())) == (name in FREE)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '{"shots": ', '{"shots": 5}'])
def test_workdir_tells_of_a_damaged_config(config, text) -> None:
    claimed(config)
    path = Path(config.workdir) / "config.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"config\.json is damaged: .*\. Remove it"):
        Workdir(config)
    assert path.read_text() == text


def test_workdir_tells_of_a_config_that_is_no_text(config) -> None:
    path = Path(config.workdir) / "config.json"
    path.parent.mkdir()
    path.write_bytes(b'{"target": "\xff"}')
    with pytest.raises(DataError, match="is damaged"):
        Workdir(config)


def test_workdir_that_cannot_be_made_is_told_in_one_line(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="work cannot be written: Not a directory$"):
        Workdir(Config(workdir=str(tmp_path / "file" / "work")))


def test_workdir_log_that_cannot_be_written_is_told_in_one_line(config) -> None:
    (Path(config.workdir) / "log.txt").mkdir(parents=True)
    with pytest.raises(WriteError, match="log.txt cannot be written: Is a directory$"):
        Workdir(config)


def test_workdir_takes_the_home_folder_that_a_shell_leaves_to_us(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened(Config(workdir="~/work")).root == tmp_path / "work"


def test_workdir_logs_plain_lines_to_the_console_and_times_to_the_file(config, capfd) -> None:
    for line in ("first", "second"):
        with Workdir(config) as workdir:
            LOG.info("%s line: 数字 %s", line, os.fsdecode(b"\xff"))
    written = (workdir.root / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [re.sub(r"^[-\d]+ [\d:,]+ ", "", line) for line in written] == [
        "INFO first line: 数字 \\udcff",
        "INFO second line: 数字 \\udcff",
    ]
    console = capfd.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in console] == ["first line", "second line"]
    assert not LOG.isEnabledFor(logging.DEBUG)


class Lines(logging.Handler):
    """A caller's handler, which says whether it was closed."""

    def __init__(self):
        super().__init__()
        self.lines: list[str] = []
        self.is_closed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def close(self) -> None:
        self.is_closed = True
        super().close()


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_workdir_leaves_the_handlers_and_the_level_of_a_caller_alone(config, error) -> None:
    callers = Lines()
    LOG.handlers[:] = [callers]
    LOG.setLevel(logging.ERROR)
    LOG.propagate = True
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt), Workdir(config):
            LOG.info("a line")
            if error:
                raise error
        assert (LOG.handlers, callers.is_closed) == ([callers], False)
        assert (LOG.level, LOG.propagate) == (logging.ERROR, True)
    assert callers.lines == ["a line"] * 2
    LOG.info("a line that is no caller's wish")
    assert len(callers.lines) == 2


def test_workdir_is_given_back_where_its_log_cannot_be_closed(config, monkeypatch) -> None:
    def full(_: object) -> None:
        raise WriteError("log.txt cannot be written")

    before = LOG.handlers[:], LOG.level, LOG.propagate
    with monkeypatch.context() as patch, pytest.raises(WriteError), Workdir(config):
        patch.setattr(_LogFile, "close", full)
    assert (LOG.handlers, LOG.level, LOG.propagate) == before
    opened(config)


@given(st.text(), st.text(), st.text())
def test_default_name_is_a_safe_file_name(source, target, weights) -> None:
    name = default_name(Config(source=source, target=target, source_weights=weights))
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", name)
    assert name not in (".", "..")
    assert len(name) <= 100
    assert Path("runs", name).parent == Path("runs")


def test_default_name_tells_source_target_and_method() -> None:
    name = default_name(Config(source="mnist", target="folder:/path/to/../my set", method="l2sp"))
    assert re.fullmatch(r"mnist_to_folder_path_to_.._my_set-l2sp-[0-9a-f]{8}", name)
    name = default_name(Config(source_weights="runs/one/source.weights.h5", target="usps"))
    assert name.startswith("source.weights_to_usps-finetune-")


def test_default_name_differs_where_only_the_end_of_the_settings_does() -> None:
    long = "folder:/" + "x" * 300
    names = {default_name(Config(target=long + end)) for end in ("/a", "/b")}
    assert len(names) == 2
    assert max(map(len, names)) <= 100


def test_workdir_without_a_name_lies_in_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    workdir = claimed(Config())
    assert workdir.root == Path("runs") / default_name(Config())
    assert json.loads((workdir.root / "config.json").read_text())["target"] == "digits"


def test_precision_is_that_which_the_folder_was_begun_with(config) -> None:
    begun = ["bfloat16", "float32", "a processor"]
    with Workdir(config) as workdir:
        assert workdir.precision(config) is None
        workdir.claim(config, "", HERE, begun)
        assert workdir.history["precision_found"] == begun
        assert workdir.precision(config) == begun
    other = dataclasses.replace(config, precision="float32", allow_changed="precision")
    assert opened(other).precision(other) is None
    path = Path(config.workdir) / "config.json"
    old = {k: v for k, v in read_state(path).items() if not k.startswith("precision")}
    write_state(path, old)
    assert opened(config).precision(config)[0] == "float32"
    assert opened(other).precision(other) is None


def test_scratch_folder_goes_away_and_takes_along_what_a_killed_process_left(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = "import os, tl_keras.storage.workdir as w; s = w.scratch(); s.__enter__(); os._exit(0)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)})
    [left] = tmp_path.iterdir()
    # Begun in this moment, or a user's own: not a killed process's.
    young, own = tmp_path / "tl_keras-copy-young", tmp_path / "tl_keras-copy-own"
    young.mkdir()
    Workdir(Config(workdir=str(own))).__exit__()
    (own / "lock").touch()
    with scratch() as used, scratch() as folder:
        there = [used.parent, folder.parent, young, own]
        assert sorted(tmp_path.iterdir()) == sorted(there) and left not in there
        Workdir(Config(workdir=str(folder))).__exit__()
    assert sorted(tmp_path.iterdir()) == sorted([young, own])


@pytest.mark.parametrize(
    ("old", "words"),
    [
        ({"shots": 0}, {}),
        ({"shots": 5}, {"shots": 5}),
        ({"method": "joint", "joint_lambda": 0.5}, {"method": "joint:0.5"}),
        (
            {"method": "features", "feature_head": "mlp", "feature_units": 32},
            {"method": "features:32"},
        ),
        ({"pretrain": "simclr", "temperature": 0.5}, {"pretrain": "simclr:0.5"}),
        ({"pretrain": "simclr"}, {"pretrain": "simclr"}),
    ],
)
def test_workdir_of_flags_that_had_other_names_is_continued(config, old, words) -> None:
    """Numbers of methods had flags of their own, and all labels were 0 shots."""
    asked = from_flat({**config.flat(), "source_augment": "flip", **words})
    path = Path(config.workdir) / "config.json"
    path.parent.mkdir()
    named = {"joint_lambda": 1.0, "feature_head": "linear", "feature_units": 256}
    settings = {**asked.flat(), **named, "temperature": 0.2, "shots": 0, **old}
    write_state(path, {**settings, VERSION_NAME: VERSION})
    with Workdir(asked) as workdir:
        workdir.claim(asked, "", {}, ("float32", "float32", "small"))
    with pytest.raises(UsageError, match="--batch_size was 128, is 9"):
        Workdir(from_flat({**asked.flat(), "batch_size": 9}))
