"""The networks of keras.applications, with their preprocessing inside and their ImageNet weights.

A network is built into our own model, layer by layer, out of stock Keras layers only: a saved
model is opened by Keras alone, and predicts from the pixels as they are.
"""

import hashlib
import http.client
import os
import threading
import urllib.request
from pathlib import Path

import keras

from tl_keras.errors import DataError
from tl_keras.models.catalog import Entry
from tl_keras.models.colour import GREY_TO_COLOUR
from tl_keras.models.preprocessing import (
    CAFFE_MEAN_BGR,
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    Preprocessing,
    inside,
)

TIMEOUT_SECONDS = 4.0


def build_features(
    images: keras.KerasTensor,
    entry: Entry,
    weights_path: Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> keras.KerasTensor:
    """Return the globally pooled features of images.

    Args:
        images: (batch, size, size, 1 or 3) uint8; grey is repeated to three channels.
        entry: which network.
        weights_path: the network's weights without top, as `weights_file` finds them; None for
            fresh ones.
        preprocessing: what its first layer with weights is to see of pixels; None for the entry's.

    Returns:
        (batch, the network's width).

    Raises:
        DataError: the weights file is damaged, or is of another network.
    """
    if images.shape[-1] == 1:
        images = keras.layers.Concatenate(name=GREY_TO_COLOUR)([images] * 3)
    if preprocessing is None:
        preprocessed = preprocess(images, entry.preprocessing)
    else:
        own = inside(entry)
        preprocessed = rescale(images, preprocessing.before(own) if own else preprocessing)
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
    """Return what the network expects of images: (batch, size, size, 3) uint8, red first.

    The constants are those of `keras.applications.*.preprocess_input`; `preprocessing` is
    described in `Entry`.
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
    """Return what a map makes of images: (batch, size, size, channels) uint8, red first."""
    x = keras.ops.flip(images, axis=-1) if preprocessing.bgr else images
    scale, offset = list(preprocessing.scale), list(preprocessing.offset)
    if len(scale) == 1:
        return keras.layers.Rescaling(scale[0], offset[0], name="preprocess")(x)
    return keras.layers.Rescaling(scale, offset, name="preprocess")(x)


def _set_normalization(network: keras.Model) -> None:
    """Set the constants of EfficientNet's own preprocessing, whatever the weights.

    Its weight files hold the deviation where the layer expects the variance. Keras mends that with
    one more layer, in pretrained networks only, and does not normalise in fresh ones: the two
    would be different architectures, and weights copied from one to the other would be wrong.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            layer.adapt_mean.assign(IMAGENET_MEAN)
            layer.adapt_variance.assign([deviation**2 for deviation in IMAGENET_DEVIATION])
            layer.finalize_state()


def find_weights_file(name: str, entry: Entry, image_size: int) -> Path:
    """Return the file of the ImageNet weights without top, downloaded where it is not there yet.

    Files are kept where Keras keeps them, in `models` below $KERAS_HOME or ~/.keras.

    Args:
        name: of the network, as --model takes it.
        entry: the network.
        image_size: side in pixels; some networks have weights for several.

    Raises:
        DataError: the file is damaged, or is not there and cannot be downloaded; within 5 seconds
            where the network is down.
    """
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    path = home / "models" / entry.weights_file(image_size)
    if not path.exists():
        return _download(name, entry, image_size, path)
    if entry.weights_hash and entry.weights_hash != _hash(path, entry.weights_hash):
        raise DataError(
            f"{path} is damaged, or not the file that Keras publishes for --model={name}:"
            " remove it, and the next run downloads it again"
        )
    return path


def _download(name: str, entry: Entry, image_size: int, path: Path) -> Path:
    url = entry.weights_url(image_size)
    reason = _find_download_problem(url)
    if not reason:
        try:
            # Keras puts the file elsewhere where its folder is missing.
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
        except Exception as error:  # get_file raises a bare Exception where the server refuses
            path.unlink(missing_ok=True)
            reason = str(error)
    sizes = [
        size for size in entry.weights_sizes if (path.parent / entry.weights_file(size)).exists()
    ]
    other = f", or choose --image_size={sizes[-1]}, whose weights are there" if sizes else ""
    raise DataError(
        f"--model={name} needs the ImageNet weights {path.name}, and {url} cannot be downloaded"
        f" ({reason}): put the file into {path.parent}, or set KERAS_HOME to the folder whose"
        f" models/ has it{other}"
    )


def _find_download_problem(url: str) -> str:
    """Return why `url` does not answer, or "" if it does.

    It is asked in a thread, because looking up a host's name obeys no timeout.
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
    """Return the hash of a file, of the kind that `expected` is: md5 has 32 digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5" if len(expected) == 32 else "sha256").hexdigest()
