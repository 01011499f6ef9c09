"""Fingerprints: images that differ from those a workdir was started with are detected."""

import numpy as np
import pytest

from tl_keras.data.dataset import ImageSet
from tl_keras.data.fingerprints import DataFingerprints, hash_images
from tl_keras.errors import DataError


def images(count=5, seed=0):
    generator = np.random.default_rng(seed)
    pictures = generator.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
    return ImageSet(pictures, np.arange(count) % 2)


def sealed(path, found, names=("a", "b"), split="train"):
    fingerprints = DataFingerprints(path)
    fingerprints.check("set", split, found, names)
    fingerprints.save()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work" / "data.json"


def test_fingerprints_accept_the_same_images(path):
    for _ in range(2):
        sealed(path, images())
    kept = path.read_bytes()
    sealed(path, images(3, seed=1), split="test")
    both = path.read_bytes()
    sealed(path, images())
    # A split that is new is noted, and one that is known is not noted again.
    assert kept != path.read_bytes() == both


def swapped(found):
    return ImageSet(found.images[[1, 0, 2, 3, 4]], found.labels)


def touched(found):
    pictures = found.images.copy()
    pictures[4, 3, 3] ^= 1
    return ImageSet(pictures, found.labels)


CHANGES = {
    "one more": lambda: (images(6), ("a", "b")),
    "one bit": lambda: (touched(images()), ("a", "b")),
    "another order": lambda: (swapped(images()), ("a", "b")),
    "another label": lambda: (images()._replace(labels=np.array([0, 1, 0, 1, 1])), ("a", "b")),
    "another class name": lambda: (images(), ("a", "c")),
    "another shape": lambda: (ImageSet(images().images.reshape(5, 2, 8, 1), images().labels), "ab"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_fingerprints_refuse_any_change(path, change):
    sealed(path, images())
    before = path.read_bytes()
    found, names = CHANGES[change]()
    with pytest.raises(DataError) as caught:
        sealed(path, found, tuple(names))
    assert "the train images of 'set' are not those that" in str(caught.value)
    assert "choose another --workdir" in str(caught.value)
    assert path.read_bytes() == before


def test_fingerprints_of_a_failed_command_are_not_saved(path):
    DataFingerprints(path).check("set", "train", images(), ("a", "b"))
    assert not path.exists()
    sealed(path, images(6))


def test_fingerprints_of_later_splits_are_saved_at_once(path):
    fingerprints = DataFingerprints(path)
    fingerprints.save()
    fingerprints.check("set", "test", images(), ("a", "b"))
    with pytest.raises(DataError, match="5 then, 6 now"):
        sealed(path, images(6), split="test")


@pytest.mark.parametrize("text", ["", "{}", '{"set train": 3}'])
def test_damaged_fingerprints_are_refused(path, text):
    sealed(path, images())
    path.write_text(text)
    with pytest.raises(DataError, match=r"data\.json is damaged"):
        DataFingerprints(path)


def test_fingerprint_is_the_same_for_pictures_on_disk(tmp_path):
    found = images(9000).images
    mapped = np.memmap(tmp_path / "pictures", np.uint8, "w+", shape=found.shape)
    mapped[:] = found
    assert hash_images(mapped) == hash_images(found) != hash_images(found[::-1])
