"""Decode many images in threads."""

import contextlib
import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tl_keras.pictures import limits
from tl_keras.storage import memory

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tasks whose results wait for their turn, for each thread.
_PENDING = 2
# A task by itself takes a tenth of the time for decoding a small picture.
_ITEMS_PER_TASK = 8
# Bytes needed to decode an image, by its pixels; 0.9 GB were measured for 50 million.
_BYTES_PER_PIXEL = 20
_STDERR = 2


def map_in_parallel(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    max_pixels: int = limits.MAX_PIXELS,
) -> Iterator[Result]:
    """Yield function(item) in order. A limited number of items and results is pending at any time.

    Until the last result, nothing is printed to the standard error: the caller reports problems.

    Args:
        function: decodes one image; it is called in threads.
        items: such as paths. They are taken in the calling thread.
        max_pixels: of an image. There are only as many threads as there is memory for such images.
    """
    max_threads = memory.available_memory() // (_BYTES_PER_PIXEL * max_pixels)
    threads = max(1, min(os.cpu_count() or 1, max_threads))
    pending: deque[Future[list[Result]]] = deque()
    rest = iter(items)
    with _mute_stderr(), ThreadPoolExecutor(threads) as pool:
        while group := list(itertools.islice(rest, _ITEMS_PER_TASK)):
            pending.append(pool.submit(lambda its: [function(item) for item in its], group))
            if len(pending) > _PENDING * threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


@contextlib.contextmanager
def _mute_stderr() -> Iterator[None]:
    """Suppress the warnings of Pillow and the console output of libtiff: problems are listed.

    Both are process-wide, so this context encloses the thread pool. No other thread logs meanwhile:
    the one of `interruption` has its own copy of the console.
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
