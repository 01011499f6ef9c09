"""Where a model trains: on one device, or on all local ones with a copy of the model on each."""

import contextlib

import tensorflow as tf


def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the strategy that `--strategy` names.

    Args:
        name: "one_device"; "mirrored": all GPUs, or all logical CPUs where there is no GPU;
            "auto": mirrored from two GPUs on.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "mirrored" or (name == "auto" and len(gpus) > 1):
        devices = gpus or tf.config.list_logical_devices("CPU")
        return tf.distribute.MirroredStrategy([device.name for device in devices])
    return tf.distribute.get_strategy()


def allow_memory_growth() -> None:
    """Let TensorFlow take GPU memory as it needs it, so that a second process finds some."""
    for device in tf.config.list_physical_devices("GPU"):
        # Where TensorFlow is in use already, whoever started it has settled this.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(device, True)
