"""Transfer learning on images, measured against training from scratch."""

from typing import TYPE_CHECKING, Any

from tl_keras import keras_defaults
from tl_keras.config import Config, Training

if TYPE_CHECKING:
    from tl_keras.experiment import Report, run

__all__ = ["Config", "Report", "Training", "run"]


def __getattr__(name: str) -> Any:
    """Import TensorFlow when `run` is asked for, and not before: `--help` needs none of it."""
    if name in ("Report", "run"):
        keras_defaults.check_backend()
        from tl_keras import experiment

        return getattr(experiment, name)
    raise AttributeError(f"module 'tl_keras' has no attribute '{name}'")
