"""A cluster on this machine: its processes are started together, and end together."""

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO

from tl_keras.distributed import cluster_config
from tl_keras.errors import PeerLostError, StoppedError, WriteError
from tl_keras.runtime import interruption

POLL_SECONDS = 0.05
# How long the others may take to detect a killed process, and to end after one has failed.
PEER_LOSS_SECONDS, END_SECONDS = 35.0, 15.0
OUTPUT_SECONDS = 2.0


def run(workers: int, program: str, flags: Sequence[str]) -> int:
    """Run the processes until all have ended. End them all if one fails or a signal arrives.

    Args:
        workers: number of processes.
        program: "main" or "compare".
        flags: of that program.

    Returns:
        The exit code of the first process that failed, 76 if it was killed, or 0 if none failed.

    Raises:
        WriteError: no process failed, and the report cannot be written to the standard output.
    """
    signals: list[int] = []
    # SIGHUP arrives when the terminal is closed. nohup ignores it.
    handled = [s for s in (*interruption.SIGNALS, signal.SIGHUP) if not _is_ignored(s)]
    before = {s: signal.signal(s, lambda *_: signals.append(1)) for s in handled}
    command = [sys.executable, "-m", f"tl_keras.{program}", *flags]
    processes, threads = [], []
    unwritten: list[OSError] = []
    try:
        for number, variables in enumerate(make_environments(workers)):
            process = _start_process(command, variables, number, workers)
            processes.append(process)
            threads += _forward_output(process, number, unwritten)
        failure = _wait_for_exit(processes, signals)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for thread in threads:
            # Children of a process may keep its output open longer.
            thread.join(OUTPUT_SECONDS)
        for number, handler in before.items():
            signal.signal(number, handler)
    if unwritten and not failure:
        # Python would write the buffered output again at exit, and report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise WriteError(f"the output cannot be written: {unwritten[0].strerror}")
    return failure


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def make_environments(workers: int) -> Iterator[dict[str, str]]:
    """Yield the environment of each process. The ports are free when the first is requested."""
    with contextlib.ExitStack() as stack:
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]
        for server in servers:
            stack.enter_context(server)
    for index in range(workers):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        yield {**os.environ, cluster_config.TF_CONFIG: json.dumps(config)}


def _start_process(
    command: Sequence[str], variables: Mapping[str, str], number: int, workers: int
) -> subprocess.Popen:
    """Start a process in its own session, so that it receives Ctrl-C once, from this process."""
    process = subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        # Only the first process writes the report.
        stdout=subprocess.DEVNULL if number else subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    pin_to_cores(process.pid, number, workers)
    return process


def pin_to_cores(pid: int, number: int, workers: int) -> None:
    """Pin a process to its share of the cores, if the system supports it and there are enough."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = cores[number * len(cores) // workers : (number + 1) * len(cores) // workers]
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, share or cores)


def _forward_output(
    process: subprocess.Popen, number: int, unwritten: list[OSError]
) -> list[threading.Thread]:
    """Forward a process's output: the report as it is, the log prefixed by the process's number."""
    streams: list[tuple] = [(process.stderr, sys.stderr, f"[{number}] ", [])]
    if process.stdout:
        streams.append((process.stdout, sys.stdout, "", unwritten))
    threads = [
        threading.Thread(target=_forward_lines, args=given, daemon=True) for given in streams
    ]
    for thread in threads:
        thread.start()
    return threads


def _forward_lines(
    source: IO[bytes], console: IO[str], prefix: str, unwritten: list[OSError]
) -> None:
    """Forward all lines, and drop those that cannot be written.

    A full pipe would block the process.
    """
    with source:
        for line in source:
            try:
                console.write(f"{prefix}{line.decode(errors='backslashreplace')}")
                console.flush()
            except OSError as error:
                unwritten.append(error)
            except (ValueError, AttributeError):
                # There is no console, or it is closed.
                pass


def _wait_for_exit(processes: Sequence[subprocess.Popen], signals: Sequence[int]) -> int:
    """Wait until all processes have ended. After a failure, end the others."""
    failure, forwarded, deadline = 0, 0, math.inf
    while True:
        codes = [process.poll() for process in processes]
        if not failure and (failure := _first_failure(codes)):
            killed = any(code is not None and code < 0 for code in codes)
            deadline = time.monotonic() + (PEER_LOSS_SECONDS if killed else END_SECONDS)
            if failure != PeerLostError.exit_code:
                _send_signal(processes, signal.SIGTERM)
        if None not in codes:
            return failure
        if forwarded < len(signals):
            # A second signal is forwarded too. It ends the processes at once.
            forwarded += 1
            _send_signal(processes, signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + END_SECONDS)
        if time.monotonic() > deadline:
            _send_signal(processes, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _first_failure(codes: Sequence[int | None]) -> int:
    """Return the exit code of the first process that failed, or 0."""
    failed = [code for code in codes if code]
    if not failed or failed[0] > 0:
        return failed[0] if failed else 0
    # A process that had just started and did not handle signals yet.
    signals = -failed[0] in interruption.SIGNALS
    return StoppedError.exit_code if signals else PeerLostError.exit_code


def _send_signal(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
