"""SIGTERM and SIGINT in a small process: it ends with 75 and one line, at once or when all is safe.

What the whole program does then is in test_kills.py.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tl_keras.errors import StoppedError
from tl_keras.runtime import interruption

ROOT = Path(__file__).resolve().parents[1]
OPEN = Path("/proc/self/fd")
LINE = f"tl_keras: {interruption.MESSAGE}\n"
SIGNALS = [signal.SIGTERM, signal.SIGINT]

# Answers like the program does; the work comes in between.
SCRIPT = """
import ctypes, logging, os, sys, time
from types import SimpleNamespace
from tl_keras.cli import console
from tl_keras.runtime import interruption

def ready():
    print("ready", flush=True)

def work(settings):
{work}
    return "done"

settings = SimpleNamespace(debug=False)
sys.exit(console.run_command(["name"], lambda argv: settings, lambda: "help", work))
"""


def started(work: str) -> subprocess.Popen[str]:
    """Start a process that does some work, and wait until it says that it is ready."""
    indented = "\n".join(f"    {line}" for line in work.strip().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(work=indented)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], *numbers: int, apart: float = 0.3):
    """Send signals, and return the exit code, both outputs, and the seconds since the last."""
    for place, number in enumerate(numbers):
        time.sleep(apart if place else 0.0)
        process.send_signal(number)
    sent = time.monotonic()
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, out, err, time.monotonic() - sent


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "waiting",
    # Python is asleep; or in C code that gives the lock of the interpreter back, as TensorFlow
    # does; or never leaves Python.
    ["time.sleep(60)", "ctypes.CDLL(None).sleep(60)", "while True: pass"],
)
def test_process_that_saves_nothing_ends_at_once(number, waiting) -> None:
    process = started(f"ready()\n{waiting}\n{waiting}")
    code, out, err, seconds = ended(process, number)
    assert (code, out, err) == (StoppedError.exit_code, "", LINE)
    assert seconds < 5


SAVING = """
with interruption.graceful_stop():
    ready()
    while not interruption.stop_requested():
        time.sleep(0.01)
    time.sleep(0.5)
    print("saved")
    raise interruption.stopped_error()
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_process_that_saves_ends_when_it_has_saved(number) -> None:
    code, out, err, _ = ended(started(SAVING), number)
    assert (code, out, err) == (StoppedError.exit_code, "saved\n", LINE)


STUCK = """
interruption.GRACE_SECONDS = {grace}
with interruption.graceful_stop():
    ready()
    ctypes.CDLL(None).sleep(60)
    ctypes.CDLL(None).sleep(60)
"""


@pytest.mark.parametrize("numbers", [(a, b) for a in SIGNALS for b in SIGNALS])
def test_second_signal_ends_the_process_at_once(numbers) -> None:
    code, _, err, seconds = ended(started(STUCK.format(grace=50)), *numbers)
    assert (code, err) == (StoppedError.exit_code, LINE)
    assert seconds < 5


def test_step_that_takes_longer_than_the_grace_time_is_not_waited_for() -> None:
    process = started(STUCK.format(grace=1.0))
    code, _, err, seconds = ended(process, signal.SIGTERM)
    assert (code, err) == (StoppedError.exit_code, LINE)
    assert 0.9 < seconds < 6


def test_grace_time_leaves_some_of_the_ten_seconds_that_are_promised() -> None:
    assert 5 <= interruption.GRACE_SECONDS <= 9


def test_signal_that_comes_while_the_last_state_is_saved_ends_the_process_after_it() -> None:
    # The promise to look is over when the signal was answered by waiting for it.
    process = started(
        "interruption.GRACE_SECONDS = 1.0\n"
        "with interruption.graceful_stop():\n    ready()\n    time.sleep(0.5)\n"
        "print('saved', flush=True)\ntime.sleep(60)"
    )
    code, out, err, seconds = ended(process, signal.SIGTERM)
    assert (code, out, err) == (StoppedError.exit_code, "saved\n", LINE)
    assert seconds < 6


def test_process_that_is_done_within_the_grace_time_is_done() -> None:
    process = started("with interruption.graceful_stop():\n    ready()\n    time.sleep(1)")
    code, out, err, seconds = ended(process, signal.SIGTERM)
    assert (code, out, err) == (0, "done\n", "")
    assert seconds < 5


def test_process_is_told_where_its_console_is_hidden() -> None:
    process = started("with console.suppress_output(False):\n    ready()\n    time.sleep(60)")
    assert ended(process, signal.SIGTERM)[:3] == (StoppedError.exit_code, "", LINE)


def test_process_without_a_console_ends_too() -> None:
    process = started("os.close(2)\nready()\ntime.sleep(60)")
    assert ended(process, signal.SIGTERM)[:2] == (StoppedError.exit_code, "")


def test_log_is_written_before_the_process_ends(tmp_path) -> None:
    log = tmp_path / "log.txt"
    process = started(
        "import logging.handlers\n"
        f"handler = logging.handlers.MemoryHandler(99, target=logging.FileHandler({str(log)!r}))\n"
        "logger = logging.getLogger('tl_keras')\nlogger.addHandler(handler)\n"
        "logger.warning('the last line')\nready()\ntime.sleep(60)"
    )
    assert ended(process, signal.SIGTERM)[0] == StoppedError.exit_code
    assert log.read_text() == "the last line\n"


def test_other_signals_are_not_answered() -> None:
    process = started(
        "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\nready()\ntime.sleep(1)"
    )
    assert ended(process, signal.SIGUSR1)[:3] == (0, "done\n", "")


def test_handlers_are_as_they_were_when_nobody_listens_any_more() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    descriptors = len([*OPEN.iterdir()])
    threads = threading.active_count()
    for _ in range(3):
        with interruption.handle_signals():
            assert not interruption.stop_requested()
            assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert len([*OPEN.iterdir()]) == descriptors
    assert threading.active_count() == threads


def test_thread_that_is_not_the_first_may_not_set_handlers_and_does_without() -> None:
    found = []

    def listen() -> None:
        with interruption.handle_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_that_a_library_took_are_python_s_again(number) -> None:
    """Also where nobody listens, as in a program that calls `tl_keras.run`."""
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        ctypes.CDLL(None).signal(int(number), ctypes.c_void_p(1))  # SIG_IGN, unseen by Python
        os.kill(os.getpid(), number)
        assert heard == []
        interruption.restore_handlers()
        os.kill(os.getpid(), number)
        assert heard == [number]
    finally:
        signal.signal(number, before)
