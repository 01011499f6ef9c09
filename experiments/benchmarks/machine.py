"""What the figures were measured on; light, so that the process that measures stays small."""

import os
import platform
import re
from importlib import metadata
from pathlib import Path

# Those on which the speed of bfloat16 depends.
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")
PACKAGES = ("tensorflow", "keras", "torch")


def describe() -> dict[str, str]:
    """Return processor, cores and versions by name."""
    text = ""
    if Path("/proc/cpuinfo").is_file():
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*: (.*)$", text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return {
        "processor": model[1].strip() if model else platform.processor() or platform.machine(),
        "flags": ", ".join(flag for flag in FLAGS if flag in known) or "none of those looked for",
        "cores": str(cores()),
        **{package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
    }


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def version(package: str) -> str:
    """Return the version of a package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
