"""Keras' global settings: ours while tl_keras works, the caller's own before and after.

Keras reads them from KERAS_BACKEND, from keras.json and from calls of `keras.config`. What is set
there would get into every model that is built: its precision, its layout, its epsilon.
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
# Settings of the process: the names of the functions of keras.config that get them.
DEFAULTS = {"floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
# What Keras takes from keras.json; it ends with a traceback at anything else.
_ALLOWED: dict[str, Any] = {
    "floatx": {"float16", "float32", "float64"},
    "epsilon": float,
    "image_data_format": {"channels_last", "channels_first"},
}

_lock = threading.Lock()
# How many `use_defaults` there are, in all threads, and what the caller had before the first.
_users = 0
_callers: dict[str, Any] = {}


def check_backend() -> None:
    """Refuse what tl_keras cannot work with, before Keras or TensorFlow is imported for it.

    Raises:
        UsageError: Keras' backend is not TensorFlow, or Keras cannot be imported with its
            keras.json.
    """
    if (keras := sys.modules.get("keras")) is not None:
        _refuse_other_backend(keras.config.backend(), "Keras is imported with the backend '{}'")
        return
    path = _config_path()
    config = _read_config(path)
    if name := os.environ.get("KERAS_BACKEND"):
        _refuse_other_backend(name, "KERAS_BACKEND={}")
    else:
        _refuse_other_backend(config.get("backend", BACKEND), f"{path} has the backend '{{}}'")


def _refuse_other_backend(name: Any, where: str) -> None:
    if name != BACKEND:
        raise UsageError(
            f"{where.format(name)}, and tl_keras works with {BACKEND} alone: set"
            f" KERAS_BACKEND={BACKEND} where Python is started"
        )


def _config_path() -> Path:
    """Return where Keras looks for keras.json."""
    home = files.expanded("~")
    if not os.access(home, os.W_OK):
        home = Path("/tmp")
    return files.expanded(os.environ.get("KERAS_HOME", str(home / ".keras"))) / "keras.json"


def _read_config(path: Path) -> dict[str, Any]:
    """Return what keras.json holds; nothing where it is missing or no JSON, as Keras has it.

    Raises:
        UsageError: Keras cannot be imported with it.
    """
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read by Keras ({error.strerror or error}): make it readable, or set"
            " KERAS_HOME to another folder"
        ) from error
    except ValueError:
        return {}
    if not isinstance(config, dict):
        raise UsageError(f"{path} holds no settings by name, as Keras needs them: remove it")
    for name, allowed in _ALLOWED.items():
        value = config.get(name, DEFAULTS[name])
        fits = isinstance(value, float) if allowed is float else value in sorted(allowed)
        if not fits:
            words = "a number such as 1e-07" if allowed is float else " or ".join(sorted(allowed))
            raise UsageError(f"{path} has {name}={value!r}, and Keras takes {words}: correct it")
    return config


@contextlib.contextmanager
def use_defaults() -> Iterator[None]:
    """Have Keras' global settings at their defaults inside; put the caller's own back afterwards.

    The dtype policy is the thread's, all other settings are the process's: of several threads that
    work at a time the last puts those back.

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
    global _users
    with _lock:
        if not _users:
            _callers.update({name: getattr(config, name)() for name in DEFAULTS})
            _set(config, DEFAULTS)
        _users += 1


def _leave(config: Any) -> None:
    global _users
    with _lock:
        _users -= 1
        if not _users:
            _set(config, _callers)


def _set(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        getattr(config, f"set_{name}")(value)
