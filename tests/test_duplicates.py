"""Tests of the search for exact and near duplicates."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tl_keras.data import embedded, reading
from tl_keras.errors import DataError
from tl_keras.pictures import duplicates, images, picture_file
from tl_keras.pictures.duplicates import find_duplicates


def made_photos(count: int, size: int = 96, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Return pictures with structure at several scales, no two alike."""
    random = np.random.default_rng(seed)
    made = np.zeros((count, size, size, channels), np.float32)
    for cells, strength in ((3, 1.0), (7, 0.7), (14, 0.4)):
        noise = random.normal(size=(count, channels, cells, cells)).astype(np.float32)
        for each in np.ndindex(count, channels):
            field = Image.fromarray(noise[each]).resize((size, size), Image.Resampling.BICUBIC)
            made[each[0], :, :, each[1]] += strength * np.asarray(field)
    return np.clip(128 + 40 * made, 0, 255).astype(np.uint8)


def to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def save_again(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape)


def resize_and_back(image: np.ndarray, scale: float) -> np.ndarray:
    height, width = image.shape[:2]
    small = to_pillow(image).resize((int(width * scale), int(height * scale)))
    return np.asarray(small.resize((width, height))).reshape(image.shape)


def scale(image: np.ndarray, size: int) -> np.ndarray:
    resized = to_pillow(image).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, image.shape[-1])


def crop(image: np.ndarray, pixels: int) -> np.ndarray:
    height, width = image.shape[:2]
    box = (pixels, 0, width, height - pixels)
    return np.asarray(to_pillow(image).resize((width, height), box=box)).reshape(image.shape)


def brighten(image: np.ndarray, levels: int) -> np.ndarray:
    return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


COPIES = {
    "jpeg60": lambda image: save_again(image, 60),
    "jpeg75": lambda image: save_again(image, 75),
    "jpeg95": lambda image: save_again(image, 95),
    "half": lambda image: resize_and_back(image, 0.5),
    "larger": lambda image: resize_and_back(image, 1.5),
    "brighter": lambda image: brighten(image, 5),
    "darker": lambda image: brighten(image, -5),
    "crop1": lambda image: crop(image, 1),
    "crop2": lambda image: crop(image, 2),
}


def count_copies(groups: np.ndarray) -> int:
    return int((groups != np.arange(len(groups))).sum())


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_find_duplicates_finds_planted_copies_and_no_others(kind: str, channels: int) -> None:
    photos = made_photos(60, channels=channels)
    copies = np.stack([COPIES[kind](photo) for photo in photos[10:40]])
    assert all((copy != photo).any() for copy, photo in zip(copies, photos[10:40], strict=True))
    found = find_duplicates(np.concatenate([photos, copies]))
    assert found.exact.tolist() == list(range(90))
    assert found.near[:60].tolist() == list(range(60))
    right = found.near[60:] == np.arange(10, 40)
    assert right.mean() > 0.9
    assert (found.near[60:][~right] == np.arange(60, 90)[~right]).all()


def test_find_duplicates_groups_equal_pixels_by_their_first() -> None:
    photos = made_photos(6, size=24)
    order = [0, 1, 0, 2, 1, 0, 3]
    for found in (find_duplicates(photos[order]), find_duplicates(photos[order], exact_only=True)):
        assert found.exact.tolist() == [0, 1, 0, 3, 1, 0, 6]
        assert found.near.tolist() == [0, 1, 0, 3, 1, 0, 6]
        assert found.exact.dtype == found.near.dtype == np.int64


def test_find_duplicates_joins_exact_and_near_copies_in_one_group() -> None:
    photos = made_photos(40)
    copy = save_again(photos[3], 80)
    again = np.concatenate([copy[None], photos, copy[None]])
    found = find_duplicates(again)
    assert found.exact[-1] == 0 and found.exact[4] == 4
    assert found.near[[0, 4, 41]].tolist() == [0, 0, 0]
    assert count_copies(find_duplicates(again, exact_only=True).near) == 1


def test_find_duplicates_sees_a_difference_of_one_level_in_one_pixel() -> None:
    pair = np.repeat(made_photos(1, size=32), 2, axis=0)
    pair[1, 31, 31, 2] ^= 1
    found = find_duplicates(pair)
    assert found.exact.tolist() == [0, 1]
    assert found.near.tolist() == [0, 0]


def test_find_duplicates_claims_blank_pictures_only_with_the_same_pixels() -> None:
    blank = np.full((6, 40, 40, 3), 200, np.uint8)
    blank[1] = 201
    blank[2:5] += np.random.default_rng(0).integers(0, 20, (3, 40, 40, 3), dtype=np.uint8)
    blank[4] = blank[3]
    found = find_duplicates(blank)
    assert found.exact.tolist() == found.near.tolist() == [0, 1, 2, 3, 3, 0]


def test_find_duplicates_claims_nothing_where_contrast_is_faint() -> None:
    faint = np.repeat(made_photos(12), 2, axis=0) // 16 + 100
    faint[1::2] += 1
    assert np.ptp(faint, axis=(1, 2)).max() < 26
    assert find_duplicates(faint).near.tolist() == list(range(24))


def test_find_duplicates_reads_in_chunks_and_from_mapped_files(tmp_path, monkeypatch) -> None:
    photos = made_photos(50)
    photos = np.concatenate([photos, photos[:3], [save_again(photos[7], 90)]])
    expected = find_duplicates(photos)
    assert count_copies(expected.near) == 4
    np.save(tmp_path / "photos.npy", photos)
    monkeypatch.setattr(duplicates, "_CHUNK_BYTES", 3 * photos[0].nbytes + 1)
    monkeypatch.setattr(duplicates, "_CHUNK_PICTURES", 5)
    monkeypatch.setattr(duplicates, "_CHUNK_PAIRS", 3)
    found = find_duplicates(np.load(tmp_path / "photos.npy", mmap_mode="r"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_find_duplicates_of_many_similar_pictures_compares_few(monkeypatch) -> None:
    base = made_photos(400, size=32)
    many = np.concatenate([base, np.repeat(base[:1], 30, axis=0)])
    many[400:, 0, 0, 0] = np.arange(30)
    compared = []
    are_near = duplicates._are_near
    monkeypatch.setattr(
        duplicates, "_are_near", lambda a, pairs: compared.append(len(pairs)) or are_near(a, pairs)
    )
    found = find_duplicates(many)
    assert (found.near[400:] == 0).all()
    # 30 join the group at once; not all 435 pairs are read, nor each in every band.
    assert sum(compared) < 150


def test_find_duplicates_bounds_the_pairs_of_a_huge_bucket(monkeypatch) -> None:
    monkeypatch.setattr(duplicates, "MAX_NEIGHBOURS", 8)
    hashes = np.zeros(1000, np.uint64)
    signatures = duplicates._Signatures(hashes, np.zeros((1000, 64), np.int8), hashes == 0)
    pairs = [len(each) for each in duplicates._find_candidates(signatures, np.arange(1000))]
    assert sum(pairs) <= 1000 * 8 * duplicates.BANDS


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 5, 5), "u1"), np.zeros((2, 5, 5, 4), "u1"), np.zeros((2, 0, 5, 1), "u1"),
              np.zeros((2, 5, 5, 1))],
)  # fmt: skip
def test_find_duplicates_refuses_what_is_no_batch_of_pictures(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="images are"):
        find_duplicates(wrong)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_find_duplicates_of_few_pictures(count: int) -> None:
    assert find_duplicates(made_photos(count)).near.tolist() == list(range(count))


@pytest.mark.parametrize("size", [8, 16, 32])
def test_find_duplicates_claims_none_of_the_digits_of_scikit_learn(size: int) -> None:
    small = (load_digits().images * 15.9375).astype(np.uint8)[..., None]
    digits = np.stack([scale(digit, size) for digit in small])
    found = find_duplicates(digits)
    assert count_copies(found.near) == count_copies(found.exact) == 0


def test_find_duplicates_claims_next_to_none_of_5000_mnist_digits() -> None:
    dataset = embedded.open_dataset("mnist_5k", "auto")
    digits = np.concatenate([dataset.read(split, 0).images for split in ("train", "test")])
    assert len(digits) == 5000
    assert count_copies(find_duplicates(digits).near) <= 3


@pytest.mark.parametrize("size", [28, 96])
@pytest.mark.slow
def test_find_duplicates_claims_next_to_none_of_scanned_characters(shared_data, size) -> None:
    files = sorted((shared_data / "image_folders" / "handwritten62").glob("*/*/*.png"))
    if not files:
        pytest.skip(f"there are no scanned characters in {shared_data}")
    characters = np.stack([scale(images.to_grey(picture_file.load(file)), size) for file in files])
    found = find_duplicates(characters)
    assert count_copies(found.near) - count_copies(found.exact) <= 3


@pytest.mark.slow
def test_find_duplicates_finds_copies_within_cifar10_in_one_class(tally) -> None:
    try:
        dataset = reading.open_dataset("cifar10")
        train, test = (dataset.read(split, 0) for split in ("train", "test"))
    except DataError as error:
        pytest.skip(f"CIFAR-10 is not here: {error}")
    photos = np.concatenate([train.images, test.images])
    labels = np.concatenate([train.labels, test.labels])
    copies = np.stack([save_again(photo, 75) for photo in photos[:400]])
    found = find_duplicates(np.concatenate([photos, copies]))
    tally("copies found", int((found.near[60000:] == found.near[:400]).sum()), 400)
    assert (found.near[60000:] == found.near[:400]).mean() > 0.97
    near = found.near[:60000]
    assert 300 < count_copies(near) < 600
    assert (labels[near] == labels).mean() > 0.9999
