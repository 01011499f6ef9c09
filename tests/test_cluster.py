"""Tests of the processes that train together: one alone, and two that TensorFlow has connected.

How such a cluster trains, and what becomes of it when one is killed, is tested elsewhere.
"""

import contextlib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf
from made import connected

from tl_keras.distributed import cluster, joining
from tl_keras.errors import DataError, PeerLostError, StoppedError, UsageError

ROOT = Path(__file__).resolve().parents[1]

# One process alone


def test_process_is_alone_until_it_has_joined_others() -> None:
    alone = cluster.current()
    assert (alone.index, alone.count, alone.is_chief) == (0, 1, True)
    assert alone.strategy is tf.distribute.get_strategy()


@pytest.mark.parametrize("index", [0, 1, 2])
def test_first_process_is_the_chief(index) -> None:
    assert cluster.Cluster(None, index, 3).is_chief == (index == 0)


def test_process_that_enters_a_cluster_stays_in_it(monkeypatch) -> None:
    monkeypatch.setattr(cluster, "_current", cluster.current())
    joined = cluster.Cluster(None, 1, 3)
    cluster.set_current(joined)
    assert cluster.current() is joined
    # What names it is not looked at again.
    assert joining.join("auto", 0) is joined


@pytest.mark.parametrize("value", [None, 3, 0.1, "ä", [1, "a"], {"a": {"b": [True]}}])
def test_process_alone_has_the_chiefs_value(value) -> None:
    assert cluster.current().broadcast_from_chief(value) == value


def test_value_is_what_json_gives_back_for_the_chief_too() -> None:
    assert cluster.current().broadcast_from_chief({"a": (1, 2)}) == {"a": [1, 2]}


def test_process_alone_passes_each_check_and_sends_no_message(monkeypatch) -> None:
    sends = types.SimpleNamespace(context=lambda: pytest.fail("it sends a message"))
    monkeypatch.setattr(cluster, "context", sends)
    alone = cluster.Cluster()
    assert alone.check_same("the pictures", (1, 2)) is None
    assert alone.check_flags({"steps": 3, "seeds": (0, 1)}, ()) is None
    # What this rests on: with a peer there would be messages.
    with pytest.raises(pytest.fail.Exception, match="it sends a message"):
        cluster.Cluster(None, 0, 2).check_same("the pictures", (1, 2))


@pytest.mark.parametrize("told", [False, True])
def test_process_alone_decides_for_itself(told) -> None:
    assert cluster.current().agree_on_stop(told, 7) == (told, 7)


def test_process_alone_leaves_its_files_as_they_are(tmp_path) -> None:
    (tmp_path / "a").write_text("text")
    cluster.current().copy_files(tmp_path)
    cluster.current().copy_files(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "text"


@pytest.mark.parametrize(
    "error",
    [StoppedError("stopped"), tf.errors.UnavailableError(None, None, "gone"), KeyboardInterrupt()],
)
def test_process_alone_works_and_parts_from_nobody(error) -> None:
    with cluster.current().run_together():
        pass
    with pytest.raises(type(error)) as caught, cluster.current().run_together():
        raise error
    assert caught.value is error


@pytest.mark.parametrize("error", cluster.PEER_LOST_ERRORS)
def test_error_of_the_connection_is_a_loss(error) -> None:
    with pytest.raises(PeerLostError, match="is gone"), cluster.Cluster(None, 1, 2).run_together():
        raise error(None, None, "the connection is broken")


@pytest.mark.parametrize(
    "error", [tf.errors.ResourceExhaustedError(None, None, "memory"), DataError("a"), ValueError()]
)
def test_other_errors_are_what_they_are(error) -> None:
    with pytest.raises(type(error)) as caught, cluster.Cluster(None, 1, 2).run_together():
        raise error
    assert caught.value is error


def test_connection_that_breaks_because_all_were_told_to_stop_is_no_loss(monkeypatch) -> None:
    monkeypatch.setattr(cluster.interruption, "stop_requested", lambda seconds=0.0: True)
    with pytest.raises(StoppedError), cluster.Cluster(None, 1, 2).run_together():
        raise tf.errors.UnavailableError(None, None, "gone")


def test_loss_is_told_with_what_tensorflow_says_of_it() -> None:
    """It may be this process's own failure."""
    said = "{{function_node of_a_graph}} cuDNN found no algorithm\n" + "and more " * 99
    told = str(cluster.peer_lost_error(tf.errors.InternalError(None, None, said)))
    assert told.startswith(
        f"{cluster.PEER_LOST_MESSAGE} (TensorFlow: cuDNN found no algorithm and more"
    )
    assert len(told) < len(cluster.PEER_LOST_MESSAGE) + 230
    assert len(told.splitlines()) == 1


# Two processes

CHUNK_BYTES = 1000
# Sizes by name; the chief has these in its folder.
COPIED = {
    "empty": 0,
    "a/empty.json": 0,
    "small": 1,
    "a/b/eight": 8,
    "piece": CHUNK_BYTES,
    "a/piece and a byte": CHUNK_BYTES + 1,
    "a/ä.npy": 3 * CHUNK_BYTES + 13,
    "log.txt.old": 5,
}
PRIVATE_FILES = (
    *("lock", "log.txt", "a/log.txt", "report.html", "events.out.tfevents.1", "a/events.out.2"),
    *("curves.png", "state.unfinished", "a/state.damaged"),
)


def content(size: int) -> bytes:
    """Return so many bytes, of all values."""
    return bytes((7 * number + number // 256) % 256 for number in range(size))


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what is in the files of a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextlib.contextmanager
def told_of(found: dict[str, Any], name: str) -> Iterator[None]:
    """Keep which error comes, and what it says."""
    found[name] = None
    try:
        yield
    except (UsageError, DataError) as error:
        found[name] = [type(error).__name__, str(error)]


def work_together(folder: Path) -> dict[str, Any]:
    """Do all that processes do together, in one of them, and return what it found."""
    joined = joining.join("auto", 60)
    index, found = joined.index, {}
    found["who"] = [index, joined.count, joined.is_chief, joined.strategy.num_replicas_in_sync]
    found["is current"] = cluster.current() is joined is joining.join("auto", 60)
    with joined.run_together():
        found["said"] = [
            joined.broadcast_from_chief({"by": index, "n": (n, "ä")}) for n in range(3)
        ]
        # Whether told, and how many steps this one would take.
        given = [(False, 5 + index), (index == 0, 0), (index == 1, 2**40), (True, 3)]
        found["decided"] = [joined.agree_on_stop(*one) for one in given]
        with told_of(found, "same"):
            joined.check_same("The labels", {"labels": (1, 2)})
        with told_of(found, "not the same"):
            joined.check_same("The labels", {"labels": [1, index]})
        flags = {"steps": 3, "seeds": (0, 1), "workdir": f"/of/{index}"}
        with told_of(found, "free flag"):
            joined.check_flags(flags, ("workdir",))
        with told_of(found, "flag"):
            joined.check_flags({**flags, "steps": 3 + index}, ("workdir",))
        with told_of(found, "no flag is free"):
            joined.check_flags(flags, ())
        cluster.CHUNK_BYTES = CHUNK_BYTES
        joined.copy_files(folder)
        found["after"] = joined.broadcast_from_chief(index)
    found["parted"] = joined._ended
    with contextlib.suppress(StoppedError), joined.run_together():
        raise StoppedError("the workdir is in use")
    found["parted in the middle"] = joined._ended
    cluster.interruption._stop.set()
    with contextlib.suppress(StoppedError), joined.run_together():
        raise StoppedError("all were told")
    found["parted again"] = joined._ended
    return found


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[tuple[dict[str, Any], Path]]:
    """What each of two processes found, and its folder; starting them takes seconds."""
    folders = [tmp_path_factory.mktemp(name) for name in ("chief", "other")]
    for name, size in [*COPIED.items(), *((name, 3) for name in PRIVATE_FILES)]:
        path = folders[0] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(size))
    (folders[1] / "small").write_text("what was there before, and is longer")
    (folders[1] / "lock").write_text("of the other")
    codes = [
        "import json, pathlib, test_cluster as t\n"
        f"print(json.dumps(t.work_together(pathlib.Path({str(folder)!r}))))"
        for folder in folders
    ]
    found = connected(*codes)
    return list(zip(found, folders, strict=True))


def each(both, name: str) -> list[Any]:
    """Return what the chief found, and what the other one did."""
    return [found[name] for found, _ in both]


def test_processes_are_a_cluster(both) -> None:
    assert each(both, "who") == [[0, 2, True, 2], [1, 2, False, 2]]
    assert each(both, "is current") == [True, True]


def test_both_have_what_the_chief_says(both) -> None:
    said = [{"by": 0, "n": [n, "ä"]} for n in range(3)]
    assert each(both, "said") == [said, said]


def test_both_end_where_any_was_told_to_and_take_the_steps_of_the_chief(both) -> None:
    decided = [[False, 5], [True, 0], [True, 2**40], [True, 3]]
    assert each(both, "decided") == [decided, decided]


def test_what_is_not_the_same_is_told_of_where_it_is_not(both) -> None:
    assert each(both, "same") == [None, None]
    told = "The labels differ from those of the first process. Give all processes the same"
    assert each(both, "not the same") == [None, ["DataError", told]]


def test_flag_that_is_not_the_chiefs_is_told_of(both) -> None:
    told = (
        "--steps=4: the first process was started with --steps=3. Give all processes the same flags"
    )
    assert each(both, "flag") == [None, ["UsageError", told]]


def test_flag_that_is_free_may_be_another(both) -> None:
    assert each(both, "free flag") == [None, None]
    chief, (kind, told) = each(both, "no flag is free")
    assert (chief, kind) == (None, "UsageError")
    assert told.startswith("--workdir=/of/1: the first process was started with --workdir=/of/0")


def test_files_of_the_chief_are_copied(both) -> None:
    copied = files_of(both[1][1])
    for name, size in COPIED.items():
        assert copied[name] == content(size), name


def test_files_that_are_the_chiefs_own_are_not_copied(both) -> None:
    copied = files_of(both[1][1])
    assert copied.pop("lock") == b"of the other"
    assert sorted(copied) == sorted(COPIED)


def test_files_of_the_chief_are_as_they_were(both) -> None:
    expected = {name: content(size) for name, size in COPIED.items()}
    assert files_of(both[0][1]) == {**expected, **{name: content(3) for name in PRIVATE_FILES}}


def test_both_go_on_after_all_that_and_part_together(both) -> None:
    assert each(both, "after") == [0, 0]
    assert each(both, "parted") == [True, True]
    assert each(both, "parted in the middle") == [False, False]
    assert each(both, "parted again") == [True, True]
