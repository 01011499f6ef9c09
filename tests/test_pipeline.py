"""Tests of batches: which examples a step gets, on any number of replicas, from any step on."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from made import sharing, sweep

from tl_keras.config.augmentation import parse
from tl_keras.data import pipeline
from tl_keras.data.pipeline import IMAGE_ORDER, PARTNER_ORDER, Stream

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 6, 6, 1), np.uint8)
LABELS = np.arange(24)


def features(count: int) -> np.ndarray:
    return np.stack([np.arange(count), np.arange(count) * 2], axis=1).astype(np.float32)


def stream(count: int, batch_size: int, seed: int = 0) -> Stream:
    return Stream(features(count), np.arange(count), batch_size, seed)


def taken(of: Stream, steps: int, first_step: int = 0, replicas: int = 1) -> list[np.ndarray]:
    """Return the labels, that is the indices, of each element."""
    elements = of.batches(first_step, sharing(replicas)).take(steps * replicas)
    return [labels for _, labels in elements.as_numpy_iterator()]


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31 - 1))
@settings(max_examples=25)
def test_stream_brings_every_example_once_an_epoch(count, batch_size, seed) -> None:
    of = stream(count, batch_size, seed).clamp_batch_size()
    epochs = 3
    steps = -(-epochs * count // of.batch_size)
    batches = taken(of, steps)
    assert {len(batch) for batch in batches} == {min(batch_size, count)}
    places = np.concatenate(batches)[: epochs * count].reshape(epochs, count)
    assert (np.sort(places) == np.arange(count)).all()
    assert of.steps_per_epoch == count / min(batch_size, count)


def test_stream_gives_each_example_with_its_own_label() -> None:
    for inputs, labels in stream(10, 4).batches().take(5):
        assert inputs.numpy().tolist() == features(10)[labels.numpy()].tolist()
        assert labels.dtype == tf.int64


def test_stream_has_another_order_in_each_epoch_and_for_each_seed() -> None:
    orders = [
        tuple(order.tolist())
        for seed in (0, 1, 2, 3)
        for order in np.concatenate(taken(stream(50, 10, seed), 20)).reshape(4, 50)
    ]
    assert len(set(orders)) == len(orders) == 16


def test_stream_has_the_same_order_again() -> None:
    assert np.array_equal(taken(stream(50, 7), 20), taken(stream(50, 7), 20))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 100), st.sampled_from([1, 2]))
@settings(max_examples=15)
def test_stream_continues_at_any_step(count, batch_size, first_step, replicas) -> None:
    of = stream(max(count, replicas), max(batch_size, replicas)).clamp_batch_size()
    whole = taken(of, first_step + 3, replicas=replicas)
    parts = zip(whole[first_step * replicas :], taken(of, 3, first_step, replicas), strict=True)
    assert all(np.array_equal(one, other) for one, other in parts)


def test_stream_continues_after_millions_of_steps() -> None:
    """Steps are counted in 64 bits: 32 would overflow at two thousand million examples."""
    first = 2**31 // 7 * 5
    assert sorted(np.concatenate(taken(stream(35, 7), 5, first)).tolist()) == list(range(35))


@given(st.integers(4, 40), st.integers(4, 40), st.sampled_from([2, 3, 4]))
@settings(max_examples=20)
def test_shares_of_the_replicas_make_up_the_batch_of_one(count, batch_size, replicas) -> None:
    of = stream(count, batch_size, 5).clamp_batch_size()
    shares = taken(of, 3, replicas=replicas)
    assert {len(share) - of.batch_size // replicas for share in shares} <= {0, 1}
    assert np.concatenate(shares).tolist() == np.concatenate(taken(of, 3)).tolist()


@pytest.mark.parametrize(("processes", "local"), [(2, 1), (3, 1), (2, 2)])
def test_processes_have_the_shares_of_their_replicas(processes, local) -> None:
    of, replicas = stream(35, 13), processes * local
    whole = taken(of, 5, 4, replicas)
    for process in range(processes):
        context = sharing(replicas, processes, process)
        elements = of.batches(4, context).take(5 * local).as_numpy_iterator()
        first = process * local
        mine = [whole[step * replicas + first + one] for step in range(5) for one in range(local)]
        for (_, labels), wanted in zip(elements, mine, strict=True):
            np.testing.assert_array_equal(labels, wanted)


@given(st.integers(1, 100), st.integers(1, 200))
def test_fitted_batch_is_filled_by_the_examples(count, batch_size) -> None:
    assert stream(count, batch_size).clamp_batch_size().batch_size == min(count, batch_size)


AUGMENTATIONS = ["flip", "shift:0.3,rotate:0.2,zoom:0.2", "crop:2,color:0.5", "randaugment:2"]


@pytest.mark.parametrize("text", sweep(AUGMENTATIONS, fast=AUGMENTATIONS[1:3]))
def test_augmentation_depends_on_seed_epoch_and_index_alone(text) -> None:
    """So a picture is the same in any batch, on any replica, and after any interruption."""
    augmentation = parse(text)
    seen = {}
    for batch_size, replicas, first_step in ((8, 1, 0), (8, 2, 0), (12, 1, 0), (8, 2, 2)):
        of = Stream(IMAGES, LABELS, batch_size, 3, augmentation=augmentation)
        elements = list(of.batches(first_step, sharing(replicas)).take(48 // batch_size * replicas))
        found = np.concatenate([images.numpy() for images, _ in elements])
        places = np.concatenate([labels.numpy() for _, labels in elements])
        for number, (image, index) in enumerate(zip(found, places, strict=True)):
            key = ((first_step * batch_size + number) // len(LABELS), index)
            assert np.array_equal(seen.setdefault(key, image), image), (key, batch_size, replicas)
    # Two whole epochs, and the first part of a third.
    assert len(seen) == 2 * len(LABELS) + 16
    changed = [index for index in LABELS if not np.array_equal(seen[0, index], seen[1, index])]
    assert changed


def test_augmentation_differs_with_the_seed() -> None:
    augmentation = parse("shift:0.3")
    images = []
    for seed in (1, 2):
        of = Stream(IMAGES, LABELS, 24, seed, augmentation=augmentation)
        found, labels = next(iter(of.batches()))
        images.append(found.numpy()[np.argsort(labels)])
    assert not np.array_equal(*images)


def test_stream_without_augmentation_gives_the_images_themselves() -> None:
    images, labels = next(iter(Stream(IMAGES, LABELS, 24, 0).batches()))
    assert np.array_equal(images, IMAGES[labels])


@pytest.fixture
def on_disk(tmp_path):
    """Return a function that maps an array from a file."""
    numbers = itertools.count()

    def mapped(array: np.ndarray) -> np.memmap:
        path = tmp_path / f"{next(numbers)}.npy"
        np.save(path, array)
        return np.load(path, mmap_mode="r")

    return mapped


@pytest.mark.parametrize("text", ["none", "shift:0.2,flip"])
def test_stream_of_what_stays_where_it_is_gives_the_same(text, on_disk, monkeypatch) -> None:
    augmentation = parse(text)

    def batches(inputs: np.ndarray) -> list:
        of = Stream(inputs, LABELS, 8, 1, 9, augmentation)
        return list(of.batches().take(4).as_numpy_iterator())

    copied = batches(IMAGES)
    monkeypatch.setattr(pipeline, "MAX_COPY_BYTES", 0)
    for inputs in (IMAGES, on_disk(IMAGES)):
        for (images, labels), (same, same_labels) in zip(copied, batches(inputs), strict=True):
            assert np.array_equal(images, same)
            assert np.array_equal(labels, same_labels)


@pytest.mark.parametrize("copied", [0, 2**20])
def test_features_from_disk_are_the_same_as_from_memory(on_disk, monkeypatch, copied) -> None:
    monkeypatch.setattr(pipeline, "MAX_COPY_BYTES", copied)
    array = features(11)
    for inputs in (array, on_disk(array)):
        parts = list(pipeline.sequential_batches(inputs, 4, 0).as_numpy_iterator())
        assert np.array_equal(np.concatenate(parts)[:11], array)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 6, 11])
def test_images_come_in_the_size_that_is_asked_for(size, channels) -> None:
    images = np.repeat(IMAGES, channels, axis=3)
    batches = Stream(images, LABELS, 8, 0, size).batches()
    (found, labels) = next(iter(batches))
    assert batches.element_spec[0].shape == (8, size, size, channels)
    assert found.dtype == tf.uint8
    expected = tf.image.resize(images[labels], (size, size), antialias=True).numpy()
    assert np.abs(found.numpy() - expected).max() <= 0.5 + 1e-3
    if size == 6:
        assert np.array_equal(found, images[labels])
    evaluated = next(iter(pipeline.sequential_batches(images[labels], 8, size)))
    assert np.array_equal(evaluated, found)


def test_resizing_keeps_black_and_white() -> None:
    """Values outside 0 to 255 would come back as the opposite colour."""
    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[1] = 255
    found = next(iter(pipeline.sequential_batches(images, 2, 13))).numpy()
    assert (found[0] == 0).all()
    assert (found[1] == 255).all()


@given(st.integers(1, 50), st.integers(1, 60), st.sampled_from([1, 2, 3]))
@settings(max_examples=30)
def test_in_order_brings_each_example_once_and_repeats_the_last(
    count, batch_size, replicas
) -> None:
    of_processes = [
        pipeline.sequential_batches(
            features(count), batch_size, 0, sharing(replicas, replicas, process)
        )
        for process in range(replicas)
    ]
    rounds = zip(*(one.as_numpy_iterator() for one in of_processes), strict=True)
    parts = [part[:, 0].astype(int) for one in rounds for part in one]
    together = pipeline.sequential_batches(features(count), batch_size, 0, sharing(replicas))
    for part, same in zip(parts, together.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(part, same[:, 0])
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) <= batch_size
    found = np.concatenate(parts).tolist()
    assert found[:count] == list(range(count))
    assert set(found[count:]) <= {count - 1}
    assert len(found) - count < len(parts[0]) * replicas


def test_stream_of_some_examples_is_a_stream_of_a_copy_of_them():
    chosen = np.array([7, 3, 20, 21, 2, 19, 8])
    part = Stream(IMAGES, LABELS, 4, 5, chosen=chosen)
    copy = Stream(IMAGES[chosen], LABELS[chosen], 4, 5)
    assert part.count == copy.count == 7 and part.steps_per_epoch == copy.steps_per_epoch
    pairs = zip(part.batches().take(6), copy.batches().take(6), strict=True)
    for (images, labels), (same_images, same_labels) in pairs:
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)


def orders(seed, epochs, number=IMAGE_ORDER):
    """Return the order of 24 examples in each epoch of `epochs`, as a set."""
    stream = Stream(IMAGES, LABELS, 24, seed)
    zero = tf.constant(0, tf.int64)
    return {
        tuple(stream.order(tf.constant(epoch, tf.int64), zero, 1, number)[0].numpy())
        for epoch in epochs
    }


@pytest.mark.parametrize("number", [IMAGE_ORDER, PARTNER_ORDER])
@pytest.mark.slow
def test_no_order_comes_again_after_256_epochs_or_256_seeds(number):
    assert len(orders(3, range(600), number)) == 600
    assert not orders(3, range(50), number) & orders(259, range(50), number)
