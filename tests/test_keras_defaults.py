"""What the caller has set of Keras: refused, or kept out of every model and put back afterwards."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import keras
import pytest
from remains import different, facts

import tl_keras
from tl_keras.cli import comparison_flags
from tl_keras.config import Config, Training, from_flat
from tl_keras.errors import DataError, UsageError
from tl_keras.runtime import keras_defaults

ROOT = Path(__file__).resolve().parents[1]
OURS = ("float32", "float32", 1e-7, "channels_last")
CALLERS = ("mixed_bfloat16", "float64", 1e-3, "channels_first")

# Ends with 99 where TensorFlow was loaded before the answer.
MAIN = (
    "import sys; from tl_keras.main import main; code = main(['tl_keras', '--steps=1']);"
    "sys.exit(code if 'tensorflow' not in sys.modules else 99)"
)
COMPARE = MAIN.replace("tl_keras.main", "tl_keras.compare")
PYTHON = (
    "import sys; from tl_keras.errors import UsageError\n"
    "try:\n from tl_keras import run\n"
    "except UsageError as error:\n print('tl_keras:', error, file=sys.stderr); sys.exit(2)"
)
IMPORTED = (
    "import sys, types; keras = types.ModuleType('keras'); sys.modules['keras'] = keras;"
    "keras.config = types.SimpleNamespace(backend=lambda: 'jax');" + MAIN
)

QUICK = Config(
    source="none", target="digits", dense_units=4, training=Training(steps=2, batch_size=16)
)


def settings() -> tuple[object, ...]:
    """Return Keras' global settings of this thread."""
    config = keras.config
    policy = config.dtype_policy().name
    return policy, config.floatx(), config.epsilon(), config.image_data_format()


def set_all(policy: str, floatx: str, epsilon: float, image_data_format: str) -> None:
    keras.config.set_dtype_policy(policy)
    keras.config.set_floatx(floatx)
    keras.config.set_epsilon(epsilon)
    keras.config.set_image_data_format(image_data_format)


@pytest.fixture(autouse=True)
def _settings_are_given_back():
    before = settings()
    yield
    set_all(*before)


def python(code: str, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code with a keras.json of its own, in `home`, and no other setting of Keras."""
    environment = {n: v for n, v in os.environ.items() if n != "KERAS_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "KERAS_HOME": str(home), **variables},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("code", [MAIN, COMPARE, PYTHON], ids=["main", "compare", "python"])
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_backend_that_is_not_tensorflow_is_refused_before_that_is_loaded(tmp_path, code, backend):
    done = python(code, tmp_path, KERAS_BACKEND=backend)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"tl_keras: KERAS_BACKEND={backend}, and tl_keras needs tensorflow. Set"
        " KERAS_BACKEND=tensorflow before Python starts\n"
    )


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ('{"backend": "torch"}', "has the backend 'torch', and tl_keras needs tensorflow"),
        (
            '{"floatx": "bfloat16"}',
            "has floatx='bfloat16', and Keras accepts float16 or float32 or",
        ),
        ('{"epsilon": 1}', "has epsilon=1, and Keras accepts a number such as 1e-07"),
        (
            '{"image_data_format": ["x"]}',
            "has image_data_format=['x'], and Keras accepts channels_",
        ),
        ("[]", "is no JSON object"),
    ],
)
def test_keras_json_that_cannot_be_used_is_refused_in_one_line(tmp_path, config, told):
    (tmp_path / "keras.json").write_text(config)
    done = python(MAIN, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"tl_keras: {tmp_path / 'keras.json'} {told}")
    assert len(done.stderr.splitlines()) == 1


def test_keras_json_in_the_home_folder_is_looked_at_too(tmp_path):
    (tmp_path / ".keras").mkdir()
    (tmp_path / ".keras" / "keras.json").write_text('{"backend": "jax"}')
    code = f"import os; del os.environ['KERAS_HOME']; {MAIN}"
    assert python(code, tmp_path, HOME=str(tmp_path)).returncode == 2


def test_backend_of_a_keras_that_is_imported_already_is_what_counts(tmp_path):
    done = python(IMPORTED, tmp_path, KERAS_BACKEND="tensorflow")
    assert done.stderr.startswith("tl_keras: Keras is imported with the backend 'jax', and ")
    assert done.returncode == 2


@pytest.mark.parametrize("text", [None, "{", "{}", '{"backend": "tensorflow", "epsilon": 0.1}'])
def test_keras_json_that_keras_takes_is_accepted(tmp_path, monkeypatch, text):
    monkeypatch.setattr(sys, "modules", {n: m for n, m in sys.modules.items() if n != "keras"})
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if text is not None:
        (tmp_path / "keras.json").write_text(text)
    keras_defaults.check_backend()
    # The variable wins over the file.
    (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    keras_defaults.check_backend()


def model_config(workdir: Path) -> str:
    with zipfile.ZipFile(workdir / "scratch-0" / "model.keras") as archive:
        return archive.read("config.json").decode()


def run(workdir: Path) -> dict[str, str]:
    """Run a short experiment and return what it leaves."""
    tl_keras.run(from_flat({**QUICK.flat(), "workdir": str(workdir)}))
    return facts(workdir)


def test_run_leaves_the_same_bytes_whatever_the_caller_has_set(tmp_path):
    expected = run(tmp_path / "expected")
    for number, value in enumerate(CALLERS):
        chosen = [*OURS[:number], value, *OURS[number + 1 :]]
        set_all(*chosen)
        workdir = tmp_path / str(value)
        assert different(run(workdir), expected) == []
        assert "bfloat16" not in model_config(workdir)
        assert settings() == tuple(chosen)


@pytest.mark.slow
def test_run_leaves_the_same_bytes_whatever_keras_json_says(tmp_path):
    config = {"floatx": "float16", "epsilon": 0.1, "image_data_format": "channels_first"}
    (tmp_path / "keras.json").write_text(json.dumps(config))
    flags = {**QUICK.flat(), "workdir": str(tmp_path / "work")}
    code = (
        "import tl_keras; from tl_keras.config import from_flat;"
        f"tl_keras.run(from_flat({flags!r}));"
        "import keras; print(keras.config.floatx(), keras.config.image_data_format())"
    )
    done = python(code, tmp_path)
    assert (done.returncode, done.stdout) == (0, "float16 channels_first\n"), done.stderr
    assert different(facts(tmp_path / "work"), run(tmp_path / "expected")) == []


def test_caller_has_its_settings_back_after_an_error(tmp_path):
    set_all(*CALLERS)
    config = tl_keras.Config(target="folder:" + str(tmp_path / "nothing"), workdir=str(tmp_path))
    with pytest.raises(DataError):
        tl_keras.run(config)
    assert settings() == CALLERS
    words = ["compare", "--methods=finetune", f"--target={config.target}", f"--workdir={tmp_path}"]
    comparison_config = comparison_flags.parse(words)
    assert comparison_config is not None
    from tl_keras.experiment import comparison

    with pytest.raises(DataError):
        comparison.run(comparison_config)
    assert settings() == CALLERS


def test_defaults_nest_and_hold_until_the_last_of_several_threads_has_ended():
    set_all(*CALLERS)
    entered, leave = threading.Event(), threading.Event()
    seen = []

    def other() -> None:
        with keras_defaults.use_defaults():
            entered.set()
            leave.wait(60)
            seen.append(settings())

    thread = threading.Thread(target=other)
    with keras_defaults.use_defaults():
        thread.start()
        assert entered.wait(60)
        with keras_defaults.use_defaults():
            assert settings() == OURS
        assert settings() == OURS
    # This thread's own policy is back; what all threads share is still in use by the other.
    assert settings() == (CALLERS[0], *OURS[1:])
    leave.set()
    thread.join()
    assert (seen, settings()) == ([OURS], CALLERS)


def test_use_defaults_refuses_another_backend(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    with pytest.raises(UsageError, match="backend 'torch'"), keras_defaults.use_defaults():
        pass
