"""What all tests share: a quiet TensorFlow, strict warnings, and the data that lie beside us."""

import os
from pathlib import Path

import hypothesis
import pytest

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# Read when TensorFlow and Keras are imported, by the tests and by the programs they start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
for variable, folder in (("TFDS_DATA_DIR", "tfds"), ("KERAS_HOME", "keras_home")):
    if (SHARED_DATA / folder).is_dir():
        os.environ.setdefault(variable, str(SHARED_DATA / folder))

# No deadline: a busy machine is no bug. The same inputs everywhere: a failure can be repeated.
hypothesis.settings.register_profile("tl_keras", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("tl_keras")


def pytest_configure(config: pytest.Config) -> None:
    """Make a warning an error where our own code, or a test, gives rise to it."""
    for module in ("tl_keras", "test_", "tests"):
        config.addinivalue_line("filterwarnings", f"error:::{module}")


@pytest.fixture
def shared_data() -> Path:
    """The folder of datasets, weights and pictures that lies beside the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"there is no {SHARED_DATA}: datasets and weights are read from there")
    return SHARED_DATA
