"""Transfer learning on images, measured against training from scratch."""

from typing import TYPE_CHECKING, Any

from tl_keras.config import Config, Training
from tl_keras.runtime import keras_defaults

if TYPE_CHECKING:
    from tl_keras.experiment.experiment import Report, run
    from tl_keras.inference.trained_model import TrainedModel, load

__all__ = ["Config", "Report", "TrainedModel", "Training", "load", "run"]


def __getattr__(name: str) -> Any:
    """Import TensorFlow only when it is used: `--help` does not need it."""
    if name in ("Report", "run"):
        keras_defaults.check_backend()
        from tl_keras.experiment import experiment

        return getattr(experiment, name)
    if name in ("TrainedModel", "load"):
        keras_defaults.check_backend()
        from tl_keras.inference import trained_model

        return getattr(trained_model, name)
    raise AttributeError(f"module 'tl_keras' has no attribute '{name}'")
