"""Tests of how the processes of a cluster find each other, before TensorFlow connects them.

What TensorFlow makes of them then is in test_cluster.py.
"""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import tensorflow as tf

from tl_keras.distributed import cluster, cluster_config, joining
from tl_keras.distributed.joining import Members
from tl_keras.errors import PeerLostError, UsageError

LOOPBACKS = ["127.0.0.1", "localhost", "[::1]"]


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has."""
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


def free_addresses(count: int, host: str = "127.0.0.1") -> list[str]:
    """Return addresses of this machine that nobody has."""
    return [f"{host}:{port}" for port in free_ports(count)]


@contextlib.contextmanager
def answered(address: str) -> Iterator[socket.socket]:
    """Answer at an address of this machine, as another process of the cluster does."""
    port = int(address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server


# Who is there


@pytest.mark.parametrize(
    ("job", "task", "number"), [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]
)
def test_chief_is_the_first_of_all(job, task, number) -> None:
    jobs = {"worker": ["b:1", "c:1"], "chief": ["a:1"]}
    members = Members(jobs, job, task)
    assert members.addresses == ["a:1", "b:1", "c:1"]
    assert members.number == number
    assert members.addresses[members.number] == jobs[job][task]


@pytest.mark.parametrize("task", [0, 1])
def test_first_worker_is_the_first_where_there_is_no_chief(task) -> None:
    members = Members({"worker": ["b:1", "a:1"]}, "worker", task)
    assert members.addresses == ["b:1", "a:1"]
    assert members.number == task


def test_tf_config_says_who_is_there(monkeypatch) -> None:
    jobs = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    config = {"cluster": jobs, "task": {"type": "worker", "index": 1}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(config))
    assert joining._members_from_tf_config() == (jobs, "worker", 1)


# Slurm


def slurm(monkeypatch, nodes: str, tasks: str, index: int, **others: str) -> Members:
    """Return what is made of the variables of a job step."""
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    known = {"STEP_NODELIST": nodes, "STEP_TASKS_PER_NODE": tasks, "PROCID": str(index)}
    for name, value in {"JOB_ID": "5", **known}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name, value in others.items():
        monkeypatch.setenv(name, value)
    return joining._members_from_slurm()


@pytest.mark.parametrize(
    ("nodes", "tasks", "expected"),
    [
        ("n1", "2", ["n1:12005", "n1:12006"]),
        ("n[1-2]", "1(x2)", ["n1:12005", "n2:12005"]),
        # In Slurm's order: sorted by their names, n10 would be the first.
        ("n[9-10]", "2(x2)", ["n9:12005", "n9:12006", "n10:12005", "n10:12006"]),
        ("n[9-10]", "2,1", ["n9:12005", "n9:12006", "n10:12005"]),
        ("n[08-10]", "1(x2),2", ["n08:12005", "n09:12005", "n10:12005", "n10:12006"]),
        ("z1,a[3,1]", "1(x3)", ["z1:12005", "a3:12005", "a1:12005"]),
    ],
)
def test_tasks_are_in_the_order_that_slurm_counts_them_in(
    monkeypatch, nodes, tasks, expected
) -> None:
    for index, address in enumerate(expected):
        members = slurm(monkeypatch, nodes, tasks, index)
        assert members == ({"worker": expected}, "worker", index)
        assert members.addresses[members.number] == address


@pytest.mark.parametrize(
    ("job", "port"),
    [("1", 12001), ("19999", 31999), ("20000", 12000), ("7654321", 12000 + 14321)],
)
def test_each_job_has_ports_of_its_own(monkeypatch, job, port) -> None:
    members = slurm(monkeypatch, "a,b", "1(x2)", 0, SLURM_JOB_ID=job)
    assert members.addresses == [f"a:{port}", f"b:{port}"]


@pytest.mark.parametrize(("index", "node"), [(0, "n9"), (1, "n9"), (2, "n10"), (3, "n10")])
def test_task_that_runs_where_it_is_expected_goes_on(monkeypatch, index, node) -> None:
    members = slurm(monkeypatch, "n[9-10]", "2(x2)", index, SLURMD_NODENAME=node)
    assert members.task == index


@pytest.mark.parametrize(
    ("nodes", "index", "node", "expected"),
    # Placed in turns, task 1 is on the other node; and n1 is not n10.
    [("n[9-10]", 1, "n10", "n9:12006"), ("n[9-10]", 2, "n9", "n10:12005"), ("n10", 0, "n1", "n10")],
)
def test_task_that_runs_elsewhere_is_refused(monkeypatch, nodes, index, node, expected) -> None:
    with pytest.raises(UsageError) as caught:
        slurm(monkeypatch, nodes, "2(x2)" if "-" in nodes else "2", index, SLURMD_NODENAME=node)
    told = str(caught.value)
    assert told.startswith(f"SLURM_PROCID={index} runs on {node}, and {expected}")
    assert "--distribution=block" in told and "TF_CONFIG" in told


# Finding each other


def meet_and_stay(addresses: list[str], own: int, all_met: threading.Barrier) -> None:
    """Meet, and then answer at the own port until all have met, as TensorFlow does."""
    joining.wait_for_peers(addresses, own, 20)
    with joining._hold_port(addresses[own]):
        all_met.wait(20)


@pytest.mark.parametrize("host", LOOPBACKS)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_find_each_other_and_wait_for_the_last(host, count) -> None:
    if host == "[::1]" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    addresses, all_met = free_addresses(count, host), threading.Barrier(count)
    with ThreadPoolExecutor(count) as pool:
        *first, last = range(count)
        met = [pool.submit(meet_and_stay, addresses, own, all_met) for own in first]
        time.sleep(0.3)
        assert all_met.n_waiting == 0
        met.append(pool.submit(meet_and_stay, addresses, last, all_met))
        assert [one.result(30) for one in met] == [None] * count


def test_process_that_finds_all_there_does_not_wait(capfd) -> None:
    addresses = free_addresses(3)
    started = time.monotonic()
    with answered(addresses[0]), answered(addresses[2]):
        joining.wait_for_peers(addresses, 1, 20)
    assert time.monotonic() - started < 2
    assert capfd.readouterr().err == ""


def test_process_is_there_while_it_waits_and_its_port_is_free_again_after_it() -> None:
    addresses = free_addresses(2)
    port = int(addresses[0].rpartition(":")[2])
    with ThreadPoolExecutor(1) as pool:
        met = pool.submit(joining.wait_for_peers, addresses, 0, 20)
        time.sleep(0.3)
        assert joining._connection_error(addresses[0]) is None
        assert not met.done()
        with answered(addresses[1]):
            met.result(20)
    assert isinstance(joining._connection_error(addresses[0]), ConnectionRefusedError)
    # On all interfaces; a server of TensorFlow's does not ask for a port that was just in use.
    with joining._hold_port(addresses[0]), pytest.raises(OSError, match="in use"):
        socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("absent", [0, 2])
def test_process_that_does_not_come_is_named(absent) -> None:
    addresses = free_addresses(3)
    started = time.monotonic()
    with answered(addresses[2 - absent]), pytest.raises(PeerLostError) as caught:
        joining.wait_for_peers(addresses, 1, 0.5)
    assert 0.5 <= time.monotonic() - started < 3
    told = str(caught.value)
    assert told.startswith(
        f"process {absent} at {addresses[absent]} did not start within --startup_timeout=0.5"
        " seconds"
    )
    assert "Connection refused" in told and "Start all processes" in told
    assert caught.value.exit_code == 76


def test_port_is_free_again_where_one_did_not_come() -> None:
    addresses = free_addresses(2)
    for _ in range(2):
        with pytest.raises(PeerLostError):
            joining.wait_for_peers(addresses, 0, 0)


def test_host_that_is_unknown_is_a_mistake() -> None:
    addresses = [*free_addresses(1), "no-such-host.invalid:12345"]
    with pytest.raises(UsageError) as caught:
        joining.wait_for_peers(addresses, 0, 0)
    told = str(caught.value)
    assert told.startswith(f"process 1 at {addresses[1]}: there is no such host (")
    assert told.endswith(". Correct the address")


@pytest.mark.parametrize("host", ["no..host", ".host", "x" * 64])
def test_host_whose_name_is_none_is_a_mistake(host) -> None:
    """Before it is looked for, or when it is."""
    addresses = [*free_addresses(1), f"{host}:12345"]
    config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": 0}}
    with pytest.raises(UsageError, match=re.escape(addresses[1])):
        cluster_config.find_cluster_variable("auto", {"TF_CONFIG": json.dumps(config)})
        joining.wait_for_peers(addresses, 0, 0)


def test_port_that_another_program_has_is_a_mistake() -> None:
    addresses = free_addresses(2)
    port = addresses[1].rpartition(":")[2]
    with answered(addresses[0]), answered(addresses[1]), pytest.raises(UsageError) as caught:
        joining.wait_for_peers(addresses, 1, 20)
    told = str(caught.value)
    assert told.startswith(f"port {port} of this process, {addresses[1]}, cannot be opened: ")
    assert "in use" in told


def test_process_that_waits_long_says_for_whom_and_once(monkeypatch, capfd) -> None:
    monkeypatch.setattr(joining, "NOTICE_SECONDS", 0.0)
    addresses = free_addresses(3)
    with answered(addresses[0]), pytest.raises(PeerLostError):
        joining.wait_for_peers(addresses, 1, 0.5)
    out, err = capfd.readouterr()
    assert (out, err) == ("", f"waiting for process 2 at {addresses[2]}, 0 s at most\n")


def test_process_that_waits_for_a_moment_says_nothing(capfd) -> None:
    with pytest.raises(PeerLostError):
        joining.wait_for_peers(free_addresses(2), 1, 0.5)
    assert capfd.readouterr() == ("", "")


# Before TensorFlow connects them


@pytest.mark.parametrize("variable", ["TF_CONFIG", "SLURM_STEP_NUM_TASKS"])
def test_all_have_to_be_there_before_tensorflow_connects_them(monkeypatch, variable) -> None:
    """The time that is left is for TensorFlow, and a process that is missing is told of here."""
    addresses = free_addresses(2)
    members = Members({"worker": addresses}, "worker", 0)
    other = Members({"worker": ["nobody:1", "nothing:1"]}, "worker", 0)
    by_slurm = variable == "SLURM_STEP_NUM_TASKS"
    monkeypatch.setattr(joining, "_members_from_slurm", lambda: members if by_slurm else other)
    monkeypatch.setattr(joining, "_members_from_tf_config", lambda: other if by_slurm else members)
    monkeypatch.setattr(joining, "_connect", lambda *_: pytest.fail("they are connected"))
    monkeypatch.setattr(joining, "_is_initialized", lambda: False)
    monkeypatch.setattr(cluster_config, "find_cluster_variable", lambda strategy: variable)
    with pytest.raises(PeerLostError, match=re.escape(addresses[1])):
        joining.join("auto", 0.2)
    assert cluster.current().count == 1


def test_cluster_cannot_be_joined_by_what_has_computed_already(monkeypatch) -> None:
    tf.zeros(1)
    monkeypatch.setattr(cluster_config, "find_cluster_variable", lambda strategy: "TF_CONFIG")
    monkeypatch.setattr(
        joining, "wait_for_peers", lambda *_: pytest.fail("the others go on without this")
    )
    with pytest.raises(
        UsageError, match="TF_CONFIG describes a cluster, and TensorFlow is already"
    ):
        joining.join("auto", 0.2)
