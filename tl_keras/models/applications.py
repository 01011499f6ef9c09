"""The networks of keras.applications, with built-in preprocessing and ImageNet weights.

A model consists of stock Keras layers only. Keras can load a saved model without tl_keras, and the
model takes raw pixels.
"""

import hashlib
import http.client
import os
import threading
import urllib.request
from pathlib import Path

import keras

from tl_keras.config.preprocessing import (
    CAFFE_MEAN_BGR,
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Preprocessing,
)
from tl_keras.errors import DataError
from tl_keras.models.catalog import Entry
from tl_keras.models.colour import GREY_TO_COLOUR
from tl_keras.models.preprocessing import inside

TIMEOUT_SECONDS = 4.0


def build_features(
    images: keras.KerasTensor,
    entry: Entry,
    weights_path: Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> keras.KerasTensor:
    """Build the globally pooled features of images.

    Args:
        images: (batch, size, size, 1 or 3) uint8; grey is repeated to three channels.
        entry: the network.
        weights_path: the network's weights without top, from `find_weights_file`; None for fresh
            weights.
        preprocessing: the preprocessing in front of the first layer with weights; None for the
            entry's.

    Returns:
        (batch, width of the network).

    Raises:
        DataError: the weights file is damaged or belongs to another network.
    """
    if images.shape[-1] == 1:
        images = keras.layers.Concatenate(name=GREY_TO_COLOUR)([images] * 3)
    if preprocessing is None:
        preprocessed = preprocess(images, entry.preprocessing)
    else:
        own = inside(entry)
        preprocessed = rescale(images, preprocessing.without(own) if own else preprocessing)
    network = getattr(keras.applications, entry.function)(
        include_top=False,
        weights=None,
        input_tensor=preprocessed,
        pooling="avg",
        **entry.arguments,
    )
    if weights_path is not None:
        try:
            network.load_weights(weights_path)
        except Exception as error:  # h5py and Keras raise OSError, ValueError, KeyError and others
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{weights_path} does not hold the weights of {entry.function}: {reason}."
                " Remove the file, and the next run downloads it again"
            ) from error
    _set_normalization(network)
    return network.output


def preprocess(images: keras.KerasTensor, preprocessing: str) -> keras.KerasTensor:
    """Return preprocessed images, as the network expects them.

    The constants are those of `keras.applications.*.preprocess_input`.

    Args:
            images: (batch, size, size, 3) uint8, RGB.
            preprocessing: see `Entry`.
    """
    if preprocessing == "tf":
        return keras.layers.Rescaling(1 / 127.5, -1.0, name="preprocess")(images)
    if preprocessing == "torch":
        scale = [1 / (255 * deviation) for deviation in IMAGENET_DEVIATION]
        offset = [-m / d for m, d in zip(IMAGENET_MEAN, IMAGENET_DEVIATION, strict=True)]
        return keras.layers.Rescaling(scale, offset, name="preprocess")(images)
    if preprocessing == "caffe":
        offset = [-mean for mean in CAFFE_MEAN_BGR]
        flipped = keras.ops.flip(images, axis=-1)
        return keras.layers.Rescaling(1.0, offset, name="preprocess")(flipped)
    return images


def rescale(images: keras.KerasTensor, preprocessing: Preprocessing) -> keras.KerasTensor:
    """Return scaled images. `images` is (batch, size, size, channels) uint8, RGB."""
    x = keras.ops.flip(images, axis=-1) if preprocessing.bgr else images
    scale, offset = list(preprocessing.scale), list(preprocessing.offset)
    if len(scale) == 1:
        return keras.layers.Rescaling(scale[0], offset[0], name="preprocess")(x)
    return keras.layers.Rescaling(scale, offset, name="preprocess")(x)


def _set_normalization(network: keras.Model) -> None:
    """Set the constants of EfficientNet's own Normalization layer.

    EfficientNet's weight files hold the standard deviation where the layer expects the variance.
    Keras corrects this by an additional layer in pretrained networks only, and does not normalise
    in fresh ones. These would be two architectures, and copied weights would be wrong.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.adapt_mean.assign(IMAGENET_MEAN)
            layer.adapt_variance.assign([deviation**2 for deviation in IMAGENET_DEVIATION])
            layer.finalize_state()


def find_weights_file(name: str, entry: Entry, image_size: int) -> Path:
    """Return the file of the ImageNet weights without top, and download it if necessary.

    The folder is Keras' cache: `models` in $KERAS_HOME or ~/.keras.

    Args:
        name: value of --model.
        entry: the network.
        image_size: side in pixels. Some networks have weights for several sizes.

    Raises:
        DataError: the file is damaged, or missing and cannot be downloaded. Without a network
            connection, within 5 seconds.
    """
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    path = home / "models" / entry.weights_file(image_size)
    if not path.exists():
        return _download(name, entry, image_size, path)
    if entry.weights_hash and entry.weights_hash != _hash(path, entry.weights_hash):
        raise DataError(
            f"{path} is damaged, or not the file that Keras publishes for --model={name}. Remove"
            " it, and the next run downloads it again"
        )
    return path


def _download(name: str, entry: Entry, image_size: int, path: Path) -> Path:
    url = entry.weights_url(image_size)
    reason = _find_download_problem(url)
    if not reason:
        try:
            # Keras stores the file elsewhere if its folder is missing.
            path.parent.mkdir(parents=True, exist_ok=True)
            return Path(
                keras.utils.get_file(
                    path.name,
                    url,
                    cache_subdir="models",
                    cache_dir=str(path.parents[1]),
                    file_hash=entry.weights_hash or None,
                )
            )
        except Exception as error:  # get_file raises a bare Exception if the server refuses
            path.unlink(missing_ok=True)
            reason = str(error)
    sizes = [
        size for size in entry.weights_sizes if (path.parent / entry.weights_file(size)).exists()
    ]
    other = f", or choose --image_size={sizes[-1]}, whose weights are cached" if sizes else ""
    raise DataError(
        f"--model={name} needs the ImageNet weights {path.name}, and {url} cannot be downloaded"
        f" ({reason}). Put the file into {path.parent}, or set KERAS_HOME to the folder whose"
        f" models/ has it{other}"
    )


def _find_download_problem(url: str) -> str:
    """Return why `url` does not answer, or "" if it does.

    The request runs in a thread, because a name lookup has no timeout.
    """
    answer: list[str] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
                answer.append("")
        except (OSError, http.client.HTTPException) as error:
            answer.append(str(getattr(error, "reason", "") or error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return answer[0] if answer else f"no answer within {TIMEOUT_SECONDS:g} seconds"


def _hash(path: Path, expected: str) -> str:
    """Return the md5 of a file if `expected` has 32 digits, otherwise the sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(expected) == 32 else "sha256").hexdigest()
