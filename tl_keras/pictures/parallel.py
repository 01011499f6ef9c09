"""Decode many images in threads."""

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tl_keras.storage import memory

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait for their turn, for each thread.
_PENDING = 16
# Bytes needed to decode an image of the maximum size; 0.9 GB were measured.
_DECODE_BYTES = 1_000_000_000
_STDERR = 2


def map_in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield function(item) in order. A limited number of items and results is pending at any time.

    Until the last result, nothing is printed to the standard error: the caller reports problems.

    Args:
        function: decodes one image; it is called in threads.
        items: such as paths. They are taken in the calling thread.
    """
    max_threads = memory.available_memory() // _DECODE_BYTES
    threads = max(1, min(os.cpu_count() or 1, max_threads))
    pending: deque[Future[Result]] = deque()
    with _mute_stderr(), ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _PENDING * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


@contextlib.contextmanager
def _mute_stderr() -> Iterator[None]:
    """Suppress the warnings of Pillow and the console output of libtiff: problems are listed.

    Both are process-wide, so this context encloses the thread pool.
    """
    with warnings.catch_warnings(), Path(os.devnull).open("wb") as nowhere:
        warnings.simplefilter("ignore")
        console = os.dup(_STDERR)
        os.dup2(nowhere.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(console, _STDERR)
            os.close(console)
