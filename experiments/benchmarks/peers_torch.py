"""PyTorch in its best plain form: channels_last, bfloat16 where asked for, data in memory.

ResNet50 is that of keras.applications: the stride lies in a block's first convolution, so that
both do the same work. Convolutions before a normalisation have no bias, as is usual here.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.benchmarks import machine, pictures
from experiments.benchmarks.worker import Rounds

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)
RESNET50_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
VGG16_BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def train_small_cnn(rounds: Rounds, images: int, batch_size: int) -> None:
    """Train the small CNN in float32; a round is an epoch."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 13 * 13, 128),
        nn.ReLU(),
        nn.Linear(128, pictures.CLASSES),
    )
    _start()
    _lay_channels_last(model)
    # Scaled once, before training, and the whole of it in memory.
    data = _resident(images, 28, 1).float() / 255
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    _train(rounds, model, data, optimizer, batch_size, mixed=False)


def fine_tune(
    rounds: Rounds, name: str, images: int, size: int, batch_size: int, momentum: float
) -> None:
    """Train a whole network with SGD under bfloat16 autocast; a round is an epoch."""
    _start()
    network, width = body(name)
    model = nn.Sequential(Preprocess(), network, nn.Linear(width, pictures.CLASSES))
    _lay_channels_last(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=momentum)
    _train(rounds, model, _resident(images, size, 3), optimizer, batch_size, mixed=True)


def features(rounds: Rounds, name: str, images: int, size: int, batch_size: int) -> None:
    """Compute the pooled features of all images in bfloat16 in each round."""
    _start()
    model = nn.Sequential(Preprocess(), body(name)[0]).eval()
    _lay_channels_last(model.to(torch.bfloat16))
    data = _resident(images, size, 3)
    with torch.inference_mode():
        while True:
            rounds.begin()
            parts = [model(batch) for batch in data.split(batch_size)]
            torch.cat(parts).float().numpy()
            rounds.end(images)


class Preprocess(nn.Module):
    """Normalises (batch, 3, size, size) uint8 with ImageNet's mean and deviation."""

    def __init__(self) -> None:
        """Keep the constants as buffers, which follow the model's dtype."""
        super().__init__()
        self.scale: Tensor
        self.offset: Tensor
        scale = 1 / (255 * torch.tensor(IMAGENET_DEVIATION))
        offset = -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_DEVIATION)
        self.register_buffer("scale", scale.view(1, 3, 1, 1))
        self.register_buffer("offset", offset.view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the same shape, of the buffers' dtype."""
        return images.to(self.scale.dtype) * self.scale + self.offset


class Bottleneck(nn.Module):
    """A block of ResNet50: 1x1 with the stride, 3x3, 1x1 to four times the width; a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int):
        """Build for (batch, inputs, height, width); a shortcut is projected where shapes differ."""
        super().__init__()
        outputs = 4 * width
        self.conv1, self.norm1 = _convolution(inputs, width, 1, stride), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = _convolution(width, width, 3), nn.BatchNorm2d(width)
        self.conv3, self.norm3 = _convolution(width, outputs, 1), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = _convolution(inputs, outputs, 1, stride)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, 4 * width, height / stride, width / stride)."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        y = functional.relu(self.norm2(self.conv2(y)), inplace=True)
        y = self.norm3(self.conv3(y))
        return functional.relu(y + self.shortcut(x), inplace=True)


def body(name: str) -> tuple[nn.Module, int]:
    """Return "resnet50" or "vgg16" up to its pooled features, and how many these are."""
    if name == "resnet50":
        return resnet50(), 2048
    if name == "vgg16":
        return vgg16(), 512
    raise ValueError(f"there is no {name} for PyTorch here, only resnet50 and vgg16")


def resnet50() -> nn.Module:
    """Return ResNet50 from (batch, 3, size, size) to (batch, 2048); He et al., CVPR 2016."""
    layers: list[nn.Module] = [_convolution(3, 64, 7, 2), nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
    layers.append(nn.MaxPool2d(3, 2, padding=1))
    inputs = 64
    for width, blocks, stride in RESNET50_STAGES:
        for number in range(blocks):
            layers.append(Bottleneck(inputs, width, 1 if number else stride))
            inputs = 4 * width
    return _pooled(layers)


def vgg16() -> nn.Module:
    """Return VGG16's convolutions, from (batch, 3, size, size) to (batch, 512)."""
    layers: list[nn.Module] = []
    inputs = 3
    for width, convolutions in VGG16_BLOCKS:
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return _pooled(layers)


def _pooled(layers: Sequence[nn.Module]) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _start() -> None:
    torch.manual_seed(0)
    torch.set_num_threads(machine.cores())


def _lay_channels_last(model: nn.Module) -> None:
    # What stands in PyTorch's own annotations lacks this argument.
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _resident(images: int, size: int, channels: int) -> Tensor:
    """Return (images, channels, size, size) uint8 with the channels last in memory."""
    return torch.from_numpy(pictures.pictures(images, size, channels)).permute(0, 3, 1, 2)


def _train(
    rounds: Rounds,
    model: nn.Module,
    data: Tensor,
    optimizer: torch.optim.Optimizer,
    batch_size: int,
    *,
    mixed: bool,
) -> None:
    """Train epoch after epoch; batches are taken from memory by a permutation."""
    labels = torch.from_numpy(pictures.labels(len(data)))
    model.train()
    while True:
        rounds.begin()
        loss_sum, right = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for chosen in torch.randperm(len(data)).split(batch_size):
            # Whatever order indexing leaves; a copy only where it is another.
            batch = data[chosen].contiguous(memory_format=torch.channels_last)
            wanted = labels[chosen]
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
                logits = model(batch)
                loss = functional.cross_entropy(logits, wanted)
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach()
            right += (logits.argmax(1) == wanted).sum()
        float(loss_sum), int(right)
        rounds.end(len(data))
