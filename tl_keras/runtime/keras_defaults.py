"""Keras' global settings: defaults while tl_keras runs, the caller's settings before and after.

Keras reads them from KERAS_BACKEND, from keras.json and from calls of `keras.config`. They affect
every model that is built: its precision, its data format, its epsilon.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tl_keras.errors import UsageError
from tl_keras.storage import files

BACKEND = "tensorflow"
# Process-wide settings, by the names of their getters in keras.config.
DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
# The values that Keras accepts in keras.json. It fails with a traceback on any other.
_ALLOWED: dict[str, Any] = {
    "floatx": {"float16", "float32", "float64"},
    "epsilon": float,
    "image_data_format": {"channels_last", "channels_first"},
}

_lock = threading.Lock()
# The number of active `use_defaults` in all threads, and the caller's settings before the first.
_active_count = 0
_caller_settings: dict[str, Any] = {}


def check_backend() -> None:
    """Check Keras' backend and keras.json before Keras or TensorFlow is imported.

    Raises:
        UsageError: Keras' backend is not TensorFlow, or Keras cannot be imported with its
            keras.json.
    """
    if (keras := sys.modules.get("keras")) is not None:
        _check_backend_name(keras.config.backend(), "Keras is imported with the backend '{}'")
        return
    path = _config_path()
    config = _read_config(path)
    if name := os.environ.get("KERAS_BACKEND"):
        _check_backend_name(name, "KERAS_BACKEND={}")
    else:
        _check_backend_name(config.get("backend", BACKEND), f"{path} has the backend '{{}}'")


def _check_backend_name(name: Any, where: str) -> None:
    if name != BACKEND:
        raise UsageError(
            f"{where.format(name)}, and tl_keras needs {BACKEND}. Set KERAS_BACKEND={BACKEND}"
            " before Python starts"
        )


def _config_path() -> Path:
    """Return the path where Keras looks for keras.json."""
    home = files.expand_user("~")
    if not os.access(home, os.W_OK):
        home = Path("/tmp")
    return files.expand_user(os.environ.get("KERAS_HOME", str(home / ".keras"))) / "keras.json"


def _read_config(path: Path) -> dict[str, Any]:
    """Return the content of keras.json. It is empty if the file is missing or no JSON, as in Keras.

    Raises:
        UsageError: Keras cannot be imported with it.
    """
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read by Keras ({error.strerror or error}). Make it readable, or set"
            " KERAS_HOME to another folder"
        ) from error
    except ValueError:
        return {}
    if not isinstance(config, dict):
        raise UsageError(f"{path} is no JSON object, as Keras needs it. Remove it")
    for name, allowed in _ALLOWED.items():
        value = config.get(name, DEFAULTS[name])
        fits = isinstance(value, float) if allowed is float else value in sorted(allowed)
        if not fits:
            words = "a number such as 1e-07" if allowed is float else " or ".join(sorted(allowed))
            raise UsageError(f"{path} has {name}={value!r}, and Keras accepts {words}. Correct it")
    return config


@contextlib.contextmanager
def use_defaults() -> Iterator[None]:
    """Set Keras' global settings to their defaults inside, and restore the caller's afterwards.

    The dtype policy is per thread. All other settings are per process: of several threads that run
    at the same time, the last one restores them.

    Raises:
        UsageError: Keras' backend is not TensorFlow.
    """
    check_backend()
    import keras

    policy = keras.config.dtype_policy()
    _enter(keras.config)
    keras.config.set_dtype_policy("float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        _leave(keras.config)


def _enter(config: Any) -> None:
    global _active_count
    with _lock:
        if not _active_count:
            _caller_settings.update({name: getattr(config, name)() for name in DEFAULTS})
            _set(config, DEFAULTS)
        _active_count += 1


def _leave(config: Any) -> None:
    global _active_count
    with _lock:
        _active_count -= 1
        if not _active_count:
            _set(config, _caller_settings)


def _set(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        getattr(config, f"set_{name}")(value)
