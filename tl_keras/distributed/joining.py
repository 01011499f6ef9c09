"""How the processes of a cluster find each other: who is there, then TensorFlow's connections.

That all of them are there is looked at before TensorFlow connects them: it waits without an end for
one that never comes, and hears no signal while it does.
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
# Between two looks at who is there, and until it is told for whom this process waits.
LOOK_SECONDS, QUIET_SECONDS = 0.1, 3.0
LEAST_SECONDS_TO_CONNECT = 10.0
# Each job of Slurm has ports of its own, below those that systems hand out.
FIRST_PORT, PORTS = 12000, 20000


class Members(NamedTuple):
    """The processes of a cluster.

    Attributes:
        jobs: addresses, HOST:PORT, by job: "chief", where there is one, and "worker".
        job: of this process.
        task: which of its job this process is.
    """

    jobs: dict[str, list[str]]
    job: str
    task: int

    @property
    def addresses(self) -> list[str]:
        """Of all processes, the chief's first."""
        return [*self.jobs.get("chief", []), *self.jobs.get("worker", [])]

    @property
    def number(self) -> int:
        """Which of `addresses` is this process's."""
        return self.task + (len(self.jobs.get("chief", [])) if self.job == "worker" else 0)


def join(strategy: str, seconds: float) -> Cluster:
    """Connect with the other processes of the cluster, where there is one; later calls do nothing.

    Args:
        strategy: what --strategy says.
        seconds: within which all of them have to be there.

    Raises:
        UsageError: there is no such host, the port of this process is taken, or TensorFlow has
            computed something already.
        PeerLostError: one of them did not come.
    """
    named_by = cluster_config.named_by(strategy)
    if not named_by or cluster.current().count > 1:
        return cluster.current()
    if _in_use():
        raise UsageError(
            f"{named_by} names a cluster, and TensorFlow is in use already, too late to join: start"
            " another process for that, or choose --strategy=one_device"
        )
    members = _of_slurm() if named_by == cluster_config.SLURM_TASKS else _of_tf_config()
    started = time.monotonic()
    meet(members.addresses, members.number, seconds)
    left = max(seconds - (time.monotonic() - started), LEAST_SECONDS_TO_CONNECT)
    try:
        connected = _connected(members, left)
    except tf.errors.OpError as error:
        raise cluster.lost(error) from error
    joined = Cluster(connected, members.number, len(members.addresses))
    cluster.enter(joined)
    joined.watch()
    return joined


def _in_use() -> bool:
    """Tell whether TensorFlow has settled on its devices, which happens at its first operation."""
    return context.context()._context_handle is not None


def _of_tf_config() -> Members:
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    return Members(resolver.cluster_spec().as_dict(), resolver.task_type, resolver.task_id)


def _of_slurm() -> Members:
    """Return the tasks of this job step, in the order that Slurm counts them in.

    TensorFlow reads the variables; its own resolver sorts the names of the hosts, n10 before n9,
    which Slurm does not.
    """
    known = os.environ
    try:
        hosts = slurm.expand_hostlist(known["SLURM_STEP_NODELIST"])
        counts = slurm.expand_tasks_per_node(known["SLURM_STEP_TASKS_PER_NODE"])
        first = FIRST_PORT + int(known["SLURM_JOB_ID"]) % PORTS
        index = int(known["SLURM_PROCID"])
        addresses = [
            f"{host}:{first + place}"
            for host, count in zip(hosts, counts, strict=True)
            for place in range(count)
        ]
        own = addresses[index]
    except (KeyError, ValueError, IndexError) as error:
        raise UsageError(
            f"Slurm's variables name no cluster ({error}): start this with srun, or set TF_CONFIG"
        ) from error
    here = known.get("SLURMD_NODENAME", "")
    if here and not own.startswith(f"{here}:"):
        raise UsageError(
            f"SLURM_PROCID={index} runs on {here}, and {own} was expected: have srun"
            " place the tasks node by node, with --distribution=block, or set TF_CONFIG"
        )
    return Members({"worker": addresses}, "worker", index)


def meet(addresses: Sequence[str], own: int, seconds: float) -> None:
    """Wait until every process is there, which its port answers for.

    Args:
        addresses: HOST:PORT of each.
        own: which of them is this process's.
        seconds: to wait.

    Raises:
        UsageError: there is no such host, or the port of this process is taken.
        PeerLostError: one of them did not come.
    """
    started, told = time.monotonic(), False
    missing = [number for number in range(len(addresses)) if number != own]
    with _listening(addresses[own]):
        while True:
            reasons = {number: _absence(addresses[number]) for number in missing}
            missing = [number for number, reason in reasons.items() if reason]
            if not missing:
                return
            waited = time.monotonic() - started
            first = f"process {missing[0]} at {addresses[missing[0]]}"
            if waited > seconds:
                raise _not_there(first, reasons[missing[0]], seconds)
            if waited > QUIET_SECONDS and not told:
                print(f"waiting for {first}, {seconds:.0f} s at most", file=sys.stderr, flush=True)
                told = True
            time.sleep(LOOK_SECONDS)


def _not_there(who: str, reason: OSError | None, seconds: float) -> Exception:
    if isinstance(reason, socket.gaierror):
        return UsageError(f"{who}: there is no such host ({reason.strerror}); correct it")
    return PeerLostError(
        f"{who} did not come within --startup_timeout={seconds:g} seconds ({reason}); start all of"
        " them, or wait longer"
    )


def _absence(address: str) -> OSError | None:
    """Return why nobody answers at an address; None where somebody does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except UnicodeError as error:
        # No name of a host is like this one.
        return socket.gaierror(0, str(error))
    except OSError as error:
        return error
    return None


@contextlib.contextmanager
def _listening(address: str) -> Iterator[None]:
    """Answer at the port of an address, on every interface, as TensorFlow will."""
    port = int(address.rpartition(":")[2])
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UsageError(
            f"port {port} of this process, {address}, cannot be had: {error.strerror or error};"
            " end what has it, or give all processes another one"
        ) from error
    with server:
        yield


def _connected(members: Members, seconds: float) -> tf.distribute.Strategy:
    """Have TensorFlow connect the processes; nothing may have been computed before."""
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
    # Or else the time to register would not count while one is missing.
    context.context().coordination_service.cluster_register_with_barrier = True
    # Threads that wait for work by turning in circles take the time of those that talk to the other
    # processes: ResNet50 on two cores takes a tenth longer.
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
