"""Storage for decoded images and features: in memory, or on disk if memory is too small."""

import os
import tempfile
from pathlib import Path

import numpy as np

from tl_keras.errors import WriteError

# Leaves memory for the model, the other dataset and shuffled copies.
MEMORY_SHARE = 0.5

MEMINFO = Path("/proc/meminfo")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
CGROUP_USAGE = Path("/sys/fs/cgroup/memory.current")


def total_memory() -> int:
    """Return the bytes of the machine, or of the container if it has less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return total


def available_memory() -> int:
    """Return the available bytes of the machine, or of the container if it has less."""
    try:
        lines = MEMINFO.read_text().splitlines()
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
    """Return a uint8 array of zeros, in memory or, as np.memmap, in a temporary file.

    An array that needs more than half of the available memory is a file in the folder for temporary
    files ($TMPDIR, or /tmp). The file has no name, so it disappears with the process.

    Args:
        shape: of the array.
        what: content of the array, for the error.
        remedy: another way out, for the error.

    Raises:
        WriteError: the file does not fit there.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= MEMORY_SHARE * available_memory():
        return np.zeros(shape, np.uint8)
    folder = "the folder for temporary files"
    try:
        folder = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=folder) as file:
            # Reserve the space now. A full disk would kill the process at a later write.
            os.posix_fallocate(file.fileno(), 0, size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise WriteError(
            f"{what} need {size / 1e9:.1f} GB, more than half of the memory, and cannot be stored"
            f" in {folder} ({error.strerror}). Set TMPDIR to a folder with enough space, or"
            f" {remedy}"
        ) from error
