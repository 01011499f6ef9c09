"""The processes of a cluster, on one machine or on several.

All processes run the same program and take the same steps. They exchange gradients and files by
TensorFlow's collective operations, and small values by its coordination service, whose heartbeats
also detect lost processes.

The first process, the chief, owns the workdir. The others work on copies of its files in temporary
folders. So all processes have the same state and take the same decisions.
"""

import contextlib
import json
import logging
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from tl_keras.errors import DataError, PeerLostError, StoppedError, UsageError
from tl_keras.runtime import interruption

LOG = logging.getLogger(__name__)

# After this time a process exits that learned of a lost peer and did not end by itself.
EXIT_DELAY_SECONDS = 8.0
# How long a process that received a stop signal waits for the others to acknowledge it.
STOP_ACKNOWLEDGE_SECONDS = 4.0
FINISH_SECONDS = 3600.0

# Key in the coordination service: who received a stop signal. STOP/INDEX: who acknowledged it.
STOP = "tl_keras/stop"

CHUNK_BYTES = 2**26
MIN_LOGGED_BYTES = 10**9
# The chief's files that no other process reads.
PRIVATE_FILES = (
    "lock",
    "log.txt",
    "report.*",
    "events.out.*",
    "*.png",
    "*.unfinished",
    "*.damaged",
)

PEER_LOST_ERRORS = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)
PEER_LOST_MESSAGE = (
    "another process of the cluster is gone. Its own output may say why. Start all of them again"
    " to continue"
)


class Cluster:
    """The cluster as one of its processes sees it, or a single process.

    Attributes:
        strategy: the strategy of all processes; the default strategy for a single process.
        index: of this process. The chief has 0.
        count: number of processes.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy | None = None, index: int = 0, count: int = 1
    ):
        """Describe process `index` of `count`, connected by `strategy`; or a single process."""
        self.strategy = strategy or tf.distribute.get_strategy()
        self.index = index
        self.count = count
        self._message_count = 0
        self._ended = False

    @property
    def is_chief(self) -> bool:
        """Whether this process owns the workdir."""
        return self.index == 0

    def broadcast_from_chief(self, value: Any) -> Any:
        """Return the chief's value after a JSON round trip. All processes must call it together."""
        text = json.dumps(value)
        if self.count > 1:
            self._message_count += 1
            key = f"tl_keras/said/{self._message_count}"
            if self.is_chief:
                context.context().set_config_key_value(key, text)
            else:
                text = context.context().get_config_key_value(key)
        return json.loads(text)

    def check_same(self, what: str, value: Any) -> None:
        """Raise DataError if this process has another value than the chief."""
        theirs = self.broadcast_from_chief(value)
        if theirs != json.loads(json.dumps(value)):
            raise DataError(
                f"{what} differ from those of the first process. Give all processes the same"
            )

    def check_flags(self, flags: dict[str, Any], free: tuple[str, ...]) -> None:
        """Raise UsageError if the chief was started with other flags than this process."""
        mine, theirs = json.loads(json.dumps(flags)), self.broadcast_from_chief(flags)
        for name, value in theirs.items():
            if name not in free and mine.get(name) != value:
                raise UsageError(
                    f"--{name}={mine.get(name)}: the first process was started with"
                    f" --{name}={value}. Give all processes the same flags"
                )

    def agree_on_stop(self, stop: bool, steps: int) -> tuple[bool, int]:
        """Return whether any process received a stop signal, and the chief's number of steps."""
        if self.count == 1:
            return stop, steps
        total = self._sum(np.array([stop, steps if self.is_chief else 0], np.int64))
        return bool(total[0]), int(total[1])

    def copy_files(self, folder: Path) -> None:
        """Copy the files of the chief's folder to this process's folder, except PRIVATE_FILES."""
        if self.count == 1:
            return
        names = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_private(p))
        sizes = [(str(path.relative_to(folder)), path.stat().st_size) for path in names]
        total = sum(size for _, size in sizes)
        if total >= MIN_LOGGED_BYTES:
            LOG.info("copying %.1f GB of the workdir to the other processes", total / 1e9)
        for name, size in self.broadcast_from_chief(sizes):
            self._copy_file(folder / name, size)

    def _copy_file(self, path: Path, size: int) -> None:
        if not self.is_chief:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb" if self.is_chief else "wb") as file:
            for start in range(0, size, CHUNK_BYTES):
                count = min(CHUNK_BYTES, size - start)
                chunk = np.zeros(-(-count // 8) * 8, np.uint8)
                if self.is_chief:
                    chunk[:count] = np.frombuffer(file.read(count), np.uint8)
                total = self._sum(chunk.view(np.int64)).tobytes()[:count]
                if not self.is_chief:
                    file.write(total)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over all processes of the (n,) int64 values."""
        return self.strategy.reduce("SUM", tf.constant(values), axis=None).numpy()

    @contextlib.contextmanager
    def run_together(self) -> Iterator[None]:
        """Run the processes together inside, and wait for all of them at the end.

        Raises:
            PeerLostError: another process is gone.
            StoppedError: a process received a stop signal, and all have saved their state.
        """
        if self.count == 1:
            yield
            return
        self._ended = False
        try:
            yield
            self._wait_for_end(FINISH_SECONDS)
        except StoppedError:
            # Without a stop signal, the error says that the workdir is in use, which only the chief
            # knows.
            if interruption.stop_requested():
                with contextlib.suppress(tf.errors.OpError):
                    self._wait_for_end(interruption.GRACE_SECONDS)
            raise
        except tf.errors.OpError as error:
            # A process announces its stop signal before it exits. The message may be on its way.
            if interruption.stop_requested(seconds=1.0):
                raise interruption.stopped_error() from error
            if isinstance(error, PEER_LOST_ERRORS):
                raise peer_lost_error(error) from error
            raise

    def _wait_for_end(self, seconds: float) -> None:
        """Wait at a barrier until all processes are finished."""
        self._message_count += 1
        context.context().wait_at_barrier(
            f"tl_keras/end/{self._message_count}", int(1000 * seconds)
        )
        self._ended = True

    def watch_peers(self) -> None:
        """Start to watch for stop signals and losses of other processes."""
        interruption.restore_handlers()
        interruption.forward_stop_to(self._send_stop)
        threading.Thread(target=self._listen_for_stop, daemon=True).start()

    def _send_stop(self) -> None:
        """Announce the stop signal to the other processes, and wait until they acknowledge it."""
        with contextlib.suppress(tf.errors.OpError):
            context.context().set_config_key_value(STOP, str(self.index))
        deadline = time.monotonic() + STOP_ACKNOWLEDGE_SECONDS
        for other in range(self.count):
            left = max(deadline - time.monotonic(), 0.01)
            if other != self.index:
                with contextlib.suppress(tf.errors.OpError):
                    context.context().get_config_key_value(f"{STOP}/{other}", int(1000 * left))

    def _listen_for_stop(self) -> None:
        try:
            context.context().get_config_key_value(STOP)
        except tf.errors.OpError:
            time.sleep(EXIT_DELAY_SECONDS)
            if not self._ended:
                print(f"tl_keras: {PEER_LOST_MESSAGE}", file=sys.stderr, flush=True)
                os._exit(PeerLostError.exit_code)
        else:
            interruption.stop_from_peer(self._acknowledge_stop)

    def _acknowledge_stop(self) -> None:
        with contextlib.suppress(tf.errors.OpError):
            context.context().set_config_key_value(f"{STOP}/{self.index}", "")


def peer_lost_error(error: tf.errors.OpError) -> PeerLostError:
    """Return the error to raise when a TensorFlow error says that another process is gone."""
    reason = re.sub(r"\{\{.*?\}\} *", "", error.message)
    return PeerLostError(f"{PEER_LOST_MESSAGE} (TensorFlow: {textwrap.shorten(reason, 200)})")


def _is_private(path: Path) -> bool:
    return any(path.match(pattern) for pattern in PRIVATE_FILES)


_current = Cluster()


def current() -> Cluster:
    """Return the cluster that this process joined, or a cluster of this process alone."""
    return _current


def set_current(cluster: Cluster) -> None:
    """Make `cluster` the current one until the process ends."""
    global _current
    _current = cluster
