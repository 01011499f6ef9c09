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
from collections.abc import Iterator

from tl_keras.errors import StoppedError

GRACE_SECONDS = 8.0
MESSAGE = "stopped; the same command continues it"

_told = threading.Event()
_saves = threading.Event()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Answer SIGTERM and SIGINT inside; the first of them saves, the second ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _told.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    console = os.dup(sys.stderr.fileno()) if _has_descriptor() else -1
    # A handler has to be there for the number to get into the pipe; it is not to do anything.
    before = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGTERM, signal.SIGINT)}
    pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_answer, args=(reader, console), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)
        if console >= 0:
            os.close(console)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """Promise to look at `told()` often inside, and to save and raise StoppedError then."""
    _saves.set()
    try:
        yield
    finally:
        _saves.clear()


def told() -> bool:
    """Return whether the process was told to end."""
    return _told.is_set()


def stop() -> StoppedError:
    """Return the error to raise when all is saved."""
    return StoppedError(MESSAGE)


def _has_descriptor() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False


def _answer(reader: int, console: int) -> None:
    """Wait for the numbers of signals in the pipe; it is closed when nobody listens any more."""
    signals = {bytes([signal.SIGTERM]), bytes([signal.SIGINT])}
    while (number := os.read(reader, 1)) not in signals:
        if not number:
            return
    _told.set()
    if _saves.is_set():
        # Readable: a second signal, or the end of all that listened.
        readable, _, _ = select.select([reader], [], [], GRACE_SECONDS)
        if readable and not os.read(reader, 1):
            return
    for handler in logging.getLogger("tl_keras").handlers:
        with contextlib.suppress(OSError, ValueError):
            handler.flush()
    if console >= 0:
        with contextlib.suppress(OSError):
            os.write(console, f"tl_keras: {MESSAGE}\n".encode())
    os._exit(StoppedError.exit_code)
