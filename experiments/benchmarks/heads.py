"""Whole runs of the program that train a head, with its cache or without."""

from collections.abc import Sequence
from pathlib import Path

from experiments.benchmarks.processes import run

CACHED, UNCACHED = "with the cache", "without"
NOTHING_KEPT = "--cache_gb=0"
# What trains nothing but the head.
HEAD = ("--method=finetune", "--trainable=head")


def command(
    images: int, size: int, model: str, weights: Path, place: Path, flags: Sequence[str]
) -> list[str]:
    """Return what Python is given for one transfer to random pictures, without the scratch arm."""
    return [
        *("-m", "experiments.benchmarks.synthetic", f"{images}x{size}"),
        *("--target=synthetic", f"--model={model}", f"--image_size={size}", "--nobaseline"),
        *("--validation=0", "--min_steps=0", f"--source_weights={weights}"),
        *(f"--workdir={place / 'run'}", *flags),
    ]


def fresh_weights(model: str, size: int, folder: Path) -> Path:
    """Have the program write random weights of a model, as a source that was not trained.

    Raises:
        FailedError: it could not.
    """
    words = [
        *("-m", "experiments.benchmarks.synthetic", f"100x{size}", "--target=synthetic"),
        *("--source=synthetic", f"--model={model}", f"--image_size={size}", "--nobaseline"),
        *("--validation=0", "--source_epochs=0", "--epochs=0", f"--workdir={folder / 'run'}"),
    ]
    run(words, folder)
    return folder / "run" / "source" / "source.weights.h5"
