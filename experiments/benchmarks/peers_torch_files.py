"""PyTorch on picture files: a Dataset that decodes by Pillow, and a DataLoader.

`python -m experiments.benchmarks.peers_torch_files FOLDER WEIGHTS EPOCHS RESULT` trains a head on
frozen MobileNetV2, in bfloat16 and with channels last, and writes the test accuracy to RESULT.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from experiments.benchmarks import machine, mobilenet_torch
from experiments.benchmarks.worker import Rounds, cpu_seconds

WIDTH, SIZE, BATCH_SIZE = 0.35, 224, 32
LEARNING_RATE = 1e-3
WORKERS = 2


class Pictures(Dataset[tuple[Tensor, int]]):
    """The pictures of a folder of classes: (3, size, size) float32 from 0 to 1, and labels."""

    def __init__(self, folder: Path, size: int):
        """List the files, the classes in the order of their names."""
        self.classes = sorted(path.name for path in folder.iterdir())
        self._size = size
        self._examples = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).iterdir())
        ]

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._examples)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Decode one picture: resize its shorter side, and cut out the centre."""
        path, label = self._examples[index]
        with Image.open(path) as file:
            picture = file.convert("RGB")
        scale = self._size / min(picture.size)
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - self._size) // 2, (height - self._size) // 2
        picture = picture.crop((left, top, left + self._size, top + self._size))
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255, label


def read(rounds: Rounds, folder: str, size: int, workers: int) -> None:
    """List and decode all files in each round, in CPU time; that of the workers counts."""
    rounds.clock = cpu_seconds
    # Pillow decodes in one thread, and others that wait for it would take CPU time.
    torch.set_num_threads(1)
    while True:
        rounds.begin()
        loader = _load(Pictures(Path(folder), size), workers=workers)
        count = sum(len(labels) for _, labels in loader)
        rounds.end(count)


def train_head(folder: Path, weights: Path, epochs: int) -> float:
    """Train a head on FOLDER/train, and return its accuracy on FOLDER/test, from 0 to 1."""
    torch.manual_seed(0)
    torch.set_num_threads(machine.cores())
    base = mobilenet_torch.mobilenet_v2(WIDTH)
    mobilenet_torch.load(base, weights)
    # What stands in PyTorch's own annotations lacks this argument.
    base.eval().to(torch.bfloat16).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = Pictures(folder / "train", SIZE)
    head = nn.Linear(mobilenet_torch.FEATURES, len(train.classes))
    optimizer = torch.optim.Adam(head.parameters(), lr=LEARNING_RATE)
    loader = _load(train, workers=WORKERS, shuffle=True, persistent_workers=True)
    for _ in range(epochs):
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(head(_features(base, images)), labels).backward()
            optimizer.step()
    correct = total = 0
    for images, labels in _load(Pictures(folder / "test", SIZE), workers=WORKERS):
        with torch.no_grad():
            correct += int((head(_features(base, images)).argmax(1) == labels).sum())
        total += len(labels)
    return correct / total


def _features(base: nn.Module, images: Tensor) -> Tensor:
    """Return (batch, 1280) float32; the preprocessing is that of the network, from -1 to 1."""
    prepared = (images * 2 - 1).to(torch.bfloat16, memory_format=torch.channels_last)
    with torch.no_grad():
        return base(prepared).float()


def _load(pictures: Pictures, *, workers: int, **how: Any) -> DataLoader[tuple[Tensor, int]]:
    return DataLoader(pictures, batch_size=BATCH_SIZE, num_workers=workers, **how)


def main(argv: Sequence[str]) -> int:
    """Train as `argv` says, and write the accuracy."""
    folder, weights, epochs, result = argv[1:]
    accuracy = train_head(Path(folder), Path(weights), int(epochs))
    Path(result).write_text(json.dumps({"accuracy": accuracy}), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
