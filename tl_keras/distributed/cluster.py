"""Several processes that train together, on one machine or on a machine each.

All of them run the same program and take the same steps. TensorFlow carries what they tell each
other: gradients and files by its collective operations, small things by its coordination service,
whose heartbeats also find out who is gone. Nothing else is sent.

The first process, the chief, has the workdir; the others work on copies of its files in a folder
of their own that goes away. So all of them know the same, and decide the same.
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

# After which a process ends that has heard of a loss and does not come to an end by itself.
PATIENCE_SECONDS = 8.0
# How long one that was told to stop waits until the others have heard of it.
FAREWELL_SECONDS = 4.0
END_SECONDS = 3600.0

# In the coordination service: who was told to stop, and who has heard of it.
STOP = "tl_keras/stop"

PIECE_BYTES = 2**26
WORTH_TELLING_BYTES = 10**9
# Of the chief's files, those that no other process reads.
ITS_OWN = ("lock", "log.txt", "report.*", "events.out.*", "*.png", "*.unfinished", "*.damaged")

LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
    tf.errors.InternalError,
    tf.errors.UnavailableError,
    tf.errors.UnknownError,
)
LOSS = (
    "another process that shares the work is gone; its own output may say why. All of them started"
    " again continue it"
)


class Cluster:
    """The processes that train together, as one of them sees it; or one that trains alone.

    Attributes:
        strategy: that all of them share; the default one for a process alone.
        index: which of them this is; the chief is 0.
        count: how many there are.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy | None = None, index: int = 0, count: int = 1
    ):
        """Be one of `count` processes that `strategy` has connected; or be one alone."""
        self.strategy = strategy or tf.distribute.get_strategy()
        self.index = index
        self.count = count
        self._said = 0
        self._ended = False

    @property
    def is_chief(self) -> bool:
        """Whether this process has the workdir."""
        return self.index == 0

    def from_chief(self, value: Any) -> Any:
        """Return the chief's value, as JSON gives it back; all have to ask at the same place."""
        text = json.dumps(value)
        if self.count > 1:
            self._said += 1
            key = f"tl_keras/said/{self._said}"
            if self.is_chief:
                context.context().set_config_key_value(key, text)
            else:
                text = context.context().get_config_key_value(key)
        return json.loads(text)

    def check_same(self, what: str, value: Any) -> None:
        """Raise DataError where this process has another value than the chief."""
        theirs = self.from_chief(value)
        if theirs != json.loads(json.dumps(value)):
            raise DataError(
                f"{what} are not what they are on the first process: give all of them the same"
            )

    def check_flags(self, flags: dict[str, Any], free: tuple[str, ...]) -> None:
        """Raise UsageError where the chief was started with other flags than this process."""
        mine, theirs = json.loads(json.dumps(flags)), self.from_chief(flags)
        for name, value in theirs.items():
            if name not in free and mine.get(name) != value:
                raise UsageError(
                    f"--{name}={mine.get(name)}: the first process was started with"
                    f" --{name}={value}; give all of them the same flags"
                )

    def decide(self, told: bool, steps: int) -> tuple[bool, int]:
        """Return whether any process was told to end, and how many steps the chief would take."""
        if self.count == 1:
            return told, steps
        total = self._sum(np.array([told, steps if self.is_chief else 0], np.int64))
        return bool(total[0]), int(total[1])

    def copy_files(self, folder: Path) -> None:
        """Have the files of the chief's folder in this process's, but for what is its own."""
        if self.count == 1:
            return
        names = sorted(p for p in folder.rglob("*") if p.is_file() and not _is_own(p))
        sizes = [(str(path.relative_to(folder)), path.stat().st_size) for path in names]
        total = sum(size for _, size in sizes)
        if total >= WORTH_TELLING_BYTES:
            LOG.info("giving the other processes %.1f GB of what is in the workdir", total / 1e9)
        for name, size in self.from_chief(sizes):
            self._copy_file(folder / name, size)

    def _copy_file(self, path: Path, size: int) -> None:
        if not self.is_chief:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb" if self.is_chief else "wb") as file:
            for start in range(0, size, PIECE_BYTES):
                count = min(PIECE_BYTES, size - start)
                piece = np.zeros(-(-count // 8) * 8, np.uint8)
                if self.is_chief:
                    piece[:count] = np.frombuffer(file.read(count), np.uint8)
                total = self._sum(piece.view(np.int64)).tobytes()[:count]
                if not self.is_chief:
                    file.write(total)

    def _sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of the (n,) int64 values of all processes."""
        return self.strategy.reduce("SUM", tf.constant(values), axis=None).numpy()

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Work together inside, and part when all are done.

        Raises:
            PeerLostError: one of the others is gone.
            StoppedError: one of them was told to stop, and all have saved.
        """
        if self.count == 1:
            yield
            return
        self._ended = False
        try:
            yield
            self._part(END_SECONDS)
        except StoppedError:
            # Or else the workdir is in use, which only the chief knows.
            if interruption.told():
                with contextlib.suppress(tf.errors.OpError):
                    self._part(interruption.GRACE_SECONDS)
            raise
        except tf.errors.OpError as error:
            # One that was told to stop says so before it goes; the word may be on its way.
            if interruption.told(within=1.0):
                raise interruption.stop() from error
            if isinstance(error, LOST):
                raise lost(error) from error
            raise

    def _part(self, seconds: float) -> None:
        """Wait until all processes have come to their end."""
        self._said += 1
        context.context().wait_at_barrier(f"tl_keras/end/{self._said}", int(1000 * seconds))
        self._ended = True

    def watch(self) -> None:
        """Hear of it, from here on, when another process is told to stop, or is gone."""
        interruption.listen_again()
        interruption.pass_on(self._pass_on)
        threading.Thread(target=self._hear, daemon=True).start()

    def _pass_on(self) -> None:
        """Tell the others that this process was told to stop, and wait until they have heard."""
        with contextlib.suppress(tf.errors.OpError):
            context.context().set_config_key_value(STOP, str(self.index))
        deadline = time.monotonic() + FAREWELL_SECONDS
        for other in range(self.count):
            left = max(deadline - time.monotonic(), 0.01)
            if other != self.index:
                with contextlib.suppress(tf.errors.OpError):
                    context.context().get_config_key_value(f"{STOP}/{other}", int(1000 * left))

    def _hear(self) -> None:
        try:
            context.context().get_config_key_value(STOP)
        except tf.errors.OpError:
            time.sleep(PATIENCE_SECONDS)
            if not self._ended:
                print(f"tl_keras: {LOSS}", file=sys.stderr, flush=True)
                os._exit(PeerLostError.exit_code)
        else:
            interruption.passed_on(self._say_heard)

    def _say_heard(self) -> None:
        with contextlib.suppress(tf.errors.OpError):
            context.context().set_config_key_value(f"{STOP}/{self.index}", "")


def lost(error: tf.errors.OpError) -> PeerLostError:
    """Return the error to raise where TensorFlow's says that another process is gone."""
    reason = re.sub(r"\{\{.*?\}\} *", "", error.message)
    return PeerLostError(f"{LOSS} (TensorFlow: {textwrap.shorten(reason, 200)})")


def _is_own(path: Path) -> bool:
    return any(path.match(pattern) for pattern in ITS_OWN)


_current = Cluster()


def current() -> Cluster:
    """Return the cluster that this process has joined; one of its own where it has not."""
    return _current


def enter(cluster: Cluster) -> None:
    """Be a part of `cluster` from here on, until the process ends."""
    global _current
    _current = cluster
