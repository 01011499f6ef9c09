"""The frozen part of a model. It runs once per image if its outputs are cached.

BatchNormalization is folded into the convolutions, and the part computes in the fastest inference
precision. `feature_cache` stores its outputs on disk, and the trainable part reads them there.
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
from tl_keras.methods.feature_cache import CacheFolder, FeatureCache, Rows
from tl_keras.methods.interface import MethodInputs
from tl_keras.models import weights
from tl_keras.models.colour import with_colour_input
from tl_keras.models.folding import fold_norms
from tl_keras.models.frozen_split import split_frozen
from tl_keras.models.precision import set_compute_dtype
from tl_keras.pictures.arrays import Images
from tl_keras.training.optimizers import total_steps
from tl_keras.training.prediction import Runner
from tl_keras.training.task import ObjectiveOf, Task

LOG = logging.getLogger(__name__)

GIGABYTE = 10**9


class _RowRequest(NamedTuple):
    """Requested rows: their cache, their indices in it, and the function that computes them."""

    cache: FeatureCache
    numbers: np.ndarray
    compute: Callable[[np.ndarray], np.ndarray]

    def rows(self) -> Rows:
        return self.cache.rows(self.numbers, self.compute)


# Hashes of image arrays by the id of the array.
_FINGERPRINTS: dict[int, tuple[weakref.ref, str]] = {}


class FrozenPart:
    """Computes one tensor from images, with the model's present weights."""

    def __init__(self, run: MethodInputs, model: keras.Model, precision: str = ""):
        """Copy `model` for fast inference.

        Args:
            run: the inputs of the method.
            model: a model with one output, built under the strategy.
            precision: compute dtype; empty for the run's precision of frozen layers.
        """
        precision = precision or run.precision.frozen
        with run.strategy.scope():
            # The source's images may be in colour and the target's in grey.
            self._model = with_colour_input(fold_norms(model))
            set_compute_dtype(self._model, precision)
        self._run = run
        # One runner per number of channels: a shared graph would lose the static channel dimension.
        self._runners = defaultdict[int, Runner](lambda: Runner(self, run.strategy))
        self._shape = tuple(model.output.shape[1:])
        self._dtype = self(tf.zeros((1, *model.input.shape[1:]), tf.uint8)).numpy().dtype
        self._caches: dict[str, FeatureCache] = {}
        self._room = CacheFolder(run.cache, run.config.cache_gb * GIGABYTE)
        self._key = {
            "model": run.config.model,
            "tensor": model.layers[-1].name,
            "weights": weights.hash_tensors(weights.get_tensors(model)),
            "image_size": run.image_size,
            "precision": precision,
            # The preprocessing has no weights, so the hash of the weights does not cover it.
            "preprocessing": repr(run.preprocessing),
            "channels": self._model.input.shape[-1],
        }

    def __call__(self, images: tf.Tensor) -> tf.Tensor:
        """Return the outputs, (batch, ...), for (batch, height, width, channels) uint8 images."""
        channels = self._model.input.shape[-1]
        return self._model(pipeline.with_channels(images, channels), training=False)

    def compute(self, images: Images, **augmented: Any) -> np.ndarray:
        """Return the outputs, (examples, ...), of (examples, height, width, channels) uint8 images.

        Args:
            images: at least one.
            augmented: see `Runner.run`.
        """
        runner = self._runners[images.shape[-1]]
        return runner.run(images, self._run.image_size, **augmented)

    def num_bytes(self, examples: int) -> int:
        """Return the size in bytes of the outputs of `examples` examples."""
        return examples * math.prod(self._shape) * self._dtype.itemsize

    def describe(self) -> str:
        """Return the name of the output layer, with shape and dtype."""
        shape = " x ".join(map(str, self._shape))
        return f"{self._key['tensor']}, {shape} {self._dtype}"

    def transform(self, images: ImageSet, indices: np.ndarray) -> ImageSet:
        """Return the examples at `indices` with their outputs in place of images."""
        rows = self._request_plain(images.images, indices).rows()
        return ImageSet(_select_rows(rows), images.labels[indices])

    def fits_in_cache(
        self, streams: Iterable[Stream], images: ImageSet, indices: np.ndarray
    ) -> bool:
        """Return whether the outputs of these streams and examples are cached, or fit in."""
        counts: Counter[FeatureCache] = Counter()
        for request in [
            *map(self._request_stream, streams),
            self._request_plain(images.images, indices),
        ]:
            counts[request.cache] += len(request.cache.missing(request.numbers))
        return self._room.fits(counts)

    def stream(self, stream: Stream) -> Stream:
        """Return the same stream with outputs in place of images.

        Args:
            stream: a stream of images, without augmentation or with a finite number of `views`.
        """
        chosen = _chosen_examples(stream)
        table, positions = _copy_if_small(self._request_stream(stream).rows())
        turns = positions.reshape(-1, len(chosen))
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

    def _request_stream(self, stream: Stream) -> _RowRequest:
        """Request the rows of all views, view after view, each in the order of `chosen`."""
        chosen = _chosen_examples(stream)
        if stream.augmentation.is_identity:
            return self._request_plain(stream.inputs, chosen)
        return self._request_augmented(stream, chosen)

    def _request_plain(self, images: Images, indices: np.ndarray) -> _RowRequest:
        return self._make_request(
            self._get_cache(images), indices, lambda chosen: self.compute(images[chosen])
        )

    def _request_augmented(self, stream: Stream, chosen: np.ndarray) -> _RowRequest:

        def compute(numbers: np.ndarray) -> np.ndarray:
            view, index = np.divmod(numbers, len(chosen))
            keys = stream.keys(tf.constant(index), tf.constant(view)).numpy()
            images = stream.inputs[chosen[index]]
            return self.compute(images, augmentation=stream.augmentation, keys=keys)

        cache = self._get_cache(
            stream.inputs,
            seed=stream.seed,
            augmentation=repr(stream.augmentation),
            chosen=hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest(),
        )
        return self._make_request(cache, np.arange(stream.views * len(chosen)), compute)

    def _make_request(
        self, cache: FeatureCache, numbers: np.ndarray, compute: Callable[[np.ndarray], np.ndarray]
    ) -> _RowRequest:
        # TensorFlow uses another kernel for a batch of one image, with other rounding. So that rows
        # do not depend on which others are cached, each replica gets two images or more.
        min_count = 2 * self._run.strategy.num_replicas_in_sync

        def compute_padded(chosen: np.ndarray) -> np.ndarray:
            return compute(np.resize(chosen, max(min_count, len(chosen))))[: len(chosen)]

        return _RowRequest(cache, numbers, compute_padded)

    def _get_cache(self, images: Images, **more: Any) -> FeatureCache:
        key = {**self._key, "images": _hash_once(images), **more}
        name = repr(key)
        if name not in self._caches:
            self._caches[name] = FeatureCache(self._room, key, self._shape, self._dtype)
        return self._caches[name]


def _hash_once(images: Images) -> str:
    """Return the hash of images, computed once per array."""
    entry = _FINGERPRINTS.get(id(images))
    if entry is None or entry[0]() is not images:
        entry = weakref.ref(images), hash_images(images)
        _FINGERPRINTS[id(images)] = entry
        weakref.finalize(images, _FINGERPRINTS.pop, id(images), None)
    return entry[1]


def _chosen_examples(stream: Stream) -> np.ndarray:
    """Return the indices of the examples that a stream uses, (n,) int64."""
    return np.arange(len(stream.labels)) if stream.chosen is None else stream.chosen


def _copy_if_small(rows: Rows) -> Rows:
    """Copy the requested rows into memory if they are few; otherwise return the mapped rows.

    The page cache keeps mapped rows in memory as far as there is room.
    """
    if len(rows.positions) * rows.table[:1].nbytes > pipeline.MAX_COPY_BYTES:
        return rows
    return Rows(rows.table[rows.positions], np.arange(len(rows.positions)))


def _select_rows(rows: Rows) -> np.ndarray:
    """Return the requested rows in order, as a mapped slice if they are contiguous."""
    first, count = rows.positions[0], len(rows.positions)
    if np.array_equal(rows.positions, np.arange(first, first + count)):
        return rows.table[first : first + count]
    return rows.table[rows.positions]


def use_frozen_part(
    run: MethodInputs,
    task: Task,
    objective_of: ObjectiveOf,
    share: float,
) -> Task:
    """Return an equivalent task whose layers before the first trainable one are a FrozenPart.

    Their outputs are cached if each is used more than once, they fit into --cache_gb, and images
    have no augmentation or a finite number of --cached_views.

    Args:
        run: the inputs of the method.
        task: a task on images for `run.model`, with the trainable layers of this stage set.
        objective_of: returns the objective for the model, or for its trainable part.
        share: fraction of the run's steps that this stage takes.
    """
    parts = split_frozen(run.model)
    if parts is None:
        return task
    part, objective = FrozenPart(run, parts.frozen), objective_of(parts.rest)
    if not _should_cache(run, task, part, share):
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
        validation=part.transform(run.images, validation) if len(validation) else None,
        image_size=0,
    )


def _should_cache(run: MethodInputs, task: Task, part: FrozenPart, share: float) -> bool:
    """Return whether the outputs of `part` are cached, and log the decision if they could be."""
    if any(s.augmentation.mixes or not _count_views(s) for s in task.streams.values()):
        return False
    epochs = {name: s.clamp_batch_size().steps_per_epoch for name, s in task.streams.items()}
    steps = share * total_steps(run.training, epochs["target"])
    if any(steps < _count_views(stream) * epochs[name] for name, stream in task.streams.items()):
        return False
    examples = sum(_count_views(stream) * stream.count for stream in task.streams.values())
    validation = run.split.validation
    size = part.num_bytes(examples + len(validation))
    fits = size <= run.config.cache_gb * GIGABYTE
    fits = fits and part.fits_in_cache(task.streams.values(), run.images, validation)
    LOG.info(
        "frozen up to %s: %s for %d images, %s",
        part.describe(),
        f"{size / GIGABYTE:.3g} GB",
        examples,
        "computed once" if fits else "more than --cache_gb allows, computed in each step",
    )
    return fits


def _count_views(stream: Stream) -> int:
    """Return the number of views per example; 0 for a new view in each epoch."""
    return 1 if stream.augmentation.is_identity else stream.views


def check_cache_size(run: MethodInputs, part: FrozenPart, examples: int) -> None:
    """Raise UsageError if the features of `examples` images exceed --cache_gb."""
    size, room = part.num_bytes(examples) / GIGABYTE, run.config.cache_gb
    if size > room:
        raise UsageError(
            f"--cache_gb={room:g} has no room for the {size:.3g} GB of the features of {examples}"
            " images. Raise it, or choose --method=finetune --trainable=head"
        )
