"""Tests of how TF_CONFIG, or Slurm's variables, name the processes that train together."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made import program

from tl_keras.distributed import cluster_config
from tl_keras.distributed.cluster_config import SLURM_TASKS, TF_CONFIG, find_cluster_variable
from tl_keras.errors import UsageError

ROOT = Path(__file__).resolve().parents[1]
TWO = ["host0:12345", "host1:12345"]
FIRST = {"type": "worker", "index": 0}


def config(cluster: object = None, task: object = None) -> str:
    """Return a TF_CONFIG, of the first of two workers where nothing else is said."""
    return json.dumps({"cluster": cluster or {"worker": TWO}, "task": task or FIRST})


def of(*addresses: object) -> str:
    """Return a TF_CONFIG of workers at such addresses."""
    return config({"worker": addresses})


def indexed(index: object) -> str:
    """Return a TF_CONFIG of two workers, of which this process is such a one."""
    return config(task={"type": "worker", "index": index})


def refusal(text: str) -> str:
    """Return what is said of a TF_CONFIG, which has to be refused."""
    with pytest.raises(UsageError) as caught:
        find_cluster_variable("auto", {TF_CONFIG: text})
    return str(caught.value)


@pytest.mark.parametrize("strategy", ["auto", "multi_worker"])
@pytest.mark.parametrize(
    "text",
    [
        config(),
        cluster_config.EXAMPLE,
        indexed(1),
        of("10.0.0.1:1", "10.0.0.1:65535"),
        of("[::1]:5", "[fe80::12]:5"),
        config({"chief": ["a:1"], "worker": ["b:1"]}),
        config({"chief": ["a:1"], "worker": ["b:1"]}, {"type": "chief", "index": 0}),
        config({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, {"type": "worker", "index": 1}),
    ],
)
def test_sound_tf_config_names_a_cluster(strategy, text) -> None:
    assert find_cluster_variable(strategy, {TF_CONFIG: text}) == TF_CONFIG


@pytest.mark.parametrize("strategy", ["auto", "multi_worker"])
@pytest.mark.parametrize(
    "text", [of("a:1"), config({"chief": ["a:1"]}, {"type": "chief", "index": 0})]
)
def test_cluster_of_one_process_is_none(strategy, text) -> None:
    # Not even where Slurm counts more: TF_CONFIG was set by hand.
    assert find_cluster_variable(strategy, {TF_CONFIG: text, SLURM_TASKS: "2"}) == ""


NO_CLUSTER = "has no 'cluster'"
NO_TASK = "has no 'task' whose 'type' is one of its jobs"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("worker", "is not JSON (Expecting value: line 1 column 1 (char 0))"),
        ('{"cluster": ', "is not JSON (Expecting value"),
        (config()[:-1], "is not JSON (Expecting ',' delimiter"),
        ("[" * 100_000, "is not JSON ("),
        ("1" * 10_000, "is not JSON ("),
        ("{}", NO_CLUSTER),
        ("[]", NO_CLUSTER),
        ("null", NO_CLUSTER),
        ("3", NO_CLUSTER),
        ('"cluster"', NO_CLUSTER),
        (json.dumps({"task": FIRST}), NO_CLUSTER),
        (json.dumps({"cluster": {}, "task": FIRST}), NO_CLUSTER),
        (json.dumps({"cluster": None, "task": FIRST}), NO_CLUSTER),
        (json.dumps({"cluster": TWO, "task": FIRST}), NO_CLUSTER),
        (config({"worker": TWO, "ps": ["a:1"]}), "names a job 'ps'. Allowed are worker and"),
        (config({"evaluator": TWO}), "names a job 'evaluator'. Allowed are worker and"),
        (config({"worker": []}), "has no list of addresses for 'worker'"),
        (config({"worker": "a:1"}), "has no list of addresses for 'worker'"),
        (config({"worker": {"0": "a:1"}}), "has no list of addresses for 'worker'"),
        (config({"worker": TWO, "chief": None}), "has no list of addresses for 'chief'"),
        (of("a:1", "b"), "has an address 'b', which is not HOST:PORT"),
        (of("a:1", "b:"), "has an address 'b:', which is not HOST:PORT"),
        (of("a:1", ":1"), "has an address ':1', which is not HOST:PORT"),
        (of("a:1", ""), "has an address '', which is not HOST:PORT"),
        (of("a:1", "b:0"), "has an address 'b:0', which is not HOST:PORT"),
        (of("a:1", "b:65536"), "has an address 'b:65536', which is not HOST:PORT"),
        (of("a:1", "b:70000"), "has an address 'b:70000', which is not HOST:PORT"),
        (of("a:1", "b:http"), "has an address 'b:http', which is not HOST:PORT"),
        (of("a:1", "b:-1"), "has an address 'b:-1', which is not HOST:PORT"),
        (of("a:1", "b:1\n"), "has an address 'b:1\\n', which is not HOST:PORT"),
        (of("a:1", "b b:1"), "has an address 'b b:1', which is not HOST:PORT"),
        (of("a:1", "grpc://b:1"), "has an address 'grpc://b:1', which is not HOST:PORT"),
        (of("a:1", "::1:5"), "has an address '::1:5', which is not HOST:PORT"),
        (of("a:1", 12345), "has an address 12345, which is not HOST:PORT"),
        (of("a:1", None), "has an address None, which is not HOST:PORT"),
        (of("a:1", ["b:1"]), "has an address ['b:1'], which is not HOST:PORT"),
        (config({"chief": ["a:1", "b:1"], "worker": TWO}), "has more than one chief"),
        (of("a:1", "a:1"), "names an address twice"),
        (config({"chief": ["a:1"], "worker": ["b:1", "a:1"]}), "names an address twice"),
        (json.dumps({"cluster": {"worker": TWO}}), NO_TASK),
        (json.dumps({"cluster": {"worker": TWO}, "task": {}}), NO_TASK),
        (config(task=["worker", 0]), NO_TASK),
        (config(task={"index": 0}), NO_TASK),
        (config(task={"type": "chief", "index": 0}), NO_TASK),
        (config(task={"type": "evaluator", "index": 0}), NO_TASK),
        (config(task={"type": None, "index": 0}), NO_TASK),
        (config(task={"type": ["worker"], "index": 0}), NO_TASK),
        (config(task={"type": {"worker": 0}, "index": 0}), NO_TASK),
        (config(task={"type": "worker"}), "has a task index None. Allowed are 0 to 1"),
        (indexed(2), "has a task index 2. Allowed are 0 to 1"),
        (indexed(-1), "has a task index -1. Allowed are 0 to 1"),
        (indexed("first"), "has a task index 'first'. Allowed are 0 to 1"),
        (indexed(""), "has a task index ''. Allowed are 0 to 1"),
        (indexed("1" * 5000), "has a task index '111"),
        (indexed(0.0), "has a task index 0.0. Allowed are 0 to 1"),
        (indexed(True), "has a task index True. Allowed are 0 to 1"),
        (indexed([0]), "has a task index [0]. Allowed are 0 to 1"),
    ],
    ids=lambda value: value[:40],
)
def test_wrong_tf_config_is_refused_with_its_reason(text, reason) -> None:
    told = refusal(text)
    assert told.startswith(f"TF_CONFIG={text[:200]}")
    assert reason in told
    assert told.endswith(
        f"Write it as in {cluster_config.EXAMPLE}, or unset it to train in one process"
    )
    assert len(told.splitlines()) == 1


def test_wrong_tf_config_is_a_mistake_of_use() -> None:
    assert UsageError.exit_code == 2


def test_long_tf_config_is_not_printed_whole() -> None:
    told = refusal(of(*(f"host{number}:1" for number in range(500)), "host"))
    assert "host0:1" in told and "... has an address 'host', which" in told
    assert len(told) < 600


# Other strategies, and other variables


@pytest.mark.parametrize("strategy", ["one_device", "mirrored", "tpu"])
@pytest.mark.parametrize(
    "variables", [{TF_CONFIG: "{}"}, {TF_CONFIG: config()}, {SLURM_TASKS: "4"}]
)
def test_other_strategies_do_not_look(strategy, variables) -> None:
    assert find_cluster_variable(strategy, variables) == ""


@pytest.mark.parametrize("strategy", ["auto", "multi_worker"])
@pytest.mark.parametrize("tasks", ["2", "64"])
def test_several_tasks_of_slurm_are_a_cluster(strategy, tasks) -> None:
    assert find_cluster_variable(strategy, {SLURM_TASKS: tasks}) == SLURM_TASKS
    assert find_cluster_variable(strategy, {SLURM_TASKS: tasks, TF_CONFIG: ""}) == SLURM_TASKS


def test_tf_config_goes_before_slurm() -> None:
    assert find_cluster_variable("auto", {SLURM_TASKS: "4", TF_CONFIG: config()}) == TF_CONFIG


NONE = [
    *({}, {TF_CONFIG: ""}),
    *({SLURM_TASKS: tasks} for tasks in ("1", "0", "", "-2", "2.0", "two", "²", "2(x2)")),
]


@pytest.mark.parametrize("variables", NONE)
def test_where_nothing_names_a_cluster_there_is_none(variables) -> None:
    assert find_cluster_variable("auto", variables) == ""


@pytest.mark.parametrize("variables", NONE)
def test_cluster_that_is_asked_for_and_not_there_is_a_mistake(variables) -> None:
    with pytest.raises(UsageError) as caught:
        find_cluster_variable("multi_worker", variables)
    told = str(caught.value)
    assert told.startswith("--strategy=multi_worker finds no cluster. Set TF_CONFIG, start it with")
    assert "tl_keras.launch --workers=2" in told
    assert len(told.splitlines()) == 1


def test_variables_are_those_of_the_process(monkeypatch) -> None:
    monkeypatch.delenv(SLURM_TASKS, raising=False)
    monkeypatch.setenv(TF_CONFIG, config())
    assert find_cluster_variable("auto") == TF_CONFIG
    monkeypatch.delenv(TF_CONFIG)
    assert find_cluster_variable("auto") == ""
    monkeypatch.setenv(SLURM_TASKS, "2")
    assert find_cluster_variable("auto") == SLURM_TASKS


# Whatever stands there

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
ADDRESSES = st.lists(st.sampled_from([*TWO, "[::1]:5"]) | st.from_regex(r".*:[0-9]+") | ANYTHING)
CLUSTERS = st.dictionaries(st.sampled_from(["chief", "worker", "ps"]), ADDRESSES | ANYTHING)
TASKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["chief", "worker"]) | ANYTHING, "index": st.integers(0) | ANYTHING}
)
CONFIGS = st.fixed_dictionaries(
    {"cluster": st.just({"worker": TWO}) | CLUSTERS | ANYTHING, "task": TASKS | ANYTHING}
)


@given(st.text() | ANYTHING.map(json.dumps) | CONFIGS.map(json.dumps))
@example(indexed("1" * 5000))
@example("[" * 5000 + "]" * 5000)
def test_any_tf_config_is_answered(text) -> None:
    try:
        assert find_cluster_variable("auto", {TF_CONFIG: text}) in ("", TF_CONFIG)
    except UsageError as error:
        assert str(error).startswith("TF_CONFIG=")


@given(st.text() | st.integers().map(str))
@example("1" * 5000)
def test_any_number_of_tasks_is_answered(text) -> None:
    assert find_cluster_variable("auto", {SLURM_TASKS: text}) in ("", SLURM_TASKS)


# The command line


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run some code in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize("text", [config(), "{}"])
def test_nothing_heavy_is_loaded_to_read_it(monkeypatch, text) -> None:
    monkeypatch.setenv(TF_CONFIG, text)
    done = python(
        "import sys\nfrom tl_keras import errors\nfrom tl_keras.distributed import cluster_config\n"
        "try: print(cluster_config.find_cluster_variable('auto'))\n"
        "except errors.UsageError: print('refused')\n"
        "sys.exit(99 if 'tensorflow' in sys.modules or 'numpy' in sys.modules else 0)"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("TF_CONFIG\n" if text == config() else "refused\n")


@pytest.mark.parametrize("text", ["{}", "{\n}\n", "nonsense"])
def test_program_ends_with_one_line(monkeypatch, text) -> None:
    monkeypatch.setenv(TF_CONFIG, text)
    done = program("tl_keras.main")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tl_keras: TF_CONFIG={' '.join(text.split())} ")
    assert len(done.stderr.splitlines()) == 1


def test_program_ends_before_tensorflow_is_loaded(monkeypatch) -> None:
    monkeypatch.setenv(TF_CONFIG, "{}")
    done = python(
        "import sys; from tl_keras.main import main; code = main(['main']);"
        "sys.exit(99 if 'tensorflow' in sys.modules or 'numpy' in sys.modules else code)"
    )
    assert (done.returncode, done.stdout) == (2, "")
