"""Connect the processes of a cluster: wait for all of them, then let TensorFlow connect.

The processes wait for each other before TensorFlow connects them. TensorFlow itself would wait for
a missing process without a timeout, and would not react to signals.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import tensorflow as tf
from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2
from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver as slurm
from tensorflow.python.eager import context

from tl_keras.distributed import cluster, cluster_config
from tl_keras.distributed.cluster import Cluster
from tl_keras.errors import PeerLostError, UsageError

HEARTBEAT_SECONDS = 10.0
# The time between two checks, and the time until a notice says who is missing.
POLL_SECONDS, NOTICE_SECONDS = 0.1, 3.0
MIN_CONNECT_SECONDS = 10.0
# Each Slurm job has its own ports, below the ephemeral port range.
FIRST_PORT, PORT_COUNT = 12000, 20000


class Members(NamedTuple):
    """The processes of a cluster.

    Attributes:
        jobs: addresses, HOST:PORT, by job: "worker", and "chief" if there is one.
        job: the job of this process.
        task: the index of this process in its job.
    """

    jobs: dict[str, list[str]]
    job: str
    task: int

    @property
    def addresses(self) -> list[str]:
        """The addresses of all processes, the chief's first."""
        return [*self.jobs.get("chief", []), *self.jobs.get("worker", [])]

    @property
    def number(self) -> int:
        """The index of this process in `addresses`."""
        return self.task + (len(self.jobs.get("chief", [])) if self.job == "worker" else 0)


def join(strategy: str, seconds: float) -> Cluster:
    """Connect to the other processes of the cluster, if there is one. Later calls do nothing.

    Args:
        strategy: value of --strategy.
        seconds: to wait for all processes.

    Raises:
        UsageError: a host does not exist, the port of this process is taken, or TensorFlow is
            already initialized.
        PeerLostError: a process did not start in time.
    """
    variable = cluster_config.find_cluster_variable(strategy)
    if not variable or cluster.current().count > 1:
        return cluster.current()
    if _is_initialized():
        raise UsageError(
            f"{variable} describes a cluster, and TensorFlow is already initialized, too late to"
            " join it. Start a new process, or choose --strategy=one_device"
        )
    members = (
        _members_from_slurm()
        if variable == cluster_config.SLURM_TASKS
        else _members_from_tf_config()
    )
    started = time.monotonic()
    wait_for_peers(members.addresses, members.number, seconds)
    left = max(seconds - (time.monotonic() - started), MIN_CONNECT_SECONDS)
    try:
        connected = _connect(members, left)
    except tf.errors.OpError as error:
        raise cluster.peer_lost_error(error) from error
    joined = Cluster(connected, members.number, len(members.addresses))
    cluster.set_current(joined)
    joined.watch_peers()
    return joined


def _is_initialized() -> bool:
    """Return whether TensorFlow has initialized its devices, as its first operation does."""
    return context.context()._context_handle is not None


def _members_from_tf_config() -> Members:
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return Members(resolver.cluster_spec().as_dict(), resolver.task_type, resolver.task_id)


def _members_from_slurm() -> Members:
    """Return the tasks of this job step in Slurm's order.

    TensorFlow parses the variables. Its own resolver is not used, because it sorts the host names,
    n10 before n9, and Slurm does not.
    """
    known = os.environ
    try:
        hosts = slurm.expand_hostlist(known["SLURM_STEP_NODELIST"])
        counts = slurm.expand_tasks_per_node(known["SLURM_STEP_TASKS_PER_NODE"])
        first = FIRST_PORT + int(known["SLURM_JOB_ID"]) % PORT_COUNT
        index = int(known["SLURM_PROCID"])
        addresses = [
            f"{host}:{first + place}"
            for host, count in zip(hosts, counts, strict=True)
            for place in range(count)
        ]
        own = addresses[index]
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(
            f"Slurm's variables describe no cluster ({error}). Start the program with srun, or set"
            " TF_CONFIG"
        ) from error
    here = known.get("SLURMD_NODENAME", "")
    if here and not own.startswith(f"{here}:"):
        raise UsageError(
            f"SLURM_PROCID={index} runs on {here}, and {own} was expected. Start the tasks with"
            " srun --distribution=block, or set TF_CONFIG"
        )
    return Members({"worker": addresses}, "worker", index)


def wait_for_peers(addresses: Sequence[str], own: int, seconds: float) -> None:
    """Wait until the ports of all processes accept connections.

    Args:
        addresses: HOST:PORT of each process.
        own: index of this process.
        seconds: to wait.

    Raises:
        UsageError: a host does not exist, or the port of this process is taken.
        PeerLostError: a process did not start in time.
    """
    started, has_notified = time.monotonic(), False
    missing = [number for number in range(len(addresses)) if number != own]
    with _hold_port(addresses[own]):
        while True:
            reasons = {number: _connection_error(addresses[number]) for number in missing}
            missing = [number for number, reason in reasons.items() if reason]
            if not missing:
                return
            waited = time.monotonic() - started
            first = f"process {missing[0]} at {addresses[missing[0]]}"
            if waited > seconds:
                raise _missing_peer_error(first, reasons[missing[0]], seconds)
            if waited > NOTICE_SECONDS and not has_notified:
                print(f"waiting for {first}, {seconds:.0f} s at most", file=sys.stderr, flush=True)
                has_notified = True
            time.sleep(POLL_SECONDS)


def _missing_peer_error(who: str, reason: OSError | None, seconds: float) -> Exception:
    if isinstance(reason, socket.gaierror):
        return UsageError(f"{who}: there is no such host ({reason.strerror}). Correct the address")
    return PeerLostError(
        f"{who} did not start within --startup_timeout={seconds:g} seconds ({reason}). Start all"
        " processes, or raise --startup_timeout"
    )


def _connection_error(address: str) -> OSError | None:
    """Return why an address accepts no connection, or None if it does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except UnicodeError as error:
        # The host name is not encodable.
        return socket.gaierror(0, str(error))
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def _hold_port(address: str) -> Iterator[None]:
    """Accept connections at the port of an address, on every interface, as TensorFlow will."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UsageError(
            f"port {port} of this process, {address}, cannot be opened: {error.strerror or error}."
            " End the program that uses it, or give all processes another address"
        ) from error
    with server:
        yield


def _connect(members: Members, seconds: float) -> tf.distribute.Strategy:
    """Connect the processes by TensorFlow, which must not be initialized yet."""
    jobs = [
        coordination_config_pb2.CoordinatedJob(name=name, num_tasks=len(addresses))
        for name, addresses in members.jobs.items()
    ]
    leader = "chief" if "chief" in members.jobs else "worker"
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{leader}/replica:0/task:0",
        cluster_register_timeout_in_ms=int(1000 * seconds),
        heartbeat_timeout_in_ms=int(1000 * HEARTBEAT_SECONDS),
        coordinated_jobs=jobs,
    )
    # Without it, the register timeout would not apply while a process is missing.
    context.context().coordination_service.cluster_register_with_barrier = True
    # Threads that spin while they wait take time from the communication threads: ResNet50 on two
    # cores takes a tenth longer.
    config = tf.compat.v1.ConfigProto()
    config.experimental.disable_thread_spinning = True
    context.context()._config = config
    gpus = len(tf.config.list_physical_devices("GPU"))
    kinds = tf.distribute.experimental.CommunicationImplementation
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=kinds.AUTO if gpus else kinds.RING
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(members.jobs),
        task_type=members.job,
        task_id=members.task,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
