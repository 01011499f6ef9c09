"""What all tests share: a quiet TensorFlow, strict warnings, and the data that lie beside us."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import hypothesis
import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# The files that take longest, the longest first: one that starts last is what all wait for.
LONGEST_FIRST = (
    *("test_kills.py", "test_peers.py", "test_distribution.py", "test_experiment.py"),
    *("test_arms.py", "test_damage.py", "test_full_disk.py", "test_applications.py"),
    *("test_comparison.py", "test_file_preprocessing.py", "test_fuzz_flags.py", "test_options.py"),
    *("test_frozen_part.py", "test_colour.py", "test_file_network.py", "test_building.py"),
    *("test_unfreezing.py", "test_labels.py", "test_pipeline.py", "test_loop.py"),
    *("test_keras_defaults.py", "test_methods.py", "test_precision.py", "test_mixing.py"),
)

# Read when TensorFlow and Keras are imported, by the tests and by the programs they start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Decoded pictures are kept here, and not in the home of whoever runs the tests.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tl_keras_tests_")
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)
for variable, folder in (("TFDS_DATA_DIR", "tfds"), ("KERAS_HOME", "keras_home")):
    if (SHARED_DATA / folder).is_dir():
        os.environ.setdefault(variable, str(SHARED_DATA / folder))

# No deadline: a busy machine is no bug. The same inputs everywhere: a failure can be repeated.
hypothesis.settings.register_profile("tl_keras", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tl_keras")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --torture, which `make torture` gives."""
    parser.addoption("--torture", action="store_true", help="the long form of tests that have one")


def pytest_configure(config: pytest.Config) -> None:
    """Make a warning an error where our own code, or a test, gives rise to it."""
    for module in ("tl_keras", "test_", "tests"):
        config.addinivalue_line("filterwarnings", f"error:::{module}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the longest files first; with --torture, leave out the short form of each loop."""
    places = {name: place for place, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
    if config.getoption("--torture"):
        short = [item for item in items if _has_few_rounds(item)]
        items[:] = [item for item in items if item not in short]
        config.hook.pytest_deselected(items=short)


def _has_few_rounds(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and (
        hasattr(item, "callspec") and item.callspec.params.get("rounds") == "few"
    )


@pytest.fixture
def shared_data() -> Path:
    """The folder of datasets, weights and pictures that lies beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"there is no {SHARED_DATA}: datasets and weights are read from there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a finished experiment, one for all test processes. Change only a copy."""
    from made import QUICK_RUN

    import tl_keras
    from tl_keras.config import from_flat

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    workdir = folder / "finished_run"
    with filelock.FileLock(folder / "finished_run.lock"):
        if not (workdir / "report.json").is_file():
            tl_keras.run(from_flat({**QUICK_RUN, "workdir": str(workdir)}))
    return workdir


@pytest.fixture(scope="session")
def source_file(finished_run: Path) -> Path:
    """The weights of a source that was trained on mnist_5k: of a small_cnn with 16 units."""
    return finished_run / "source" / "source.weights.h5"


@pytest.fixture(params=["few", pytest.param("many", marks=pytest.mark.slow)])
def rounds(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """A function that picks how much to try, of three amounts: few, many, and most.

    `make test` runs `[few]`. `make test-all` runs `[many]` as well. With --torture, `[many]` takes
    the third amount.
    """
    most = request.config.getoption("--torture")
    chosen = 0 if request.param == "few" else 2 if most else 1
    return lambda *amounts: amounts[chosen]


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Callable[[str, int, int], None]:
    """A function of a case, the good and all tries: printed when all tests are over, as counts.

    Call it before asserting that all are good, so that a count that fell short is seen too.
    """
    return lambda case, good, tries: record_property("tally", f"{case}: {good:,} of {tries:,}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the counts that tests gave to `tally`."""
    reports = [r for outcome in ("passed", "failed") for r in terminalreporter.getreports(outcome)]
    lines = [str(v) for report in reports for name, v in report.user_properties if name == "tally"]
    if lines:
        terminalreporter.section("counts")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a file into the temporary folder, and returns its path."""

    def write_file(content: bytes, name: str = "a.jpg") -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file
