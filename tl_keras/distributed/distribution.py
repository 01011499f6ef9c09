"""Devices and distribution strategies: one replica of the model per device.

See `cluster` for processes on other machines.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tl_keras.distributed import cluster, cluster_config
from tl_keras.errors import UsageError


def configure_devices(replicas: int) -> None:
    """Configure the local devices. Repeated calls need the same number of replicas.

    Args:
        replicas: without a GPU, the processor is divided into this number of logical devices, one
            for each replica. 0 or 1 leave it whole.

    Raises:
        UsageError: TensorFlow is already initialized with fewer logical devices.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for device in gpus:
        # Leave memory for other processes. If TensorFlow is already initialized, this is settled.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(device, True)
    if gpus or replicas < 2:
        return
    logical = [tf.config.LogicalDeviceConfiguration()] * replicas
    try:
        [processor] = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(processor, logical)
    except RuntimeError:
        found = len(tf.config.list_logical_devices("CPU"))
        if found < replicas:
            raise UsageError(
                f"--replicas={replicas}: TensorFlow is already initialized with {found} logical"
                " processors. Start a new process"
            ) from None


def make_strategy(name: str, replicas: int = 0) -> tf.distribute.Strategy:
    """Return the strategy for `--strategy`. Call `configure_devices` with the same replicas first.

    Args:
        name: "one_device"; "mirrored", one replica on each of several devices; "multi_worker", the
            processes of the joined cluster; "tpu"; "auto": multi_worker in a cluster, else mirrored
            with several GPUs or `replicas` above 1, else one device.
        replicas: number of replicas on this machine; 0 for all GPUs.

    Raises:
        UsageError: there are too few devices.
    """
    if name == "tpu":
        if replicas:
            raise UsageError(
                f"--replicas={replicas} cannot be combined with --strategy=tpu. Leave it out"
            )
        return _make_tpu_strategy()
    # A cluster of one process counts as none.
    by_itself = name in ("auto", "multi_worker")
    joined = cluster.current()
    if joined.count > 1 and by_itself:
        if replicas:
            raise UsageError(
                f"--replicas={replicas} cannot be used in a cluster, where each process has a"
                " replica on each of its GPUs. Leave it out"
            )
        return joined.strategy
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one_device" or (by_itself and max(replicas, len(gpus)) < 2) or replicas == 1:
        return tf.distribute.get_strategy()
    if replicas > len(gpus) and gpus:
        raise UsageError(
            f"--replicas={replicas} is more than the number of GPUs, {len(gpus)}. Give {len(gpus)}"
            " or fewer"
        )
    if not (replicas or gpus):
        raise UsageError(
            "--strategy=mirrored finds no GPU. Try it on the processor with --replicas=2, or"
            " leave it out"
        )
    devices = gpus or tf.config.list_logical_devices("CPU")
    with _hide_tf_config():
        return tf.distribute.MirroredStrategy(
            [device.name for device in devices[: replicas or None]]
        )


def check_shares(batch: int, strategy: tf.distribute.Strategy) -> None:
    """Raise UsageError if a batch has fewer images than there are replicas."""
    replicas = strategy.num_replicas_in_sync
    if batch < replicas:
        raise UsageError(
            f"a batch of {batch} images is too small for {replicas} replicas. Use fewer replicas,"
            " or a larger batch (--batch_size, --shots)"
        )


def distribute_batches(
    strategy: tf.distribute.Strategy,
    dataset_of: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Any:
    """Return an iterable over the batches of this process's replicas, eager or in a graph.

    Args:
        strategy: the strategy of the replicas.
        dataset_of: returns the dataset of one process, with one element per step and replica.
    """
    joined = cluster.current()
    if joined.count > 1 and len(strategy.extended.worker_devices) == 1:
        # A single local replica avoids TensorFlow's multi-device iterator, which needs a call in
        # another thread for each batch, and four seconds to end.
        replicas = strategy.num_replicas_in_sync
        return dataset_of(tf.distribute.InputContext(joined.count, joined.index, replicas))
    return strategy.distribute_datasets_from_function(dataset_of)


@contextlib.contextmanager
def _hide_tf_config() -> Iterator[None]:
    """Hide TF_CONFIG inside, or TensorFlow would build a cluster for a single process."""
    given = os.environ.pop(cluster_config.TF_CONFIG, None)
    try:
        yield
    finally:
        if given is not None:
            os.environ[cluster_config.TF_CONFIG] = given


def _make_tpu_strategy() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        raise UsageError("--strategy=tpu finds no TPU. Leave it out, or set TPU_NAME") from error
    return tf.distribute.TPUStrategy(resolver)
