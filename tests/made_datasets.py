"""Small datasets of tensorflow-datasets that no network is needed for: `made_ragged` and others."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds


class Made(tfds.core.GeneratorBasedBuilder):
    """A base for small datasets: what they hold stands in class attributes."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE: tuple[int | None, int | None, int | None] = (None, None, 3)
    SPLITS: tuple[str, ...] = ("train",)
    LABELS: tuple[str, ...] = ("cat", "dog")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=self.SHAPE),
                    "kind": tfds.features.ClassLabel(names=self.LABELS),
                    "note": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {split: self._generate_examples() for split in self.SPLITS}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for index in range(20):
            shape = tuple(side or 6 + index for side in self.SHAPE[:2])
            picture = np.full((*shape, self.SHAPE[2] or 3), 10 * index, np.uint8)
            yield index, {"picture": picture, "kind": index % 2, "note": "x"}


class MadeRagged(Made):
    """Pictures of many sizes, in colour, with a training split only."""


class MadeStriped(Made):
    """Large pictures with stripes one pixel wide."""

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for index in range(20):
            picture = np.zeros((60, 70 + index, 3), np.uint8)
            picture[:, ::2] = 255
            yield index, {"picture": picture, "kind": index % 2, "note": "x"}


class MadeTall(Made):
    """Grey pictures of one size that is no square, with a validation split."""

    SHAPE = (8, 4, 1)
    SPLITS = ("train", "validation")


class MadeClear(Made):
    """Pictures with an alpha channel, which is 10 times the index."""

    SHAPE = (4, 4, 4)


class MadeUntrained(Made):
    """A test split only."""

    SPLITS = ("test",)


class MadeSingle(Made):
    """One class only."""

    LABELS = ("cat",)

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        yield 0, {"picture": np.zeros((4, 4, 3), np.uint8), "kind": 0, "note": ""}
