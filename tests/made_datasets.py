"""Small datasets of tensorflow-datasets that no network is needed for: `made_ragged` and others."""

import io
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


class Made(tfds.core.GeneratorBasedBuilder):
    """A base for small datasets: what they hold stands in class attributes."""

    VERSION = tfds.core.Version("1.0.0")
    SHAPE: tuple[int | None, int | None, int | None] = (None, None, 3)
    SPLITS: tuple[str, ...] = ("train",)
    LABELS: tuple[str, ...] = ("cat", "dog")
    # By split: the indices of the examples that have no label.
    UNLABELLED: Mapping[str, Sequence[int]] = {}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "picture": tfds.features.Image(shape=self.SHAPE),
                    "kind": self._classes(),
                    "note": tfds.features.Text(),
                }
            ),
        )

    def _classes(self) -> tfds.features.ClassLabel:
        return tfds.features.ClassLabel(names=self.LABELS)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {split: self._unlabelled(self.UNLABELLED.get(split, ())) for split in self.SPLITS}

    def _unlabelled(self, indices: Sequence[int]) -> Iterator[tuple[int, dict]]:
        for index, example in self._generate_examples():
            yield index, {**example, "kind": -1 if index in indices else example["kind"]}

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


class MadeNameless(Made):
    """Two classes without names: tfds calls them "0" and "1"."""

    SHAPE = (8, 8, 1)

    def _classes(self) -> tfds.features.ClassLabel:
        return tfds.features.ClassLabel(num_classes=2)


class MadeUnjudged(Made):
    """A test split without labels, and a validation split with them."""

    SHAPE = (8, 8, 1)
    SPLITS = ("train", "test", "validation")
    UNLABELLED = {"test": range(20)}


class MadeUntestable(Made):
    """A test split without labels, and nothing in its place."""

    SHAPE = (8, 8, 1)
    SPLITS = ("train", "test")
    UNLABELLED = {"test": range(20)}


class MadeStray(Made):
    """A test split in which one label is missing."""

    SHAPE = (8, 8, 1)
    SPLITS = ("train", "test", "validation")
    UNLABELLED = {"test": (17,)}


class MadeUnlabelled(Made):
    """A training split without labels."""

    SHAPE = (8, 8, 1)
    SPLITS = ("train", "test")
    UNLABELLED = {"train": range(20)}


class MadeUnusual(tfds.core.GeneratorBasedBuilder):
    """Two pictures and labels of many kinds, nested, in unusual splits."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        scalar, tensor = tfds.features.Scalar, tfds.features.Tensor
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "photo": {
                        "left": tfds.features.Image(shape=(4, 4, 1)),
                        "right": tfds.features.Image(shape=(4, 4, 1)),
                    },
                    "about": {
                        "species": tfds.features.Text(),
                        "year": scalar(np.int32),
                        "sign": tensor(shape=(), dtype=np.int64),
                        "number": scalar(np.int64),
                        "note": tfds.features.Text(),
                        "place": tensor(shape=(2,), dtype=np.float32),
                        "coat": tfds.features.ClassLabel(names=("short", "long")),
                    },
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"fold1": self._make(range(20)), "fold2": self._make(range(20, 30))}

    def _generate_examples(self) -> None:
        raise NotImplementedError

    def _make(self, indices: range) -> Iterator[tuple[int, dict]]:
        for index in indices:
            left = np.full((4, 4, 1), index, np.uint8)
            yield (
                index,
                {
                    "photo": {"left": left, "right": 255 - left},
                    "about": {
                        "species": ("o\u00efe", "dog", "cat")[index % 3],
                        "year": 1990 + 7 * (index % 4) if index < 29 else 2077,
                        "sign": 1 if index % 2 else -1,
                        "number": index,
                        "note": "x" if index % 2 else "",
                        "place": np.zeros(2, np.float32),
                        "coat": index // 10 % 2,
                    },
                },
            )


class MadeStored(tfds.core.GeneratorBasedBuilder):
    """Encoded pictures that a test puts into `FILES`, of a declared `SHAPE` and `DTYPE`.

    A test makes a subclass: tfds keeps what a builder has prepared, and tests have folders of
    their own.
    """

    VERSION = tfds.core.Version("1.0.0")
    FILES: tuple[bytes, ...] = ()
    SHAPE: tuple[int | None, int | None, int | None] = (None, None, 3)
    DTYPE = np.uint8

    def _info(self) -> tfds.core.DatasetInfo:
        picture = tfds.features.Image(shape=self.SHAPE, dtype=self.DTYPE)
        label = tfds.features.ClassLabel(names=("cat", "dog"))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"picture": picture, "kind": label}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        return {"train": self._generate_examples(), "test": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        for index, content in enumerate(self.FILES):
            yield index, {"picture": io.BytesIO(content), "kind": index % 2}


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    """Return the content of an image file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
