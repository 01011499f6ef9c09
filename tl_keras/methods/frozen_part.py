"""The part of a model that does not train: computed as it is fastest, and, where it pays, once.

Its norms are folded away, and it computes in the precision that pays for inference. What it makes
of the images lies on disk, in `feature_cache`, where the part that trains reads it.
"""

import dataclasses
import hashlib
import logging
import math
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tl_keras.data import pipeline
from tl_keras.data.dataset import ImageSet
from tl_keras.data.fingerprints import hash_images
from tl_keras.data.pipeline import NO_AUGMENTATION, Stream
from tl_keras.errors import UsageError
from tl_keras.methods.feature_cache import FeatureCache, Room, Rows
from tl_keras.methods.interface import MethodInputs
from tl_keras.models import weights
from tl_keras.models.colour import with_colour_input
from tl_keras.models.folding import fold_norms
from tl_keras.models.frozen_split import split_frozen
from tl_keras.models.precision import set_compute_dtype
from tl_keras.training.optimizers import total_steps
from tl_keras.training.prediction import Runner
from tl_keras.training.task import ObjectiveOf, Task

LOG = logging.getLogger(__name__)

GIGABYTE = 10**9


class _Wanted(NamedTuple):
    """Rows that are asked for: of which cache, their numbers there, and what computes them."""

    cache: FeatureCache
    numbers: np.ndarray
    compute: Callable[[np.ndarray], np.ndarray]

    def rows(self) -> Rows:
        return self.cache.rows(self.numbers, self.compute)


# Hashes of images that were computed, by where the array is in memory.
_FINGERPRINTS: dict[int, tuple[weakref.ref, str]] = {}


class FrozenPart:
    """From images to one tensor, by weights that stay as they are now."""

    def __init__(self, run: MethodInputs, model: keras.Model, precision: str = ""):
        """Prepare to compute what `model` does.

        Args:
            run: to which the model belongs.
            model: with one output, built under the strategy.
            precision: what to compute in; empty for what pays where nothing trains.
        """
        precision = precision or run.precision.frozen
        with run.strategy.scope():
            # Images of a source may be in colour where those of the target are not.
            self._model = with_colour_input(fold_norms(model))
            set_compute_dtype(self._model, precision)
        self._run = run
        # By the channels of the images: a graph that takes both would not know how many it has.
        self._runners = defaultdict[int, Runner](lambda: Runner(self, run.strategy))
        self._shape = tuple(model.output.shape[1:])
        self._dtype = self(tf.zeros((1, *model.input.shape[1:]), tf.uint8)).numpy().dtype
        self._caches: dict[str, FeatureCache] = {}
        self._room = Room(run.cache, run.config.cache_gb * GIGABYTE)
        self._key = {
            "model": run.config.model,
            "tensor": model.layers[-1].name,
            "weights": weights.hash_tensors(weights.get_tensors(model)),
            "image_size": run.image_size,
            "precision": precision,
            # A Rescaling has no weights that would tell of it.
            "preprocessing": repr(run.preprocessing),
            "channels": self._model.input.shape[-1],
        }

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Return the tensor, (batch, ...), of (batch, height, width, channels) uint8 images."""
        channels = self._model.input.shape[-1]
        return self._model(pipeline.with_channels(images, channels), training=False)

    def compute(self, images: np.ndarray, **augmented: Any) -> np.ndarray:
        """Return the tensors, (examples, ...), of (examples, height, width, channels) uint8 images.

        Args:
            images: at least one.
            augmented: as of `Runner.run`.
        """
        runner = self._runners[images.shape[-1]]
        return runner.run(images, self._run.image_size, **augmented)

    def size_of(self, examples: int) -> int:
        """Return the bytes that the tensors of so many examples take."""
        return examples * math.prod(self._shape) * self._dtype.itemsize

    def describe(self) -> str:
        """Return where the tensor is, and its shape and dtype."""
        shape = " x ".join(map(str, self._shape))
        return f"{self._key['tensor']}, {shape} {self._dtype}"

    def of(self, images: ImageSet, indices: np.ndarray) -> ImageSet:
        """Return tensors, in place of images, and labels of the examples at `indices`."""
        rows = self._plain(images.images, indices).rows()
        return ImageSet(_in_order(rows), images.labels[indices])

    def has_room(self, streams: Iterable[Stream], images: ImageSet, indices: np.ndarray) -> bool:
        """Return whether the tensors of these streams and examples are kept, or can be."""
        counts: Counter[FeatureCache] = Counter()
        for wanted in [*map(self._of_stream, streams), self._plain(images.images, indices)]:
            counts[wanted.cache] += len(wanted.cache.missing(wanted.numbers))
        return self._room.fits(counts)

    def stream(self, stream: Stream) -> Stream:
        """Return the same batches with the tensors of the images in their place.

        Args:
            stream: of images, without augmentation, or with `views` of it.
        """
        chosen = _chosen(stream)
        table, places = _in_memory(self._of_stream(stream).rows())
        turns = places.reshape(-1, len(chosen))
        labels = np.zeros(len(table), np.int64)
        labels[turns] = stream.labels[chosen]
        return dataclasses.replace(
            stream,
            inputs=table,
            labels=labels,
            chosen=turns,
            image_size=0,
            augmentation=NO_AUGMENTATION,
            views=0,
        )

    def _of_stream(self, stream: Stream) -> _Wanted:
        """Return the rows of all views, view after view, each in the order of `chosen`."""
        chosen = _chosen(stream)
        if stream.augmentation.is_identity:
            return self._plain(stream.inputs, chosen)
        return self._augmented(stream, chosen)

    def _plain(self, images: np.ndarray, indices: np.ndarray) -> _Wanted:
        return self._wanted(
            self._cache(images), indices, lambda chosen: self.compute(images[chosen])
        )

    def _augmented(self, stream: Stream, chosen: np.ndarray) -> _Wanted:

        def compute(numbers: np.ndarray) -> np.ndarray:
            view, index = np.divmod(numbers, len(chosen))
            keys = stream.keys(tf.constant(index), tf.constant(view)).numpy()
            images = stream.inputs[chosen[index]]
            return self.compute(images, augmentation=stream.augmentation, keys=keys)

        cache = self._cache(
            stream.inputs,
            seed=stream.seed,
            augmentation=repr(stream.augmentation),
            chosen=hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest(),
        )
        return self._wanted(cache, np.arange(stream.views * len(chosen)), compute)

    def _wanted(
        self, cache: FeatureCache, numbers: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]
    ) -> _Wanted:
        # A batch of one image takes another kernel, and its last bits would depend on how many rows
        # were there already: no replica gets fewer than two.
        fewest = 2 * self._run.strategy.num_replicas_in_sync

        def computed(chosen: np.ndarray) -> np.ndarray:
            return compute(np.resize(chosen, max(fewest, len(chosen))))[: len(chosen)]

        return _Wanted(cache, numbers, computed)

    def _cache(self, images: np.ndarray, **more: Any) -> FeatureCache:
        key = {**self._key, "images": _fingerprint(images), **more}
        name = repr(key)
        if name not in self._caches:
            self._caches[name] = FeatureCache(self._room, key, self._shape, self._dtype)
        return self._caches[name]


def _fingerprint(images: np.ndarray) -> str:
    """Return the hash of images, computed once in the life of an array."""
    kept = _FINGERPRINTS.get(id(images))
    if kept is None or kept[0]() is not images:
        kept = weakref.ref(images), hash_images(images)
        _FINGERPRINTS[id(images)] = kept
        weakref.finalize(images, _FINGERPRINTS.pop, id(images), None)
    return kept[1]


def _chosen(stream: Stream) -> np.ndarray:
    """Return which of a stream's examples take part, (n,) int64."""
    return np.arange(len(stream.labels)) if stream.chosen is None else stream.chosen


def _in_memory(rows: Rows) -> Rows:
    """Return the rows that are asked for by themselves, where they are few; else as they are.

    What is mapped and read often is in memory anyway, as far as that has room.
    """
    if len(rows.places) * rows.table[:1].nbytes > pipeline.MAX_COPY_BYTES:
        return rows
    return Rows(rows.table[rows.places], np.arange(len(rows.places)))


def _in_order(rows: Rows) -> np.ndarray:
    """Return the rows that are asked for, in their order; mapped where they stand in it."""
    first, count = rows.places[0], len(rows.places)
    if np.array_equal(rows.places, np.arange(first, first + count)):
        return rows.table[first : first + count]
    return rows.table[rows.places]


def shortened(
    run: MethodInputs,
    task: Task,
    objective_of: ObjectiveOf,
    share: float,
) -> Task:
    """Return the same task as what trains now needs it: the frozen part before it is a FrozenPart.

    Its tensors are kept, and read in each epoch, where each is used more than once, --cache_gb has
    room for them, and the augmentation leaves a picture as it is or has --cached_views.

    Args:
        run: of the run.
        task: on images, of `setting.model`, in which the layers that train now are chosen.
        objective_of: gives the task's objective of a model, or of the part of it that trains.
        share: of the run's steps that are taken so.
    """
    parts = split_frozen(run.model)
    if parts is None:
        return task
    part, objective = FrozenPart(run, parts.frozen), objective_of(parts.rest)
    if not _pays(run, task, part, share):
        return dataclasses.replace(
            task,
            objective=lambda batch, progress: objective(
                {name: (tf.stop_gradient(part(x)), y) for name, (x, y) in batch.items()}, progress
            ),
        )
    validation = run.split.validation
    return dataclasses.replace(
        task,
        model=parts.rest,
        streams={name: part.stream(stream) for name, stream in task.streams.items()},
        objective=objective,
        validation=part.of(run.images, validation) if len(validation) else None,
        image_size=0,
    )


def _pays(run: MethodInputs, task: Task, part: FrozenPart, share: float) -> bool:
    """Tell whether tensors at the cut are to be kept; where they might be, say what comes of it."""
    if any(s.augmentation.mixes or not _views(s) for s in task.streams.values()):
        return False
    epochs = {name: s.clamp_batch_size().steps_per_epoch for name, s in task.streams.items()}
    steps = share * total_steps(run.training, epochs["target"])
    if any(steps < _views(stream) * epochs[name] for name, stream in task.streams.items()):
        return False
    examples = sum(_views(stream) * stream.count for stream in task.streams.values())
    validation = run.split.validation
    size = part.size_of(examples + len(validation))
    fits = size <= run.config.cache_gb * GIGABYTE
    fits = fits and part.has_room(task.streams.values(), run.images, validation)
    LOG.info(
        "frozen up to %s: %s for %d images, %s",
        part.describe(),
        f"{size / GIGABYTE:.3g} GB",
        examples,
        "computed once" if fits else "more than --cache_gb has room for, computed each time",
    )
    return fits


def _views(stream: Stream) -> int:
    """Return how many different tensors an example has; 0 where they do not end."""
    return 1 if stream.augmentation.is_identity else stream.views


def check_room(run: MethodInputs, part: FrozenPart, examples: int) -> None:
    """Raise UsageError where --cache_gb has no room for features that cannot do without."""
    size, room = part.size_of(examples) / GIGABYTE, run.config.cache_gb
    if size > room:
        raise UsageError(
            f"--cache_gb={room:g} has no room for the {size:.3g} GB of the features of {examples}"
            " images: give it more, or choose --method=finetune --trainable=head"
        )
