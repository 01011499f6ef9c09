"""The environment of a run: versions, processor and threads. Rounding depends on them."""

import os
import platform
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def describe() -> dict[str, str]:
    """Return what bit-identical results depend on besides the flags, by name."""
    threading = tf.config.threading
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "processor": _processor(),
        "processors_in_use": str(len(os.sched_getaffinity(0))),
        # Sorted, because each process of a cluster lists its own devices first.
        "devices": ", ".join(sorted(one.name for one in tf.config.list_logical_devices())),
        "intra_op_threads": str(threading.get_intra_op_parallelism_threads()),
        "inter_op_threads": str(threading.get_inter_op_parallelism_threads()),
        "TF_ENABLE_ONEDNN_OPTS": os.environ.get("TF_ENABLE_ONEDNN_OPTS", ""),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""),
    }


def _processor() -> str:
    """Return the processor's name, on Linux the model name in /proc/cpuinfo."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model n"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
