"""A saved model with everything that it says about its input."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from tl_keras.errors import DataError, UsageError
from tl_keras.inference.find_model import find_model
from tl_keras.inference.picture_files import PictureFiles
from tl_keras.models import model_file
from tl_keras.models.weights import Origin, parse_origin
from tl_keras.pictures import images, picture_file
from tl_keras.pictures.arrays import Images
from tl_keras.pictures.picture_format import PictureFormat
from tl_keras.training.prediction import Runner


def load(path: str | os.PathLike[str]) -> "TrainedModel":
    """Load a trained model.

    Args:
        path: a model.keras, the folder of a run, or a workdir, see `find_model`.

    Raises:
        DataError: there is no model, the file is damaged, or tl_keras did not write it.
    """
    found = find_model(os.fspath(path))
    origin, form = _read_origin(found)
    try:
        model = keras.saving.load_model(found, compile=False)
    except Exception as error:  # Keras raises nearly anything for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{found} cannot be loaded: {reason}") from error
    return TrainedModel(found, origin, form, model)


def _read_origin(path: Path) -> tuple[Origin, PictureFormat]:
    """Check a file before Keras opens it, and return what it says about itself."""
    try:
        with path.open("rb") as file:
            member = model_file.find_weights(file, path.stat().st_size)
        origin = parse_origin(member.description)
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    except Exception as error:  # a damaged archive makes zipfile raise nearly anything
        raise DataError(f"{path} is damaged, or no file of Keras") from error
    if origin is None or origin.form is None or not origin.class_names:
        raise DataError(
            f"{path} does not say which pictures it takes. Only a model.keras of a run of this"
            " version of tl_keras does"
        )
    return origin, origin.form


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model for pictures.

    Attributes:
        path: of its file.
        origin: what the file says: data, classes, architecture and measured accuracy.
        form: how a picture is decoded, before it is resized to the model's size.
        keras_model: takes (batch, size, size, channels) uint8 and returns {"features", "logits"}.
    """

    path: Path
    origin: Origin
    form: PictureFormat
    keras_model: keras.Model

    def __post_init__(self) -> None:
        """Prepare one traced function for all predictions."""
        strategy = tf.distribute.get_strategy()
        model = self.keras_model
        runner = Runner(lambda batch: model(batch, training=False), strategy)
        object.__setattr__(self, "_runner", runner)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.origin.class_names

    @property
    def channels(self) -> int:
        """1 (grey) or 3."""
        return int(self.keras_model.input_shape[-1])

    def predict(
        self, pictures: np.ndarray | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    ) -> np.ndarray:
        """Return the probability of each class, (pictures, classes) float32.

        Args:
            pictures: paths of files, or (n, height, width, 1 or 3) uint8. Both are brought to the
                form that the model was trained with: fit, framing, size and channels.

        Raises:
            UsageError: the array has another shape or dtype, or there is no picture.
            DataError: a file cannot be decoded.
        """
        if isinstance(pictures, np.ndarray):
            return self.predict_images(self._prepare(pictures))
        if isinstance(pictures, str | os.PathLike):
            pictures = [pictures]
        files = [os.fspath(path) for path in pictures]
        found = PictureFiles(files, self.form, self.channels)
        probabilities = self.predict_images(found)
        for index, problem in sorted({**found.problems, **found.no_pictures}.items()):
            raise DataError(f"{files[index]!r} cannot be decoded: {problem}")
        return probabilities

    def predict_images(self, prepared: Images) -> np.ndarray:
        """Return the probabilities of images in `form`, (n, classes) float32."""
        if not len(prepared):
            raise UsageError("there is no picture to predict")
        return self.run(prepared)["probabilities"]

    def run(self, prepared: Images) -> dict[str, np.ndarray]:
        """Return what the model computes of images in `form`.

        Returns:
            "probabilities": (n, classes) float32, and "features": (n, d) float32, before the head.
        """
        outputs = self._runner.run(prepared, self.origin.image_size)  # type: ignore[attr-defined]
        logits = outputs["logits"].astype(np.float32)
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        return {
            "probabilities": probabilities,
            "features": outputs["features"].astype(np.float32),
        }

    def summary(self) -> str:
        """Return some lines on the model: what it knows, what it takes, how good it is."""
        origin, form = self.origin, self.form
        classes = ", ".join(map(repr, self.class_names[:10]))
        more = f" and {len(self.class_names) - 10} more" if len(self.class_names) > 10 else ""
        colour = "grey" if self.channels == 1 else "colour"
        framing = ", framed as MNIST's digits" if form.framed else f", fit: {form.fit}"
        lines = [
            f"{origin.model}, trained on {origin.dataset}: {self.path}",
            f"{len(self.class_names)} classes: {classes}{more}",
            f"takes pictures of {origin.image_size} pixels in {colour}{framing}",
        ]
        if origin.test:
            lines.append(f"test accuracy {origin.test['accuracy']:.2%}")
        return "\n".join(lines)

    def _prepare(self, pictures: np.ndarray) -> np.ndarray:
        """Return arrays of pictures in `form`."""
        shape_is_right = pictures.ndim == 4 and pictures.shape[-1] in (1, 3)
        if pictures.dtype != np.uint8 or not shape_is_right or 0 in pictures.shape[1:]:
            raise UsageError(
                "pictures are (n, height, width, 1 or 3) uint8, and not"
                f" {pictures.dtype} {pictures.shape}"
            )
        form = self.form
        if form.framed:
            return images.frame(pictures)
        side = form.size
        fitted = [
            picture_file.with_channels(images.fit(one, side, form.fit), self.channels)
            for one in pictures
        ]
        return np.stack(fitted) if fitted else np.empty((0, side, side, self.channels), np.uint8)
