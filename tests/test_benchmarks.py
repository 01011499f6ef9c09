"""Tests of experiments/benchmarks: the turns, the processes, and what is made of the figures."""

import collections
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.benchmarks import __main__ as program
from experiments.benchmarks import growth, picture_files, results, rows, transfer
from experiments.benchmarks.accuracy import Accuracy
from experiments.benchmarks.from_files import FirstReading, compare, read_lines
from experiments.benchmarks.growth import Point
from experiments.benchmarks.heads import CACHED, UNCACHED
from experiments.benchmarks.picture_files import Files
from experiments.benchmarks.processes import Program, Worker, run
from experiments.benchmarks.results import Book
from experiments.benchmarks.speed import Comparison, Opponent, finding
from experiments.benchmarks.turns import FailedError, Found, Measure, Pace, Ratio, ratio, take_turns

# The benchmarks are no part of the program.
pytestmark = pytest.mark.slow

FAKES = """
import pathlib
import sys
import time


def steady(rounds, images, log):
    path = pathlib.Path(log)
    print("what a library prints")
    while True:
        rounds.begin()
        path.write_text(path.read_text() + "begin\\n" if path.is_file() else "begin\\n")
        rounds.end(images)


def refuses(rounds):
    raise ValueError("no\\n  room")


def fails_later(rounds):
    rounds.begin()
    rounds.end(1)
    rounds.begin()
    raise KeyError("gone")


def dies(rounds):
    rounds.begin()
    print("the last words", file=sys.stderr, flush=True)
    import os
    os._exit(3)


def stops_by_itself(rounds):
    rounds.begin()
    rounds.end(1)


def hangs(rounds):
    time.sleep(60)

"""
MACHINE = {"processor": "a | b", "cores": "2"}


class Scripted:
    """An entrant that gives the speeds it is told to, and notes what is asked of it."""

    def __init__(self, name: str, speeds: list[float], calls: list[str], fails_at: str = ""):
        self.name = name
        self.speeds = iter(speeds)
        self.calls = calls
        self.fails_at = fails_at
        self.is_closed = False

    def _call(self, what: str) -> None:
        self.calls.append(f"{self.name} {what}")
        if what == self.fails_at:
            raise FailedError(f"{what} did not work")

    def start(self) -> None:
        self._call("start")

    def ready(self) -> None:
        self._call("ready")

    def round(self) -> Measure:
        self._call("round")
        speed = next(self.speeds)
        return Measure(speed, 10 * speed, speed / 10)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """A function that makes a worker of a name and arguments; all are closed at the end."""
    (tmp_path / "fakes.py").write_text(FAKES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = []

    def make(name: str, patience: float = 60.0, **arguments) -> Worker:
        made.append(Worker(name, f"fakes:{name}", arguments, patience))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


def state_of(pid: int) -> str:
    """Return the letter that Linux has for what a process does; T is stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(condition, seconds: float = 30.0) -> bool:
    """Return whether a condition comes true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def is_alive(pid: int) -> bool:
    """Tell whether there is such a process that has not ended."""
    try:
        return state_of(pid) not in "ZX"
    except OSError:
        return False


def test_turns_go_round_and_do_not_count_the_warm_up() -> None:
    calls: list[str] = []
    a, b = Scripted("a", [100, 1, 2, 3], calls), Scripted("b", [200, 4, 5, 6], calls)
    found = take_turns([a, b], Pace(warmup=1, rounds=3))
    assert calls == ["a start", "b start", "a ready", "b ready"] + 4 * ["a round", "b round"]
    assert found["a"] == Found([1, 2, 3], 30, input_waits=[0.1, 0.2, 0.3])
    assert found["b"] == Found([4, 5, 6], 60, input_waits=[0.4, 0.5, 0.6])
    assert a.is_closed
    assert b.is_closed


@pytest.mark.parametrize("moment", ["start", "ready", "round"])
def test_turns_go_on_without_one_that_fails(moment) -> None:
    calls: list[str] = []
    entrants = [Scripted(name, [1, 2, 3], calls) for name in "abc"]
    entrants[1].fails_at = moment
    found = take_turns(entrants, Pace(warmup=0, rounds=3))
    assert found["b"].error == f"{moment} did not work"
    assert calls.count(f"b {moment}") == 1
    assert found["a"].images_per_second == found["c"].images_per_second == [1, 2, 3]


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    # The ratio of the medians would be 4 / 2.
    assert ratio(Found([2, 4, 9]), Found([2, 1, 3])) == Ratio(3, 1, 4)


def test_ratio_is_none_where_one_failed() -> None:
    good, bad = Found([1.0]), Found([1.0], error="no")
    assert ratio(good, bad) is ratio(bad, good) is ratio(Found(), Found()) is None


def test_finding_says_which_goals_are_reached() -> None:
    found = {
        "ours": Found([6, 6, 6]), "slow": Found([2, 3, 2]), "fast": Found([6, 5, 7]),
        "any": Found([1, 1, 1]), "gone": Found(error="no"),
    }  # fmt: skip
    opponents = [Opponent("slow", 3.0), Opponent("fast", 1.1), Opponent("any", 0)]
    opponents.append(Opponent("gone", 1.0))
    made = finding("row", "work", found, "ours", opponents)
    assert [one["reached"] for one in made["against"]] == [True, False, None, None]
    assert made["against"][0]["ratio"] == {"median": 3.0, "low": 2.0, "high": 3.0}
    assert made["against"][3]["error"] == "no"
    json.dumps(made, allow_nan=False)


def test_worker_measures_rounds_and_keeps_prints_apart(fake, tmp_path) -> None:
    worker = fake("steady", images=7, log=str(tmp_path / "log"))
    found = take_turns([worker], Pace(warmup=1, rounds=2))["steady"]
    assert not found.error
    assert len(found.images_per_second) == 2
    assert min(found.images_per_second) > 0
    assert found.peak_mb > 1
    assert (tmp_path / "log").read_text() == 3 * "begin\n"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("refuses", "ValueError: no room"),
        ("fails_later", "KeyError: 'gone'"),
        ("dies", "it ended with exit code 3: the last words"),
        ("stops_by_itself", "it ended by itself"),
        ("there_is_none", "AttributeError: module 'fakes' has no attribute 'there_is_none'"),
    ],
)
def test_worker_that_fails_says_why_in_one_line(fake, tmp_path, name, reason) -> None:
    good = fake("steady", images=1, log=str(tmp_path / "log"))
    found = take_turns([fake(name), good], Pace(0, 2))
    assert found[name].error == reason
    assert len(found["steady"].images_per_second) == 2


def test_worker_that_says_nothing_is_given_up(fake) -> None:
    worker = fake("hangs", patience=0.2)
    assert take_turns([worker], Pace(0, 1))["hangs"].error == "no answer within 0.2 seconds"
    assert not worker.pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_workers_end_with_whoever_started_them(tmp_path, number) -> None:
    (tmp_path / "fakes.py").write_text(FAKES)
    code = (
        "import signal, sys, time\n"
        "from experiments.benchmarks.processes import Worker\n"
        "from experiments.benchmarks.turns import Pace, take_turns\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        f"first = Worker('a', 'fakes:steady', dict(images=1, log={str(tmp_path / 'log')!r}))\n"
        "last = Worker('b', 'fakes:hangs', {})\n"
        "first.start(); first.ready(); print(first.pid, flush=True)\n"
        "first.start = first.ready = lambda: None\n"
        "take_turns([first, last], Pace(0, 1))\n"
    )
    path = os.pathsep.join([str(tmp_path), str(rows_folder())])
    started = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    )
    pid = int(started.stdout.readline())
    assert wait_for(lambda: state_of(pid) == "T")
    time.sleep(0.2)
    started.send_signal(number)
    assert started.wait(30) == (3 if number == signal.SIGTERM else -number)
    started.stdout.close()
    assert wait_for(lambda: not is_alive(pid))


def rows_folder() -> Path:
    """Return the project's folder."""
    return Path(program.__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('tl_keras: no data')", "it ended with exit code 1: tl_keras: no data"),
        ("import os; os.kill(os.getpid(), 9)", "it ended with SIGKILL: it said nothing"),
        ("import time; time.sleep(60)", "it ended with SIGKILL: it said nothing"),
    ],
)
def test_program_that_fails_says_why_in_one_line(tmp_path, code, reason) -> None:
    with pytest.raises(FailedError) as caught:
        run(["-c", code], tmp_path, patience=2.0)
    assert str(caught.value) == reason


def test_accuracy_finding_holds_the_loss_to_the_goal() -> None:
    row = Accuracy("row", "digits", ["--shots=5"], goal=0.5, seeds=(0, 1))
    good = row.finding({"float32": [0.95, 0.94], "bfloat16": [0.945, 0.94]})
    assert good["lost"] == pytest.approx(0.25)
    assert good["reached"]
    assert not row.finding({"float32": [0.95, 0.94], "bfloat16": [0.94, 0.93]})["reached"]
    better = row.finding({"float32": [0.9, 0.9], "bfloat16": [0.95, 0.95]})
    assert better["lost"] == pytest.approx(-5)
    assert better["reached"], "what is better than float32 is not lost"


def growth_finding() -> dict:
    """Return what a row of two sizes found, the larger of which could not be had uncached."""
    points = {
        CACHED: [Point(10, [2.0, 4.0, 2.0], 100.0), Point(30, [6.0, 8.0, 8.0], 150.0)],
        UNCACHED: [Point(10, [4.0, 4.0, 4.0], 90.0), Point(30, [], error="it ended with SIGKILL")],
    }
    return growth.finding("growth", "images", 1, points)


def test_growth_finding_is_in_times_of_the_smallest_run() -> None:
    lines = growth_finding()["lines"]
    assert lines[CACHED][0]["time"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert lines[CACHED][1]["time"] == {"median": 3.0, "low": 2.0, "high": 4.0}
    assert lines[UNCACHED][0]["time"] == {"median": 2.0, "low": 1.0, "high": 2.0}
    assert lines[UNCACHED][1]["time"] is None


def findings() -> list[dict]:
    """Return one finding of each kind."""
    found = {"slow": Found([2.0], 300.0), "gone": Found(error="no")}
    found["ours"] = Found([6.0], 1500.0, input_waits=[0.04, 0.0, 0.021])
    speed = finding("speed row", "work", found, "ours", [Opponent("slow", 4), Opponent("gone", 1)])
    precise = {"float32": [0.95], "bfloat16": [0.95]}
    accuracy = Accuracy("accuracy row", "digits", seeds=(0,)).finding(precise)
    failed = {"row": "failed row", "kind": "failed", "error": "no such data"}
    return [speed, accuracy, growth_finding(), failed]


def test_markdown_shows_ratios_goals_failures_and_the_machine() -> None:
    book = Book(None, MACHINE, [one["row"] for one in findings()])
    for one in findings():
        book.add(one)
    text = book.markdown()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| processor | a \\| b |" in lines
    assert (
        "| speed row | slow | 3.00 (3.00 to 3.00) | 4 | missed | 2.1 % | 1,500 MB | 300 MB |"
        in lines
    )
    assert "| speed row | gone | gone failed: no | 1 | | 2.1 % | 1,500 MB | – |" in lines
    assert "| digits | 0 | 95.00 % | 95.00 % | +0.00 | at most 0.5 | reached |" in lines
    assert "| failed row | no such data |" in lines
    assert "| 30 | 3.00 (2.00 to 4.00) | 150 MB | it ended with SIGKILL | – |" in lines
    assert not any("images/s" in line or "images_per_second" in line for line in lines)


def test_book_keeps_what_it_had_of_other_rows_of_this_machine(tmp_path) -> None:
    order = ["first", "second"]
    first, second = ({"row": name, "kind": "failed", "error": "no"} for name in order)
    Book(tmp_path, MACHINE, order).add(second)
    again = Book(tmp_path, MACHINE, order)
    again.add(first)
    assert again.findings == [first, second]
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept == {"machine": MACHINE, "rows": [first, second]}
    assert "first" in (tmp_path / "results.md").read_text()
    again.add({**first, "error": "another"})
    assert [one["error"] for one in again.findings] == ["another", "no"]
    assert Book(tmp_path, {**MACHINE, "cores": "4"}, order).findings == []
    assert Book(tmp_path, MACHINE, ["first"]).findings == [{**first, "error": "another"}]


@pytest.mark.parametrize("quick", [True, False])
def test_rows_have_names_of_their_own_and_functions_that_exist(quick) -> None:
    table = rows.table(quick)
    assert len({row.name for row in table}) == len(table)
    for row in table:
        if isinstance(row, Comparison):
            for function in (row.function, *(one.function for one in row.opponents)):
                module, _, name = function.partition(":")
                path = rows_folder() / f"{module.replace('.', '/')}.py"
                assert f"\ndef {name}(" in path.read_text(encoding="utf-8")
            assert quick or row.pace.rounds >= 5
        if isinstance(row, Accuracy):
            assert (rows_folder() / "experiments" / f"{row.recipe}.flags").is_file()


def test_synthetic_pictures_are_a_dataset_beside_the_others(monkeypatch) -> None:
    from experiments.benchmarks import synthetic
    from tl_keras.data import catalog, embedded, reading

    monkeypatch.setattr(catalog, "DATASETS", dict(catalog.DATASETS))
    monkeypatch.setattr(embedded, "open_dataset", embedded.open_dataset)
    synthetic.register(30, 8)
    dataset = reading.open_dataset("synthetic")
    train, test = dataset.read("train", 0), dataset.read("test", 0)
    assert train.images.shape == (30, 8, 8, 3)
    assert train.images.std() > 50
    assert set(train.labels.tolist()) == set(range(10))
    assert len(test.labels) == synthetic.TEST_IMAGES
    assert reading.open_dataset("digits").name == "digits"


def test_main_measures_the_rows_asked_for_and_writes_where_it_is_told(
    monkeypatch, tmp_path, capsys
) -> None:
    class Row:
        def __init__(self, name: str, made: dict | None):
            self.name, self.made = name, made

        def measure(self) -> dict:
            if self.made is None:
                raise FailedError("no such data")
            return self.made

    table = [Row("growth", growth_finding()), Row("other growth", None), Row("speed", None)]
    monkeypatch.setattr(rows, "table", lambda quick: table)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert program.main(["", "--quick", "--rows=growth", f"--out={tmp_path}"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert {path.name for path in tmp_path.iterdir()} == {
        "results.json",
        "results.md",
        "growth.png",
    }
    kept = json.loads((tmp_path / "results.json").read_text())
    assert [one["row"] for one in kept["rows"]] == ["growth", "other growth"]
    assert "growth.png" in (tmp_path / "results.md").read_text()
    assert "no such data" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["--rows=(", "--rows=no such row"])
def test_main_refuses_rows_that_are_not_there(word) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["", "--quick", word])
    assert caught.value.code == 2


class Asked:
    """What a contender is asked for: a few rounds, whose images are noted, and then no more."""

    def __init__(self, rounds: int):
        self.left = rounds
        self.images: list[int] = []
        self.input_waits: list[float] = []

    def begin(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise EOFError

    def end(self, images: int, input_wait: float = 0.0) -> None:
        self.after()
        self.images.append(images)
        self.input_waits.append(input_wait)

    def after(self) -> None:
        """Do nothing, unless the contender sets another."""


SMALL = {"model": "small_cnn", "dense_units": 8, "batch_size": 4}


@pytest.fixture
def ours(tmp_path, monkeypatch):
    """Our side, whose temporary files lie where the test's do."""
    from experiments.benchmarks import ours

    monkeypatch.setattr(ours.tempfile, "mkdtemp", lambda: str(tmp_path))
    return ours


def test_our_short_training_trains_a_fresh_model_each_round(ours, monkeypatch) -> None:
    seen, loop = [], ours._loop

    def watched(setting, *arguments):
        weights = setting.model.get_weights()
        seen.append((sum(float(abs(w).sum()) for w in weights), setting.cache))
        return loop(setting, *arguments)

    monkeypatch.setattr(ours, "_loop", watched)
    asked = Asked(2)
    with pytest.raises(EOFError):
        ours.short_training(asked, {**SMALL, "trainable": "head"}, images=8, size=8, epochs=2)
    assert asked.images == [16, 16]
    assert all(0 <= wait < 1 for wait in asked.input_waits)
    assert seen[0][0] == seen[1][0]
    assert seen[0][1] != seen[1][1]


@pytest.mark.parametrize("chain", [True, False])
def test_keras_peer_has_epochs_for_rounds(chain) -> None:
    from experiments.benchmarks import peers_keras

    asked = Asked(2)
    with pytest.raises(EOFError):
        peers_keras.train_small_cnn(asked, images=16, batch_size=8, chain=chain)
    assert asked.images == [16, 16]


def test_torch_peer_has_epochs_for_rounds() -> None:
    pytest.importorskip("torch", reason="torch comes with the extra bench")
    from experiments.benchmarks import peers_torch

    asked = Asked(2)
    with pytest.raises(EOFError):
        peers_torch.train_small_cnn(asked, images=16, batch_size=8)
    assert asked.images == [16, 16]


@pytest.mark.parametrize(("name", "count"), [("resnet50", 23_508_032), ("vgg16", 14_714_688)])
def test_torch_peer_has_the_published_number_of_parameters(name, count) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra bench")
    from experiments.benchmarks import peers_torch

    network, width = peers_torch.body(name)
    assert sum(parameter.numel() for parameter in network.parameters()) == count
    with torch.inference_mode():
        assert network.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, width)


def test_cpu_seconds_count_this_process_and_ended_children() -> None:
    from experiments.benchmarks.worker import cpu_seconds

    before = cpu_seconds()
    time.sleep(0.3)
    asleep = cpu_seconds() - before
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    assert asleep < 0.2
    assert cpu_seconds() - before - asleep > 0.4


# Until it has had half a second of CPU time.
BUSY = "import time\nwhile time.process_time() < 0.5: pass"


def test_rounds_measure_by_their_clock_and_leave_out_what_comes_after() -> None:
    from experiments.benchmarks.worker import Rounds

    requests, answers = io.StringIO("round\n"), io.StringIO()
    rounds, now = Rounds(requests, answers), [5.0]
    rounds.clock = lambda: now[0]
    rounds.after = lambda: now.append(now.pop() + 100)
    rounds.begin()
    now[0] += 2
    rounds.end(6)
    assert json.loads(answers.getvalue().splitlines()[1])["images_per_second"] == 3.0
    assert now == [107.0]


def test_program_runs_once_a_round_and_is_prepared_by_number_0(tmp_path) -> None:
    log = tmp_path / "log"

    def words(place: Path, number: int) -> list[str]:
        return ["-c", f"open({str(place / 'made')!r}, 'w').write('{number}')"]

    def finish(place: Path, number: int) -> None:
        with log.open("a") as file:
            file.write(f"{number} {(place / 'made').read_text()}\n")

    one = Program("one", 10, words, is_prepared=True, finish=finish)
    found = take_turns([one, Program("two", 10, words)], Pace(0, 2))
    assert log.read_text() == "0 0\n1 1\n2 2\n"
    assert len(found["one"].images_per_second) == len(found["two"].images_per_second) == 2
    assert not found["one"].error


def test_program_counts_cpu_time_where_it_is_told_to(tmp_path) -> None:
    words = ["-c", "import time; time.sleep(1.5)"]
    wall, cpu = (
        Program("any", 100, lambda *_: words, in_cpu_time=flag).round().images_per_second
        for flag in (False, True)
    )
    assert wall < 100 / 1.5
    assert cpu > 100
    assert run(["-c", BUSY], tmp_path).cpu_seconds >= 0.5


def test_program_has_the_variables_it_is_given(tmp_path) -> None:
    code = "import os, sys; sys.exit(os.environ['KERAS_HOME'] != 'here')"
    run(["-c", code], tmp_path, variables={"KERAS_HOME": "here"})
    with pytest.raises(FailedError, match="exit code 1"):
        run(["-c", code], tmp_path, variables={"KERAS_HOME": "there"})


def test_photographs_are_the_same_jpeg_files_in_every_process(tmp_path) -> None:
    from PIL import Image

    from experiments.benchmarks import photographs

    files = Files(40, 80, 60, has_splits=True)
    picture_files.write(tmp_path, files)
    photographs.write(tmp_path / "again", files)
    paths = sorted((tmp_path / "pictures").rglob("*.jpg"))
    assert len(paths) == 40
    for path in paths:
        again = tmp_path / "again" / path.relative_to(tmp_path / "pictures")
        assert path.read_bytes() == again.read_bytes()
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (80, 60))
    places = [path.relative_to(tmp_path / "pictures").parts for path in paths]
    assert len({parts[1] for parts in places if parts[0] == "train"}) == photographs.CLASSES
    assert [parts[0] for parts in places].count("test") == photographs.CLASSES
    assert len({path.read_bytes() for path in paths}) == 40


def test_photographs_without_splits_are_a_folder_of_classes() -> None:
    from experiments.benchmarks import photographs

    places = [photographs.place(number, has_splits=False) for number in range(80)]
    counts = collections.Counter(path.parent.as_posix() for path in places)
    assert len(places) == len(set(places))
    assert set(counts.values()) == {10}
    assert len(counts) == photographs.CLASSES


@pytest.fixture(scope="module")
def pictures_folder(tmp_path_factory):
    """A folder with `pictures` in splits, of 80 files."""
    folder = tmp_path_factory.mktemp("files")
    picture_files.write(folder, Files(80, 64, 48, has_splits=True))
    return folder / "pictures"


def test_our_first_reading_keeps_nothing_from_round_to_round(
    pictures_folder, tmp_path, monkeypatch
) -> None:
    from experiments.benchmarks import read_folder

    seen, read = [], read_folder.read

    def watched(folder, size, cache):
        seen.append(cache.exists())
        count = read(folder, size, cache)
        seen.append(any(path.is_file() for path in cache.rglob("*")))
        return count

    monkeypatch.setattr(read_folder, "read", watched)
    asked = Asked(2)
    with pytest.raises(EOFError):
        read_folder.first_reading(asked, str(pictures_folder), 16)
    assert asked.images == [80, 80]
    assert seen == [False, True, False, True]


def test_our_reading_does_without_tensorflow() -> None:
    code = "import sys, experiments.benchmarks.read_folder; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=rows_folder())


def test_keras_peer_reads_all_files_of_a_folder(pictures_folder) -> None:
    from experiments.benchmarks import peers_keras_files

    asked = Asked(2)
    with pytest.raises(EOFError):
        peers_keras_files.read(asked, str(pictures_folder / "train"), 16)
    assert asked.images == [64, 64]


@pytest.mark.parametrize("workers", [0, 1])
def test_torch_peer_reads_all_files_of_a_folder(pictures_folder, workers) -> None:
    pytest.importorskip("torch", reason="torch comes with the extra bench")
    from experiments.benchmarks import peers_torch_files

    asked = Asked(2)
    with pytest.raises(EOFError):
        peers_torch_files.read(asked, str(pictures_folder / "train"), 16, workers)
    assert asked.images == [64, 64]


def test_torch_peer_sees_what_we_see(pictures_folder) -> None:
    pytest.importorskip("torch", reason="torch comes with the extra bench")
    from experiments.benchmarks import peers_torch_files
    from tl_keras.config.pictures import PictureOptions
    from tl_keras.data.reading import open_dataset

    options = PictureOptions(picture_cache_gb=0)
    dataset = open_dataset(f"folder:{pictures_folder}", pictures=options).decode(48)
    own = dataset.read("test", 48)
    theirs = peers_torch_files.Pictures(pictures_folder / "test", 48)
    assert tuple(theirs.classes) == dataset.class_names
    assert [theirs[index][1] for index in range(len(theirs))] == own.labels.tolist()
    for index in range(len(theirs)):
        image = theirs[index][0].permute(1, 2, 0).numpy() * 255
        assert abs(image - own.images[index]).mean() < 3


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory):
    """A weights file of MobileNetV2 in the form of Keras' own."""
    from experiments.benchmarks import peers_keras_files

    path = tmp_path_factory.mktemp("keras") / "models" / transfer.WEIGHTS
    peers_keras_files.write_random_weights(path)
    return path


def test_torch_mobilenet_computes_what_keras_does(random_weights) -> None:
    torch = pytest.importorskip("torch", reason="torch comes with the extra bench")
    import keras
    import numpy as np

    from experiments.benchmarks import mobilenet_torch

    theirs = keras.applications.MobileNetV2(
        input_shape=(64, 64, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    theirs.load_weights(random_weights)
    ours = mobilenet_torch.mobilenet_v2(0.35).eval()
    mobilenet_torch.load(ours, random_weights)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    expected = theirs.predict(images, verbose=0)
    with torch.inference_mode():
        found = ours(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert found.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_torch_mobilenet_refuses_weights_of_another_width(random_weights) -> None:
    pytest.importorskip("torch", reason="torch comes with the extra bench")
    from experiments.benchmarks import mobilenet_torch

    with pytest.raises(ValueError, match="has .* for"):
        mobilenet_torch.load(mobilenet_torch.mobilenet_v2(0.5), random_weights)


def test_transfer_finds_weights_or_makes_random_ones(tmp_path, monkeypatch) -> None:
    path = tmp_path / "home" / "models" / transfer.WEIGHTS
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    assert transfer.find_weights(tmp_path) == (tmp_path / "keras", "random")
    assert (tmp_path / "keras" / "models" / transfer.WEIGHTS).stat().st_size > 10**6
    path.parent.mkdir(parents=True)
    path.touch()
    assert transfer.find_weights(tmp_path) == (tmp_path / "home", "ImageNet")


def test_transfer_measures_all_programs_and_their_accuracy(tmp_path, monkeypatch) -> None:
    pytest.importorskip("torch", reason="torch comes with the extra bench")
    row = transfer.Transfer("row", Files(80, 64, 48, has_splits=True), 1, Pace(0, 1))
    # Without weights to find.
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = row.measure()
    assert "random weights" in found["work"]
    assert [one["error"] for one in found["contenders"]] == 5 * [""]
    assert [len(one["accuracies"]) for one in found["contenders"]] == 5 * [1]
    first, kept = found["contenders"][:2]
    assert first["time"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert first["accuracies"] == kept["accuracies"]


def transfer_finding() -> dict:
    """Return what a row found, one of whose programs failed."""
    found = {"first": Found([4.0, 2.0], 800.0), "slow": Found([2.0, 1.0]), "gone": Found(error="x")}
    accuracies = {"first": [0.9, 0.8], "slow": [0.75, 0.75], "gone": []}
    return transfer.finding("transfer row", "work", found, accuracies)


def test_transfer_finding_is_in_times_of_the_first_program() -> None:
    first, slow, gone = transfer_finding()["contenders"]
    assert first["time"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert slow["time"] == {"median": 2.0, "low": 2.0, "high": 2.0}
    assert gone["time"] is gone["accuracy"] is None
    lines = [" ".join(line.split()) for line in "\n".join(shown_transfer()).splitlines()]
    assert "| first | 1.00 (1.00 to 1.00) | 85.0 % | 800 MB |" in lines
    assert "| gone | x | – | – |" in lines


def shown_transfer() -> list[str]:
    """Return the Markdown of the finding."""
    return list(results.shown("transfer", [transfer_finding()]))


def test_streaming_tells_whether_weights_were_equal() -> None:
    assert "were equal to the bit after each of 2 rounds" in compare([["a", "b"], ["a", "b"]])
    assert "were equal to the bit after each of 1 rounds" in compare([["a", "b"], ["a"]])
    assert "WERE NOT EQUAL" in compare([["a", "b"], ["a", "c"]])
    assert "not compared" in compare([["a"], []])


def test_streaming_trains_to_the_same_weights_as_in_memory(
    pictures_folder, tmp_path, monkeypatch
) -> None:
    from experiments.benchmarks import ours
    from tl_keras.data import pipeline
    from tl_keras.pictures.streamed import StreamedImages

    decoded, take = [], StreamedImages.take

    def watched(self, indices):
        decoded.append(len(indices))
        return take(self, indices)

    monkeypatch.setattr(pipeline, "MAX_COPY_BYTES", pipeline.MAX_COPY_BYTES)
    monkeypatch.setattr(StreamedImages, "take", watched)
    kept, asked = {}, {}
    for how in ("always", "never"):
        place, rounds = tmp_path / how, Asked(2)
        place.mkdir()
        monkeypatch.setattr(ours.tempfile, "mkdtemp", lambda place=place: str(place))
        flags = {**SMALL, "stream_pictures": how}
        with pytest.raises(EOFError):
            ours.train_on_files(rounds, flags, str(pictures_folder), 16, 3, str(place / "digests"))
        kept[how], asked[how] = read_lines(place / "digests"), rounds
    assert asked["always"].images == asked["never"].images == [12, 12]
    assert kept["always"] == kept["never"]
    assert len(set(kept["always"])) == 2, "each round changes the weights"
    assert len(decoded) >= 6
    assert set(decoded) == {SMALL["batch_size"]}, "each step decodes its own pictures"


def test_rows_on_files_name_functions_that_exist() -> None:
    row = next(one for one in rows.table(True) if isinstance(one, FirstReading))
    functions = [one.function for one in row.opponents(Path())]
    assert len(functions) == 3
    for function in functions:
        module, _, name = function.partition(":")
        path = rows_folder() / f"{module.replace('.', '/')}.py"
        assert f"\ndef {name}(" in path.read_text(encoding="utf-8")
