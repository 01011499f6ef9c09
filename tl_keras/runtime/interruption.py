"""Graceful stop on SIGTERM or SIGINT: the state is saved, and the exit code is 75.

Python runs a signal handler only between two of its instructions, and TensorFlow may compute for
minutes in one. So signals are written to a pipe, and a thread reads them. Inside `graceful_stop`
the thread sets the stop flag; the training loop saves its state after the steps under way.
Elsewhere, or if that takes longer than GRACE_SECONDS, the process exits at once. Nothing is lost
then: all files are written so that the process may be killed at any moment.
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

_stop = threading.Event()
_is_graceful = threading.Event()
# Set while `handle_signals` is not active.
_inactive = threading.Event()
_inactive.set()
# A copy of the standard error, which stays valid if the standard error is redirected.
_stderr_copy = -1
# Tells the other processes of the cluster about the stop signal; None without a cluster.
_forward_stop: Callable[[], None] | None = None


@contextlib.contextmanager
def handle_signals() -> Iterator[None]:
    """Handle SIGTERM and SIGINT inside: the first signal saves, the second ends the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    global _stderr_copy
    _stop.clear()
    _inactive.clear()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    _stderr_copy = os.dup(sys.stderr.fileno()) if _has_stderr() else -1
    # The wakeup pipe only receives signals that have a Python handler. The handler does nothing.
    before = {number: signal.signal(number, _ignore_signal) for number in SIGNALS}
    pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_watch_signals, args=(reader,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        _inactive.set()
        signal.set_wakeup_fd(pipe_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)
        if _stderr_copy >= 0:
            os.close(_stderr_copy)


def restore_handlers() -> None:
    """Reinstall our handlers after a library replaced them without Python's knowledge."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.getsignal(number) or signal.SIG_DFL)


def forward_stop_to(forward: Callable[[], None]) -> None:
    """Call `forward`, in a separate thread, when this process receives a stop signal."""
    global _forward_stop
    _forward_stop = forward


def stop_from_peer(acknowledge: Callable[[], None]) -> None:
    """Handle a stop signal that another process received. May not return.

    Args:
        acknowledge: confirms it to the other process, which may exit from then on.
    """
    _stop.set()
    acknowledge()
    if not _inactive.is_set() and (not _is_graceful.is_set() or not _inactive.wait(GRACE_SECONDS)):
        _exit_now()


@contextlib.contextmanager
def graceful_stop() -> Iterator[None]:
    """Let the caller save its state and raise StoppedError after a stop signal."""
    _is_graceful.set()
    try:
        yield
    finally:
        _is_graceful.clear()


def stop_requested(seconds: float = 0.0) -> bool:
    """Return whether a stop signal arrived, waiting up to `seconds` for one."""
    return _stop.wait(seconds)


def stopped_error() -> StoppedError:
    """Return the error to raise after the state is saved."""
    return StoppedError(MESSAGE)


def _has_stderr() -> bool:
    try:
        return sys.stderr.fileno() >= 0
    except (OSError, ValueError, AttributeError):
        return False


def _ignore_signal(*_: object) -> None:
    """Do nothing: the thread that reads the pipe handles the signal."""


def _watch_signals(reader: int) -> None:
    """Read signal numbers from the pipe until it is closed, and stop the process on the first."""
    signals = {bytes([number]) for number in SIGNALS}
    while (number := os.read(reader, 1)) not in signals:
        if not number:
            return
    _stop.set()
    if _forward_stop is not None:
        _forward_stop()
    if _is_graceful.is_set():
        # Readable on a second signal, or when the pipe is closed.
        readable, _, _ = select.select([reader], [], [], GRACE_SECONDS)
        if readable and not os.read(reader, 1):
            return
    _exit_now()


def _exit_now() -> None:
    """Exit the process at once."""
    for handler in logging.getLogger("tl_keras").handlers:
        with contextlib.suppress(OSError, ValueError):
            handler.flush()
    if _stderr_copy >= 0:
        with contextlib.suppress(OSError):
            os.write(_stderr_copy, f"tl_keras: {MESSAGE}\n".encode())
    os._exit(StoppedError.exit_code)
