"""The precision of a model's computations, chosen by the device and the architecture.

Weights, normalisation statistics, features, logits, losses and the optimizer's state are always in
float32. All other tensors may be in 16 bits. bfloat16 has the range of float32. float16 has a
smaller range, so its loss is scaled (Micikevicius et al., "Mixed Precision Training", ICLR 2018,
arXiv 1710.03740).
"""

from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf

from tl_keras.models import catalog
from tl_keras.models.building import HEAD
from tl_keras.models.naming import leaves

AUTO, FLOAT32, BFLOAT16, FLOAT16 = "auto", "float32", "bfloat16", "float16"

# Name prefixes of the families of keras.applications with depthwise convolutions.
DEPTHWISE = ("mobilenet", "efficientnet", "nasnet", "xception", "convnext")

# The layers of the preprocessing, and those that end in the features.
FLOAT32_LAYERS = (
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.GlobalAveragePooling2D,
)
FLOAT32_NAMES = ("preprocess", "features", HEAD)

_CPUINFO = Path("/proc/cpuinfo")


class Precision(NamedTuple):
    """The precision of a model.

    Attributes:
        training: in training: "float32", "bfloat16" or "float16".
        frozen: in a frozen part, without gradients: one of the same.
        reason: of the choice, in words.
    """

    training: str
    frozen: str
    reason: str


def choose(flag: str, model: str) -> Precision:
    """Return the precision for `--precision` on this machine.

    "auto" is a rule without measurements, so the same machine always gets the same precision. On
    processors, bfloat16 is faster for dense convolutions with AMX or avx512_bf16. On GPUs, it is
    faster from compute capability 8 on, and float16 from 7 on.
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
    """Return the precision for the GPU with the lowest compute capability."""
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    oldest = min(one.get("compute_capability", (0, 0)) for one in details)
    name = BFLOAT16 if oldest >= (8, 0) else FLOAT16 if oldest >= (7, 0) else FLOAT32
    return Precision(name, name, f"a GPU of compute capability {oldest[0]}.{oldest[1]}")


def _choose_for_cpu(flags: set[str], *, is_depthwise: bool) -> Precision:
    known = [name for name in ("amx_bf16", "avx512_bf16") if name in flags]
    if not known:
        return Precision(FLOAT32, FLOAT32, "a processor without AMX and avx512_bf16")
    if is_depthwise:
        # bfloat16 is faster in frozen parts only, and costs more than half a point of accuracy.
        return Precision(FLOAT32, FLOAT32, "depthwise convolutions on a processor")
    return Precision(BFLOAT16, BFLOAT16, f"dense convolutions on a processor with {known[0]}")


def _processor_flags() -> set[str]:
    """Return the processor's flags in /proc/cpuinfo, or an empty set outside of Linux."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())


def set_compute_dtype(model: keras.Model, name: str) -> None:
    """Set the compute dtype of a model. Weights, features and logits stay in float32."""
    policy = name if name == FLOAT32 else f"mixed_{name}"
    for layer in leaves(model):
        if not isinstance(layer, FLOAT32_LAYERS) and layer.name not in FLOAT32_NAMES:
            layer.dtype_policy = policy


def needs_loss_scaling(model: keras.Model) -> bool:
    """Return whether the model computes in float16 and needs loss scaling."""
    return any(layer.compute_dtype == FLOAT16 for layer in leaves(model))
