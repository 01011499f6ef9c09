"""Tests of the program that starts several processes: what it passes on, and how all of them end.

A small program stands in for ours. What ours do together is in test_cluster.py.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from made import program_help

from tl_keras import launch
from tl_keras.cli import launch_flags
from tl_keras.cli.launch_flags import Launch
from tl_keras.distributed import joining, local_cluster
from tl_keras.errors import UsageError
from tl_keras.runtime import interruption

ROOT = Path(__file__).resolve().parents[1]
PYTHON = sys.executable
EXIT_DELAY_SECONDS = 30.0

# The command line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], Launch(2, "main", ())),
        (["--"], Launch(2, "main", ())),
        (["--workers=3"], Launch(3, "main", ())),
        (["-workers=3"], Launch(3, "main", ())),
        (["--workers=1"], Launch(1, "main", ())),
        (["--workers=64"], Launch(64, "main", ())),
        (["--workers=2", "--workers=4"], Launch(4, "main", ())),
        (["--program=compare", "--", "--seeds=0"], Launch(2, "compare", ("--seeds=0",))),
        (["--", "--workers=9", "--help"], Launch(2, "main", ("--workers=9", "--help"))),
        (["--", "--a", "--", "--b"], Launch(2, "main", ("--a", "--", "--b"))),
        (["--workers=nix", "--help"], None),
        (["--help"], None),
        (["-help"], None),
        (["-h", "--", "--steps=1"], None),
    ],
)
def test_command_line_is_read(words, expected) -> None:
    assert launch_flags.parse(["launch", *words]) == expected


WRONG = [
    (["--workers=0"], "--workers=0: must be a whole number from 1 to 64"),
    (["--workers=65"], "--workers=65: must be a whole number from 1 to 64"),
    (["--workers=-1"], "--workers=-1: must be a whole number from 1 to 64"),
    (["--workers=2.0"], "--workers=2.0: must be a whole number from 1 to 64"),
    (["--workers="], "--workers=: must be a whole number from 1 to 64"),
    (["--workers=two"], "--workers=two: must be a whole number from 1 to 64"),
    (["--workers=²"], "--workers=²: must be a whole number from 1 to 64"),
    (["--workers=" + "1" * 5000], "must be a whole number from 1 to 64"),
    (["--program=launch"], "--program=launch: must be one of main, compare"),
    (["--program="], "--program=: must be one of main, compare"),
    (["--workers", "2"], "'--workers' is not a flag of tl_keras.launch"),
    (["2"], "'2' is not a flag of tl_keras.launch"),
    (["--steps=3"], "'--steps=3' is not a flag of tl_keras.launch"),
    (["--steps=3", "--", "--steps=3"], "Put the program's flags after --"),
    ([""], "'' is not a flag of tl_keras.launch"),
]


@pytest.mark.parametrize(("words", "told"), WRONG, ids=lambda value: str(value)[:40])
def test_mistake_on_the_command_line_is_told(words, told, capsys, monkeypatch) -> None:
    with pytest.raises(UsageError) as caught:
        launch_flags.parse(["launch", *words])
    assert told in str(caught.value)
    monkeypatch.setattr(local_cluster, "run", lambda *_: pytest.fail("it runs"))
    assert launch.main(["launch", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"tl_keras: {caught.value}\n")
    assert len(err.splitlines()) == 1


def test_program_prints_its_help_and_loads_nothing_heavy() -> None:
    assert program_help("launch") == launch_flags.USAGE
    assert f"[1 to {launch_flags.MAX_WORKERS}; " in launch_flags.USAGE
    assert f"[one of {', '.join(launch_flags.PROGRAMS)}]" in launch_flags.USAGE
    assert max(len(line) for line in launch_flags.USAGE.splitlines()) <= 100


# The processes

# Begins every program that stands in for ours: `index` is which it is, `folder` is of its own test.
BEGINNING = """#!{python}
import json, os, signal, sys, time
from pathlib import Path
from typing import IO

folder = Path({folder!r})
config = json.loads(os.environ["TF_CONFIG"])
index = config["task"]["index"]


def leave(name):
    (folder / f"{{name}}.new").write_text(str(os.getpid()))
    os.replace(folder / f"{{name}}.new", folder / name)


def wait_for(*names):
    deadline = time.monotonic() + 20
    while not all((folder / name).exists() for name in names):
        if time.monotonic() > deadline:
            sys.exit(f"nobody left {{names}}")
        time.sleep(0.01)


def on_term(do):
    signal.signal(signal.SIGTERM, do)


leave(f"began{{index}}")
"""

Make = Callable[[str], None]


def wait_for(*paths: Path) -> None:
    """Wait until there are all of these files."""
    deadline = time.monotonic() + EXIT_DELAY_SECONDS
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, paths
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """Return whether a process has not ended yet."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Iterator[Make]:
    """A function that has some code run in place of our programs; none may be left at the end."""
    path = tmp_path / "program"

    def make(code: str) -> None:
        path.write_text(BEGINNING.format(python=PYTHON, folder=str(tmp_path)) + code)
        path.chmod(0o755)

    monkeypatch.setattr(local_cluster.sys, "executable", str(path))
    yield make
    pids = [int(file.read_text()) for file in tmp_path.glob("began?")]
    # Those that were killed just now may take a moment.
    deadline = time.monotonic() + 2
    while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = [pid for pid in pids if runs(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert pids and not left


def run(workers: int = 2) -> tuple[int, float]:
    """Return the exit code of so many processes, and the seconds that they took."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    started = time.monotonic()
    code = local_cluster.run(workers, "main", ("--steps=3", "a b"))
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    return code, time.monotonic() - started


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_that_end_well_are_waited_for(stand_in, tmp_path, workers) -> None:
    stand_in("time.sleep(0.3 * index)\nleave(f'ended{index}')")
    assert run(workers)[0] == 0
    assert len([*tmp_path.glob("ended?")]) == workers


def test_each_process_has_a_tf_config_of_its_own(stand_in, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TF_CONFIG", "{}")
    monkeypatch.setenv("MARK", "of the launcher")
    stand_in(
        "told = [config, sys.argv[1:], os.environ['MARK'], os.getsid(0) == os.getpid()]\n"
        "told.append(sys.stdin.read())\n"
        "(folder / f'told{index}').write_text(json.dumps(told))"
    )
    assert run(3)[0] == 0
    told = [json.loads((tmp_path / f"told{index}").read_text()) for index in range(3)]
    configs = [one[0] for one in told]
    assert [config["task"] for config in configs] == [
        {"type": "worker", "index": index} for index in range(3)
    ]
    addresses = configs[0]["cluster"]["worker"]
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    assert all(config["cluster"] == {"worker": addresses} for config in configs)
    command = ["-m", "tl_keras.main", "--steps=3", "a b"]
    assert [one[1:] for one in told] == [[command, "of the launcher", True, ""]] * 3


def test_program_that_is_asked_for_runs(stand_in, tmp_path) -> None:
    stand_in("(folder / f'words{index}').write_text(' '.join(sys.argv[1:]))")
    assert launch.main(["launch", "--workers=1", "--program=compare", "--", "--seeds=0"]) == 0
    assert (tmp_path / "words0").read_text() == "-m tl_keras.compare --seeds=0"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="it gives no cores away here")
@pytest.mark.parametrize("workers", [1, 2])
def test_cores_are_divided_among_the_processes(stand_in, tmp_path, monkeypatch, workers) -> None:
    mine = os.sched_getaffinity(0)
    pin_to_cores = local_cluster.pin_to_cores

    def divide(pid, number, workers):
        pin_to_cores(pid, number, workers)
        (tmp_path / f"divided{number}").touch()

    monkeypatch.setattr(local_cluster, "pin_to_cores", divide)
    # They are given when the process is there already.
    stand_in(
        "wait_for(f'divided{index}')\n"
        "(folder / f'cores{index}').write_text(json.dumps([*os.sched_getaffinity(0)]))"
    )
    assert run(workers)[0] == 0
    cores = [json.loads((tmp_path / f"cores{index}").read_text()) for index in range(workers)]
    if len(mine) >= workers:
        assert sorted(core for some in cores for core in some) == sorted(mine)
    assert all(cores)


def test_report_that_cannot_be_written_is_told(stand_in, tmp_path) -> None:
    stand_in("leave(f'ready{index}')\nprint('the report')")
    with Path("/dev/full").open("wb") as full, launched(tmp_path, stdout=full) as process:
        _, err = process.communicate(timeout=EXIT_DELAY_SECONDS)
    assert process.returncode == 73
    assert err == "tl_keras: the output cannot be written: No space left on device\n"


def test_results_pass_as_they_are_and_logs_with_a_number(stand_in, capfd) -> None:
    stand_in(
        "if index == 0: print('the report\\n\\nits end')\n"
        "print(f'line of {index}\\n\\nlast of {index}', file=sys.stderr)"
    )
    assert run()[0] == 0
    out, err = capfd.readouterr()
    assert out == "the report\n\nits end\n"
    assert len(err.splitlines()) == 6
    for index in range(2):
        lines = [line for line in err.splitlines() if line.startswith(f"[{index}] ")]
        assert lines == [f"[{index}] line of {index}", f"[{index}] ", f"[{index}] last of {index}"]


def test_line_that_does_not_end_is_passed_on(stand_in, capfd) -> None:
    stand_in("print('out', end=''); print('log', end='', file=sys.stderr)")
    assert run(1)[0] == 0
    assert capfd.readouterr() == ("out", "[0] log")


def test_output_that_is_no_text_is_passed_on(stand_in, capsys) -> None:
    stand_in("sys.stdout.buffer.write(b'a\\xffb\\n')\nsys.stderr.buffer.write('ä\\n'.encode())")
    assert run(1)[0] == 0
    assert capsys.readouterr() == ("a\\xffb\n", "[0] ä\n")


def test_log_is_passed_on_while_the_processes_run(stand_in, tmp_path, monkeypatch) -> None:
    class Console:
        """Lets the process go on when its line has come."""

        def write(self, text: str) -> None:
            assert text == "[0] here\n"
            (tmp_path / "seen").touch()

        def flush(self) -> None:
            """Do nothing: nothing is kept."""

    monkeypatch.setattr(local_cluster.sys, "stderr", Console())
    stand_in("print('here', file=sys.stderr, flush=True)\nwait_for('seen')")
    assert run(1)[0] == 0


def test_processes_that_write_much_are_not_held_up(stand_in, capfd) -> None:
    stand_in("for _ in range(20000): print('out' * 9); print('log' * 9, file=sys.stderr)")
    assert run()[0] == 0
    out, err = capfd.readouterr()
    assert out == ("out" * 9 + "\n") * 20000
    assert sorted(err.splitlines()) == [
        f"[{index}] {'log' * 9}" for index in range(2) for _ in range(20000)
    ]


# How they end

STOPS = "on_term(lambda *_: (leave(f'told{index}'), sys.exit(75)))\nleave(f'ready{index}')\n"
DEAF = "on_term(signal.SIG_IGN)\nleave(f'ready{index}')\n"


@pytest.mark.parametrize("failing", [0, 2])
@pytest.mark.parametrize("code", [65, 1, 2])
def test_others_are_told_to_stop_where_one_fails(stand_in, tmp_path, failing, code) -> None:
    stand_in(
        f"{STOPS}wait_for('ready0', 'ready1', 'ready2')\n"
        f"if index == {failing}: sys.exit({code})\ntime.sleep(60)"
    )
    found, seconds = run(3)
    assert found == code
    assert seconds < 10
    told = sorted(path.name for path in tmp_path.glob("told?"))
    assert told == [f"told{index}" for index in range(3) if index != failing]


def test_processes_hear_by_themselves_that_one_was_killed(stand_in, tmp_path) -> None:
    stand_in(
        f"{STOPS}wait_for('ready0', 'ready1')\n"
        "if index == 0: leave('killed'); os.kill(os.getpid(), signal.SIGKILL)\n"
        "wait_for('killed'); time.sleep(0.5); sys.exit(76)"
    )
    assert run()[0] == 76
    assert not [*tmp_path.glob("told?")]


def test_one_that_is_killed_is_a_loss_even_where_the_others_do_well(stand_in) -> None:
    stand_in("if index: os.kill(os.getpid(), signal.SIGKILL)")
    assert run()[0] == 76


def test_all_have_an_end_where_one_was_killed(stand_in, monkeypatch) -> None:
    monkeypatch.setattr(local_cluster, "PEER_LOSS_SECONDS", 1.0)
    stand_in(
        f"{STOPS}wait_for('ready0', 'ready1')\n"
        "if index: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)"
    )
    code, seconds = run()
    assert code == 76
    assert 1 < seconds < 10


@pytest.mark.parametrize("stopped", [False, True])
def test_process_that_does_not_listen_is_killed(stand_in, monkeypatch, stopped) -> None:
    monkeypatch.setattr(local_cluster, "END_SECONDS", 1.0)
    stop = "os.kill(os.getpid(), signal.SIGSTOP)\n" if stopped else ""
    stand_in(f"{DEAF}wait_for('ready0', 'ready1')\nif index: sys.exit(65)\n{stop}time.sleep(60)")
    code, seconds = run()
    assert code == 65
    assert 1 < seconds < 10


def test_processes_have_time_to_end() -> None:
    assert local_cluster.END_SECONDS > interruption.GRACE_SECONDS + 5
    assert local_cluster.PEER_LOSS_SECONDS > 3 * joining.HEARTBEAT_SECONDS


def test_processes_that_run_are_ended_where_another_cannot_be_started(
    stand_in, tmp_path, monkeypatch
) -> None:
    started = local_cluster._start_process

    def start(command, variables, number, workers):
        if number:
            wait_for(tmp_path / "ready0")
            raise BlockingIOError("no more processes")
        return started(command, variables, number, workers)

    monkeypatch.setattr(local_cluster, "_start_process", start)
    stand_in(f"{DEAF}time.sleep(60)")
    with pytest.raises(BlockingIOError):
        run()


@contextlib.contextmanager
def launched(
    tmp_path: Path, code: str = "", stdout: IO[bytes] | int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """Start the launcher itself, and wait until both of what stands in for our program run."""
    code = (
        f"import sys; from tl_keras import launch;"
        f"from tl_keras.distributed import local_cluster; sys.executable = {sys.executable!r};"
        f"{code}sys.exit(launch.main(['launch', '--workers=2']))"
    )
    process = subprocess.Popen(
        [PYTHON, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        wait_for(tmp_path / "ready0", tmp_path / "ready1")
        yield process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def answering(number: int, answer: Any) -> Iterator[None]:
    """Set what this process does at a signal; what is started inside ignores it where this does.

    nohup has us ignore SIGHUP, and a shell has its background jobs ignore SIGINT.
    """
    before = signal.signal(number, answer)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_passed_on(stand_in, tmp_path, number) -> None:
    stand_in(
        "def stop(*_):\n"
        "    on_term(signal.SIG_IGN)\n"
        "    time.sleep(0.5)\n"
        "    print('stopped', file=sys.stderr, flush=True)\n"
        "    sys.exit(75)\n"
        "on_term(stop)\nleave(f'ready{index}')\ntime.sleep(60)"
    )
    with answering(number, signal.default_int_handler), launched(tmp_path) as process:
        process.send_signal(number)
        out, err = process.communicate(timeout=EXIT_DELAY_SECONDS)
    assert (process.returncode, out) == (75, "")
    assert sorted(err.splitlines()) == ["[0] stopped", "[1] stopped"]


def test_what_nohup_starts_outlives_its_terminal(stand_in, tmp_path) -> None:
    stand_in("leave(f'ready{index}')\ntime.sleep(1)\nprint('the report')")
    with answering(signal.SIGHUP, signal.SIG_IGN), launched(tmp_path) as process:
        process.send_signal(signal.SIGHUP)
        out, _ = process.communicate(timeout=EXIT_DELAY_SECONDS)
    assert (process.returncode, out) == (0, "the report\n")


def test_second_signal_is_passed_on_too(stand_in, tmp_path) -> None:
    stand_in(
        "def first(*_):\n"
        "    on_term(lambda *_: sys.exit(75))\n"
        "    leave(f'told{index}')\n"
        "on_term(first)\nleave(f'ready{index}')\n"
        "for _ in range(600): time.sleep(0.1)"
    )
    with launched(tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        wait_for(tmp_path / "told0", tmp_path / "told1")
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=EXIT_DELAY_SECONDS)
    assert process.returncode == 75


def test_process_that_does_not_listen_to_a_signal_is_killed_when_another_does(
    stand_in, tmp_path
) -> None:
    stand_in(
        "on_term(signal.SIG_IGN if index else lambda *_: sys.exit(75))\n"
        "leave(f'ready{index}')\ntime.sleep(60)"
    )
    with launched(tmp_path, "local_cluster.END_SECONDS = 1.0;") as process:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=EXIT_DELAY_SECONDS)
    assert process.returncode == 75
