"""Processes on this machine that share the work: they are started together, and end together."""

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

LOOK_SECONDS = 0.05
# How long the others may take to find out that one was killed, and to end when one has ended.
LOSS_SECONDS, END_SECONDS = 35.0, 15.0
LAST_WORDS_SECONDS = 2.0


def run(workers: int, program: str, flags: Sequence[str]) -> int:
    """Run the processes until all have ended; where one fails or this is told to stop, end them.

    Args:
        workers: how many processes.
        program: which they run: "main" or "compare".
        flags: of that program.

    Returns:
        The exit code of the one that failed first; 76 where that was killed; 0 where none did.

    Raises:
        WriteError: no process failed, and the report cannot be passed on.
    """
    told: list[int] = []
    # A terminal that is closed ends what runs in it, unless nohup says not to.
    asked = [s for s in (*interruption.SIGNALS, signal.SIGHUP) if not _is_ignored(s)]
    before = {s: signal.signal(s, lambda *_: told.append(1)) for s in asked}
    command = [sys.executable, "-m", f"tl_keras.{program}", *flags]
    processes, threads = [], []
    unwritten: list[OSError] = []
    try:
        for number, variables in enumerate(environments(workers)):
            process = _started(command, variables, number, workers)
            processes.append(process)
            threads += _passing_on(process, number, unwritten)
        failure = _end_of(processes, told)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for thread in threads:
            # What a process has started may hold its output longer.
            thread.join(LAST_WORDS_SECONDS)
        for number, handler in before.items():
            signal.signal(number, handler)
    if unwritten and not failure:
        # What the buffer holds would be tried once more, and told of, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise WriteError(f"the output cannot be written: {unwritten[0].strerror}")
    return failure


def _is_ignored(number: int) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def environments(workers: int) -> Iterator[dict[str, str]]:
    """Yield the variables of each process; the ports are free when the first is asked for."""
    with contextlib.ExitStack() as stack:
        servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
        addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in servers]
        for server in servers:
            stack.enter_context(server)
    for index in range(workers):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        yield {**os.environ, cluster_config.TF_CONFIG: json.dumps(config)}


def _started(
    command: Sequence[str], variables: Mapping[str, str], number: int, workers: int
) -> subprocess.Popen:
    """Start a process, in a session of its own: Ctrl-C comes to it from here, and once."""
    process = subprocess.Popen(
        command,
        env=variables,
        stdin=subprocess.DEVNULL,
        # That of the first has the report; the others have nothing to report.
        stdout=subprocess.DEVNULL if number else subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    divide_cores(process.pid, number, workers)
    return process


def divide_cores(pid: int, number: int, workers: int) -> None:
    """Give a process its share of this one's cores, where the system can and there are enough."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        share = cores[number * len(cores) // workers : (number + 1) * len(cores) // workers]
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, share or cores)


def _passing_on(
    process: subprocess.Popen, number: int, unwritten: list[OSError]
) -> list[threading.Thread]:
    """Pass a process's output on: the report as it is, the log with the process's number."""
    streams: list[tuple] = [(process.stderr, sys.stderr, f"[{number}] ", [])]
    if process.stdout:
        streams.append((process.stdout, sys.stdout, "", unwritten))
    threads = [threading.Thread(target=_pass_on, args=given, daemon=True) for given in streams]
    for thread in threads:
        thread.start()
    return threads


def _pass_on(source: IO[bytes], console: IO[str], prefix: str, unwritten: list[OSError]) -> None:
    """Pass lines on to the end, also where nobody can have them: a full pipe would hold all up."""
    with source:
        for line in source:
            try:
                console.write(f"{prefix}{line.decode(errors='backslashreplace')}")
                console.flush()
            except OSError as error:
                unwritten.append(error)
            except (ValueError, AttributeError):
                # There is none, or not any more.
                pass


def _end_of(processes: Sequence[subprocess.Popen], told: Sequence[int]) -> int:
    """Wait until all have ended; where one has failed, see to it that the others do."""
    failure, passed_on, deadline = 0, 0, math.inf
    while True:
        codes = [process.poll() for process in processes]
        if not failure and (failure := _failure(codes)):
            killed = any(code is not None and code < 0 for code in codes)
            deadline = time.monotonic() + (LOSS_SECONDS if killed else END_SECONDS)
            if failure != PeerLostError.exit_code:
                _send(processes, signal.SIGTERM)
        if None not in codes:
            return failure
        if passed_on < len(told):
            # A second time, too: that ends them at once.
            passed_on += 1
            _send(processes, signal.SIGTERM)
            deadline = min(deadline, time.monotonic() + END_SECONDS)
        if time.monotonic() > deadline:
            _send(processes, signal.SIGKILL)
        time.sleep(LOOK_SECONDS)


def _failure(codes: Sequence[int | None]) -> int:
    """Return the exit code of a process that failed, as that of them all; 0 where none did."""
    failed = [code for code in codes if code]
    if not failed or failed[0] > 0:
        return failed[0] if failed else 0
    # One that did not answer signals yet, for it had just begun.
    told = -failed[0] in interruption.SIGNALS
    return StoppedError.exit_code if told else PeerLostError.exit_code


def _send(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
