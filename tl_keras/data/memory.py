"""Room for decoded pictures and features: in memory, or on disk where memory would not do."""

import os
import tempfile
from pathlib import Path

import numpy as np

from tl_keras.errors import WriteError

# The model, the other dataset and shuffled copies have to fit beside it.
MEMORY_SHARE = 0.5

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CGROUP_USAGE = Path("/sys/fs/cgroup/memory.current")


def available_memory() -> int:
    """Return the bytes that this process may still take: of the machine, or of its container."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        available = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        allowed = int(CGROUP_LIMIT.read_text()) - int(CGROUP_USAGE.read_text())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return available
    return max(0, min(available, allowed))


def allocate(
    shape: tuple[int, ...],
    what: str = "the decoded pictures",
    remedy: str = "choose a smaller --image_size",
) -> np.ndarray:
    """Return a black uint8 array of that shape, in memory or, as np.memmap, in a temporary file.

    What needs more than half of the available memory goes to a file in the folder for temporary
    files ($TMPDIR, or /tmp). The file has no name, so that it is gone with the process.

    Args:
        shape: of the array.
        what: it is for, in the error.
        remedy: what else may be done, in the error.

    Raises:
        WriteError: if the file does not fit there.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= MEMORY_SHARE * available_memory():
        return np.zeros(shape, np.uint8)
    folder = "the folder for temporary files"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserved now: a full disk would else kill the process at some later write.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise WriteError(
            f"{what} need {size / 1e9:.1f} GB, more than half of the memory, and"
            f" {folder} does not take them ({error.strerror}): set TMPDIR to a folder with room,"
            f" or {remedy}"
        ) from error
