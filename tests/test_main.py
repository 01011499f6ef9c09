"""Tests of the program: its exit codes, and what it prints where."""

import pickle
import subprocess
import sys
import types
from pathlib import Path

import pytest
from made import program

from tl_keras import experiment as room
from tl_keras import main
from tl_keras.cli import flags
from tl_keras.config import Config
from tl_keras.errors import DataError, DivergedError, StoppedError, UsageError, WriteError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "--helpfull", "--helpshort"])
def test_help_is_given_whatever_else_is_wrong(word, capsys) -> None:
    assert main.main(["tl_keras", "--steps=-1", word]) == 0
    printed = capsys.readouterr()
    assert printed.out == flags.help_text(full=word == "--helpfull") + "\n"
    assert printed.err == ""


def test_help_program_prints_our_flags_alone_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from tl_keras.main import main; code = main(['tl_keras', '--help']);"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0
    assert done.stdout == flags.help_text() + "\n"
    heavy = {"tensorflow", "keras", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "h5py"}
    heavy |= {"tensorflow_datasets", "tensorboard", "mlxtend"}
    assert not heavy & set(done.stderr.split())


def test_main_ends_with_2_and_one_line_for_a_wrong_flag(capsys) -> None:
    assert main.main(["tl_keras", "--steps=-1"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("tl_keras: ")
    assert "--steps=-1: must be a whole number from 0 to 1000000000" in printed.err
    assert len(printed.err.splitlines()) == 1


@pytest.mark.parametrize("words", [["--debug"], ["--debug=true"]])
def test_main_shows_the_traceback_with_debug(words, capsys) -> None:
    assert main.main(["tl_keras", *words, "--model=nothing"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("tl_keras: --model=nothing is not known")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (DataError("a.png is damaged"), 65),
        (DivergedError("the loss is not finite"), 70),
        (WriteError("x cannot be written"), 73),
        (StoppedError("stopped at step 3"), 75),
        (UsageError("--shots=3 is too many"), 2),
        (KeyboardInterrupt(), 75),
    ],
    ids=lambda value: type(value).__name__,
)
def test_main_ends_with_the_code_of_what_went_wrong(raised, code, monkeypatch, capfd) -> None:
    def run(config: Config) -> None:
        raise raised

    stub = types.SimpleNamespace(start_tensorflow=lambda *_: None, run=run)
    monkeypatch.setitem(sys.modules, "tl_keras.experiment.experiment", stub)
    monkeypatch.setattr(room, "experiment", stub, raising=False)
    assert main.main(["tl_keras"]) == code
    printed = capfd.readouterr()
    assert printed.out == ""
    message = str(raised) or "stopped; the same command continues it"
    assert printed.err == f"tl_keras: {message}\n"
    assert main.main(["tl_keras", "--debug"]) == code
    assert ("Traceback" in capfd.readouterr().err) == (not isinstance(raised, KeyboardInterrupt))


def test_main_shows_the_traceback_where_a_flagfile_asks_for_it(
    tmp_path, monkeypatch, capfd
) -> None:
    path = tmp_path / "debug.flags"
    path.write_text("--debug\n")

    def run(config: Config) -> None:
        raise DataError("a.png is damaged")

    stub = types.SimpleNamespace(start_tensorflow=lambda *_: None, run=run)
    monkeypatch.setitem(sys.modules, "tl_keras.experiment.experiment", stub)
    monkeypatch.setattr(room, "experiment", stub, raising=False)
    for words, shown in (([], True), (["--nodebug"], False)):
        assert main.main(["tl_keras", f"--flagfile={path}", *words]) == 65
        assert ("Traceback" in capfd.readouterr().err) == shown


STUB = """
import os, sys, types
import tl_keras
from tl_keras import main

stub = types.SimpleNamespace(
    start_tensorflow=lambda *_: os.write(2, b"chatter\\n"),
    run=lambda config: types.SimpleNamespace(text="the report"),
)
tl_keras.experiment.experiment = sys.modules["tl_keras.experiment.experiment"] = stub
sys.exit(main.main(sys.argv))
"""


@pytest.mark.parametrize(("words", "errors"), [([], ""), (["--debug"], "chatter\n")])
def test_main_keeps_back_what_libraries_write_while_they_load(words, errors) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STUB, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the report\n", errors)


def test_program_ends_with_2_and_one_line_for_a_wrong_flag() -> None:
    done = program("tl_keras.main", "--batch_size=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert "--batch_size=0: must be a whole number from 1 to 65536" in done.stderr


def test_program_ends_with_73_and_one_line_where_it_cannot_write(tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = program("tl_keras.main", f"--workdir={tmp_path / 'file' / 'work'}")
    assert (done.returncode, done.stdout) == (73, "")
    assert len(done.stderr.splitlines()) == 1
    assert "cannot be written: Not a directory" in done.stderr


def before_tensorflow(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the program, which has to end before it has loaded TensorFlow."""
    code = (
        "import sys; from tl_keras.main import main; code = main(['tl_keras', *sys.argv[1:]]);"
        "sys.exit(code if 'tensorflow' not in sys.modules else 99)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_main_tells_of_an_unknown_dataset_before_tensorflow_is_loaded() -> None:
    done = before_tensorflow("--target=mnits")
    assert done.returncode == 2
    assert done.stderr.startswith("tl_keras: dataset 'mnits' is not known: did you mean mnist")


def test_main_refuses_unsafe_weights_before_tensorflow_is_loaded(tmp_path) -> None:
    path = tmp_path / "a.weights.h5"
    path.write_bytes(pickle.dumps({"dense/kernel": [1.0]}))
    done = before_tensorflow(f"--source_weights={path}", f"--workdir={tmp_path / 'work'}")
    assert (done.returncode, len(done.stderr.splitlines())) == (65, 1)
    assert done.stderr.startswith(f"tl_keras: --source_weights={path} is a pickle")
    assert not (tmp_path / "work").exists()
