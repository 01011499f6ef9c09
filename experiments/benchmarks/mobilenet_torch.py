"""MobileNetV2 in PyTorch with the weights that Keras publishes (Sandler et al., CVPR 2018)."""

from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn

# Expansion, channels before the width is applied, blocks, stride of the first.
STAGES = (
    *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
    *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
)
FEATURES = 1280
# Keras' own epsilon of these networks.
_EPSILON = 1e-3


class Block(nn.Module):
    """An inverted residual: 1x1 to a wider input, depthwise 3x3, 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        """Build for (batch, inputs, height, width); there is a shortcut where shapes agree."""
        super().__init__()
        wide = inputs * expansion
        layers = _convolution(inputs, wide, 1) if expansion > 1 else []
        layers += _convolution(wide, wide, 3, stride, groups=wide)
        layers += _convolution(wide, outputs, 1)[:-1]
        self.layers = nn.Sequential(*layers)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, outputs, height / stride, width / stride)."""
        y = self.layers(x)
        return x + y if self.is_residual else y


def mobilenet_v2(width: float) -> nn.Module:
    """Return MobileNetV2 for (batch, 3, size, size) to (batch, 1280).

    Args:
        width: factor of the channels, at most 1. The size of the images is a multiple of 32.
    """
    inputs = _channels(32 * width)
    layers = _convolution(3, inputs, 3, 2)
    for expansion, channels, blocks, stride in STAGES:
        outputs = _channels(int(channels * width))
        for number in range(blocks):
            layers.append(Block(inputs, outputs, expansion, 1 if number else stride))
            inputs = outputs
    layers += _convolution(inputs, FEATURES, 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def load(model: nn.Module, path: Path) -> None:
    """Load a weights file of Keras without top.

    Raises:
        ValueError: the file holds another network.
    """
    layers = [
        module for module in model.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)
    ]
    arrays = _read(path)
    if len(arrays) != len(layers):
        raise ValueError(f"{path} has {len(arrays)} layers with weights, not {len(layers)}")
    with torch.no_grad():
        for layer, values in zip(layers, arrays, strict=True):
            if isinstance(layer, nn.Conv2d):
                # Depthwise kernels are (height, width, channels, 1), others end with in, out.
                order = (3, 2, 0, 1) if layer.groups == 1 else (2, 3, 0, 1)
                wanted = {"weight": values[0].transpose(order)}
            else:
                names = ("weight", "bias", "running_mean", "running_var")
                wanted = dict(zip(names, values, strict=True))
            for name, value in wanted.items():
                own = getattr(layer, name)
                if own.shape != value.shape:
                    raise ValueError(f"{path} has {value.shape} for {tuple(own.shape)}")
                own.copy_(torch.from_numpy(np.ascontiguousarray(value)))


def _read(path: Path) -> list[list[np.ndarray]]:
    """Return the weights of each layer that has any."""
    with h5py.File(path, "r") as file:
        groups = [file[name] for name in file.attrs["layer_names"]]
        layers = [[np.asarray(group[n]) for n in group.attrs["weight_names"]] for group in groups]
    return [layer for layer in layers if layer]


def _convolution(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Return convolution, normalisation and activation, with TensorFlow's padding."""
    padding: list[nn.Module] = [nn.ZeroPad2d((0, 1, 0, 1))] if stride == 2 else []
    own = size // 2 if stride == 1 else 0
    convolution = nn.Conv2d(inputs, outputs, size, stride, own, groups=groups, bias=False)
    return [*padding, convolution, nn.BatchNorm2d(outputs, _EPSILON), nn.ReLU6(inplace=True)]


def _channels(wanted: float) -> int:
    """Return the multiple of 8 that is nearest, and not below 0.9 of what is wanted."""
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8
