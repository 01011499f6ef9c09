"""Which precision a model computes in: what pays follows from the device and the architecture.

Weights, statistics of normalisation, features, logits, losses and the optimizer's state are in
float32 always; what else there is may be computed in 16 bits. Of these, bfloat16 has the range of
float32; float16 has not, and its loss is scaled (Micikevicius et al., "Mixed Precision Training",
ICLR 2018, arXiv 1710.03740).
"""

from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from tl_keras.models import catalog
from tl_keras.models.building import HEAD
from tl_keras.models.naming import leaves

AUTO, FLOAT32, BFLOAT16, FLOAT16 = "auto", "float32", "bfloat16", "float16"

# Families of keras.applications that are made of depthwise convolutions, as their names begin.
DEPTHWISE = ("mobilenet", "efficientnet", "nasnet", "xception", "convnext")

# What brings pixels to the range that the weights know, and what ends in the features.
FLOAT32_LAYERS = (
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.GlobalAveragePooling2D,
)
FLOAT32_NAMES = ("preprocess", "features", HEAD)

_CPUINFO = Path("/proc/cpuinfo")


class Precision(NamedTuple):
    """What a model computes in.

    Attributes:
        training: where it trains: "float32", "bfloat16" or "float16".
        frozen: where it only gives features, without gradients: one of the same.
        reason: in words.
    """

    training: str
    frozen: str
    reason: str


def choose(flag: str, model: str) -> Precision:
    """Return what `--precision` means on this machine for the model of that name.

    "auto" knows, and does not measure: the same machine always gives the same answer. On
    processors bfloat16 pays for dense convolutions where they multiply in it, with AMX or
    avx512_bf16. On GPUs it pays from compute capability 8 on, float16 from 7 on.
    """
    if flag != AUTO:
        return Precision(flag, flag, "as --precision says")
    if tf.config.list_logical_devices("TPU"):
        return Precision(BFLOAT16, BFLOAT16, "a TPU")
    gpus = tf.config.list_physical_devices("GPU")
    if gpus and not catalog.find(model).function:
        return Precision(FLOAT32, FLOAT32, f"{model} is small for a GPU")
    if gpus:
        return _choose_for_gpus(gpus)
    return _choose_for_cpu(_processor_flags(), is_depthwise=model.startswith(DEPTHWISE))


def _choose_for_gpus(gpus: list[tf.config.PhysicalDevice]) -> Precision:
    """Return what pays on the oldest of the GPUs."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    oldest = min(one.get("compute_capability", (0, 0)) for one in details)
    name = BFLOAT16 if oldest >= (8, 0) else FLOAT16 if oldest >= (7, 0) else FLOAT32
    return Precision(name, name, f"a GPU of compute capability {oldest[0]}.{oldest[1]}")


def _choose_for_cpu(flags: set[str], *, is_depthwise: bool) -> Precision:
    known = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    if not known:
        return Precision(FLOAT32, FLOAT32, "a processor without AMX and avx512_bf16")
    if is_depthwise:
        # Where it would pay, in their frozen parts, it costs more than half a point of accuracy.
        return Precision(FLOAT32, FLOAT32, "depthwise convolutions on a processor")
    return Precision(BFLOAT16, BFLOAT16, f"dense convolutions on a processor with {known[0]}")


def _processor_flags() -> set[str]:
    """Return what the processor can do, in Linux's words; nothing elsewhere."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def set_compute_dtype(model: keras.Model, name: str) -> None:
    """Have a model compute in `name`; its weights stay float32, and so do features and logits."""
    policy = name if name == FLOAT32 else f"mixed_{name}"
    for layer in leaves(model):
        if not isinstance(layer, FLOAT32_LAYERS) and layer.name not in FLOAT32_NAMES:
            layer.dtype_policy = policy


def needs_loss_scaling(model: keras.Model) -> bool:
    """Tell whether gradients of this model would vanish in float16, were its loss not scaled."""
    return any(layer.compute_dtype == FLOAT16 for layer in leaves(model))
