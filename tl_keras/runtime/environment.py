"""What computes: versions, processor and threads, on which the last bits of a result depend."""

import os
import platform
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def describe() -> dict[str, str]:
    """Return what the bits of a result depend on besides the flags, by name."""
    threading = tf.config.threading
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "processors_in_use": str(len(os.sched_getaffinity(0))),
        # Sorted: the processes of a cluster list them each with its own first.
        "devices": ", ".join(sorted(one.name for one in tf.config.list_logical_devices())),
        "intra_op_threads": str(threading.get_intra_op_parallelism_threads()),
        "inter_op_threads": str(threading.get_inter_op_parallelism_threads()),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
    }


def _processor() -> str:
    """Return the processor's name; Linux has the one that people know in /proc."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model n"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
