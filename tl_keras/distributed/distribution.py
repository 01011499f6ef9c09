"""Where a model trains: on one device, or on several, of this machine or of others.

There is a replica of the model on each; see `cluster` for the processes on other machines.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tl_keras.distributed import cluster, cluster_config
from tl_keras.errors import UsageError


def start(replicas: int) -> None:
    """Settle which local devices there are; called once, or more often with the same number.

    Args:
        replicas: where there is no GPU, the processor is divided into so many logical ones, on
            which as many replicas can be tried out; 0 or 1 leave it whole.

    Raises:
        UsageError: TensorFlow is in use already, with another number of them.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for device in gpus:
        # Where TensorFlow is in use already, whoever started it has settled this. A second process
        # shall find some memory too.
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
                f"--replicas={replicas}: TensorFlow is in use already with {found} logical"
                " processors; start another process for more"
            ) from None


def make_strategy(name: str, replicas: int = 0) -> tf.distribute.Strategy:
    """Return the strategy that `--strategy` names, after `start` with the same replicas.

    Args:
        name: "one_device"; "mirrored", with a replica on each of several devices; "multi_worker",
            with the processes of a cluster that was joined; "tpu"; "auto": multi_worker where a
            cluster was joined, else mirrored where there are several GPUs or replicas are asked
            for, else one device.
        replicas: how many on this machine; 0 for all GPUs.

    Raises:
        UsageError: there are not so many devices.
    """
    if name == "tpu":
        if replicas:
            raise UsageError(
                f"--replicas={replicas} is for processors and GPUs, and a TPU has as many as it"
                " has: leave it out"
            )
        return _on_tpu()
    # A cluster of one process is none.
    by_itself = name in ("auto", "multi_worker")
    joined = cluster.current()
    if joined.count > 1 and by_itself:
        if replicas:
            raise UsageError(
                f"--replicas={replicas} is for a process alone, and this one is of a cluster, with"
                " a replica on each GPU that it sees: leave it out"
            )
        return joined.strategy
    gpus = tf.config.list_logical_devices("GPU")
    if name == "one_device" or (by_itself and max(replicas, len(gpus)) < 2) or replicas == 1:
        return tf.distribute.get_strategy()
    if replicas > len(gpus) and gpus:
        raise UsageError(f"--replicas={replicas} asks for more GPUs than there are: {len(gpus)}")
    if not (replicas or gpus):
        raise UsageError(
            "--strategy=mirrored finds no GPU here; try it on the processor with --replicas=2, or"
            " leave it out"
        )
    devices = gpus or tf.config.list_logical_devices("CPU")
    with _no_cluster_named():
        return tf.distribute.MirroredStrategy(
            [device.name for device in devices[: replicas or None]]
        )


def check_shares(batch: int, strategy: tf.distribute.Strategy) -> None:
    """Raise UsageError where a batch of so many images has none for some replica."""
    replicas = strategy.num_replicas_in_sync
    if batch < replicas:
        raise UsageError(
            f"a batch of {batch} images has none for some of {replicas} replicas: have fewer"
            " replicas, or larger batches (--batch_size, --shots)"
        )


def batches(
    strategy: tf.distribute.Strategy,
    dataset_of: Callable[[tf.distribute.InputContext], tf.data.Dataset],
) -> Any:
    """Return the batches of this process's replicas, to iterate over, in a graph or not.

    Args:
        strategy: whose replicas.
        dataset_of: gives an element a step for each replica of the process that it is told of.
    """
    joined = cluster.current()
    if joined.count > 1 and len(strategy.extended.worker_devices) == 1:
        # One replica here needs nothing of TensorFlow's iterator for several devices, which takes a
        # call of another thread for each batch, and four seconds to end.
        replicas = strategy.num_replicas_in_sync
        return dataset_of(tf.distribute.InputContext(joined.count, joined.index, replicas))
    return strategy.distribute_datasets_from_function(dataset_of)


@contextlib.contextmanager
def _no_cluster_named() -> Iterator[None]:
    """Hide TF_CONFIG inside, by which TensorFlow would make one cluster of what trains alone."""
    given = os.environ.pop(cluster_config.TF_CONFIG, None)
    try:
        yield
    finally:
        if given is not None:
            os.environ[cluster_config.TF_CONFIG] = given


def _on_tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
    except (ValueError, OSError, tf.errors.OpError) as error:
        raise UsageError(
            "--strategy=tpu finds no TPU here; leave it out, or see TPU_NAME"
        ) from error
    return tf.distribute.TPUStrategy(resolver)
