"""Ending early, when SIGTERM or SIGINT says so: what can be saved is saved, the exit code is 75.

A handler in Python runs between two of its instructions, and TensorFlow may compute for minutes in
one. So the signals go into a pipe, and a thread of its own answers them. Where training runs, it
tells the loop, which saves its state after the steps under way; where it does not, or where that
takes longer than the grace time, the process ends at once. Nothing is lost by that either: all
files are written so that a process may be killed at any moment.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from tl_keras.errors import StoppedError

GRACE_SECONDS = 8.0
MESSAGE = "stopped; the same command continues it"

SIGNALS = (signal.SIGTERM, signal.SIGINT)

_told = threading.Event()
_saves = threading.Event()
# Nobody listens, not yet or not any more.
_over = threading.Event()
_over.set()
# Where the end is told of, whatever stands in place of the standard error then.
_console = -1
# Passes the word on to the other processes that share the work, where there are any.
_pass_on: Callable[[], None] | None = None


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Answer SIGTERM and SIGINT inside; the first of them saves, the second ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _console
    _told.clear()
    _over.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _console = os.dup(sys.stderr.fileno()) if _has_descriptor() else -1
    # One has to be there for the number to get into the pipe; it is not to do anything.
    before = {number: signal.signal(number, _nothing) for number in SIGNALS}
    pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_answer, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        _over.set()
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)
        if _console >= 0:
            os.close(_console)


def listen_again() -> None:
    """Take the signals back from a library that has taken them unseen by Python."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.getsignal(number) or signal.SIG_DFL)


def pass_on(tell: Callable[[], None]) -> None:
    """Have `tell` called, in a thread of its own, when a signal comes to this process."""
    global _pass_on
    _pass_on = tell


def passed_on(heard: Callable[[], None]) -> None:
    """Do as if a first signal had come, for another process has had one; may not come back.

    Args:
        heard: says so to the other one, which may be gone from then on.
    """
    _told.set()
    heard()
    if not _over.is_set() and (not _saves.is_set() or not _over.wait(GRACE_SECONDS)):
        _end()


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Promise to look at `told()` often inside, and to save and raise StoppedError then."""
    _saves.set()
    try:
        yield
    finally:
        _saves.clear()


def told(within: float = 0.0) -> bool:
    """Return whether the process was told to end, or is within so many seconds."""
    return _told.wait(within)


def stop() -> StoppedError:
    """Return the error to raise when all is saved."""
    return StoppedError(MESSAGE)


def _has_descriptor() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False


def _nothing(*_: object) -> None:
    """Handle a signal: the thread that reads the pipe does."""


def _answer(reader: int) -> None:
    """Wait for the numbers of signals in the pipe; it is closed when nobody listens any more."""
    signals = {bytes([number]) for number in SIGNALS}
    while (number := os.read(reader, 1)) not in signals:
        if not number:
            return
    _told.set()
    if _pass_on is not None:
        _pass_on()
    if _saves.is_set():
        # Readable: a second signal, or the end of all that listened.
        readable, _, _ = select.select([reader], [], [], GRACE_SECONDS)
        if readable and not os.read(reader, 1):
            return
    _end()


def _end() -> None:
    """End the process at once."""
    for handler in logging.getLogger("tl_keras").handlers:
        with contextlib.suppress(OSError, ValueError):
            handler.flush()
    if _console >= 0:
        with contextlib.suppress(OSError):
            os.write(_console, f"tl_keras: {MESSAGE}\n".encode())
    os._exit(StoppedError.exit_code)
