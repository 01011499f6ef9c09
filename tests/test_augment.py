"""Random changes of pictures: what they do, how far they go, and that the key alone decides."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tl_keras.config.augmentation import parse
from tl_keras.data import augment as augment_module
from tl_keras.data.augment import augment
from tl_keras.data.draws import draw_bits
from tl_keras.errors import UsageError

EVERYTHING = "shift:0.1,rotate:0.1,zoom:0.2,flip,crop:2,color:0.3"
ALL_TEXTS = ("shift:0.2", "rotate:0.5", "zoom:0.5", "flip,crop:3", "color:0.5", "randaugment:3")


def make_keys(count, seed=0, epoch=0):
    return np.stack([np.full(count, seed), np.full(count, epoch), np.arange(count)], axis=1)


def make_pictures(count, height=12, width=12, channels=3):
    return np.random.default_rng(0).integers(
        0, 256, (count, height, width, channels), dtype=np.uint8
    )


def run(pictures, text, keys=None):
    keys = make_keys(len(pictures)) if keys is None else keys
    return augment(tf.constant(pictures), tf.constant(keys), parse(text)).numpy()


def fix_draws(monkeypatch, *operations, **columns):
    """Make every draw 0, the middle of its range, but RandAugment's operations and the columns.

    A column is given as -1 (the lowest) to 1 (above the highest).
    """
    row = np.zeros(augment_module.TOP + 1, np.int64)
    for name, part in columns.items():
        row[getattr(augment_module, name)] = int(part * 2**31)
    layers = augment_module.RANDAUGMENT_LAYERS
    for step, operation in enumerate(operations):
        row[10 + 3 * step] = int(((2 * layers.index(operation) + 1) / len(layers) - 1) * 2**31)
    monkeypatch.setattr(
        augment_module, "draw_bits", lambda keys, _: tf.constant([row] * len(keys), tf.int64)
    )


def reference_draw(key, count):
    """Do in Python's whole numbers what `draw_bits` does in tensors."""
    gamma = 0x9E3779B97F4A7C15

    def mix(number):
        number %= 2**64
        number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        number = (number ^ (number >> 27)) * 0x94D049BB133111EB % 2**64
        return number ^ (number >> 31)

    seed, epoch, index = key
    state = mix(mix(mix(seed + gamma) + gamma * epoch) + gamma * index)
    return [(mix(state + gamma * step) >> 32) - 2**31 for step in range(1, count + 1)]


def test_draw_is_splitmix64():
    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2**31 - 1, 10**6, 2**33), (3, 1, 7)]
    assert draw_bits(tf.constant(keys, tf.int64), 7).numpy().tolist() == [
        reference_draw(key, 7) for key in keys
    ]


@pytest.mark.parametrize("varying", [0, 1, 2], ids=["seed", "epoch", "index"])
def test_draw_is_uniform_and_independent_when_one_number_counts_up(varying):
    keys = np.full((2**16, 3), 5)
    keys[:, varying] = np.arange(2**16)
    draws = draw_bits(tf.constant(keys), 10).numpy()
    counts = np.stack([np.bincount((column >> 24) + 128, minlength=256) for column in draws.T])
    # Chi-square of 255 degrees of freedom: a single one exceeds 347 with probability 1e-4.
    assert (((counts - 256) ** 2).sum(axis=1) / 256).max() < 347
    together = np.corrcoef(np.concatenate([draws[:-1], draws[1:]], axis=1).T)
    # Standard deviation 1/256; 190 pairs of columns and neighbours.
    assert np.abs(together - np.eye(20)).max() < 4.5 / 256


@pytest.mark.parametrize("text", [EVERYTHING, *ALL_TEXTS])
def test_augment_gives_a_picture_the_same_result_wherever_it_stands(text):
    pictures, keys = make_pictures(22), make_keys(22, seed=3, epoch=4)
    expected = run(pictures, text, keys)
    assert (expected != pictures).any()

    singly = [run(pictures[i : i + 1], text, keys[i : i + 1]) for i in range(22)]
    np.testing.assert_array_equal(np.concatenate(singly), expected)
    # In a graph, backwards, in batches of 5 (the last of 2) whose size the graph does not know.
    dataset = tf.data.Dataset.from_tensor_slices((pictures[::-1], keys[::-1].astype(np.int32)))
    dataset = dataset.batch(5).map(lambda x, k: augment(x, k, parse(text)), num_parallel_calls=2)
    assert dataset.element_spec == tf.TensorSpec((None, 12, 12, 3), tf.uint8)
    in_graph = np.concatenate(list(dataset.as_numpy_iterator()))
    np.testing.assert_array_equal(in_graph[::-1], expected)


@pytest.mark.parametrize("text", ALL_TEXTS)
@pytest.mark.parametrize("number", [0, 1, 2], ids=["seed", "epoch", "index"])
def test_augment_differs_when_any_number_of_the_key_differs(text, number):
    pictures = np.repeat(make_pictures(1), 8, axis=0)
    keys = np.zeros((8, 3), np.int64)
    keys[:, number] = np.arange(8)
    results = run(pictures, text, keys)
    assert len({result.tobytes() for result in results}) >= 6


def test_augment_does_not_touch_pictures_when_nothing_is_asked_for():
    pictures = tf.constant(make_pictures(2))
    assert augment(pictures, tf.constant(make_keys(2)), parse("none")) is pictures


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("text", [EVERYTHING, "randaugment:2"])
def test_augment_keeps_shape_and_dtype(text, channels):
    graph = tf.function(augment)  # which contains every operation of RandAugment, drawn or not
    pictures, keys = make_pictures(3, 10, 14, channels), make_keys(3)
    result = graph(tf.constant(pictures), tf.constant(keys), parse(text))
    assert (result.shape, result.dtype) == (pictures.shape, tf.uint8)


def test_shift_moves_right_and_down_by_its_part_of_the_side(monkeypatch):
    pictures = make_pictures(1, 10, 20)
    fix_draws(monkeypatch, SHIFT_X=0.5, SHIFT_Y=-0.5)
    expected = np.zeros_like(pictures)
    expected[:, :8, 4:] = pictures[:, 2:, :16]
    np.testing.assert_array_equal(run(pictures, "shift:0.4"), expected)


def test_shift_never_goes_beyond_its_part_of_the_side():
    picture = np.zeros((21, 41, 1), np.uint8)
    picture[10, 20] = 255
    result = run(np.repeat(picture[None], 500, axis=0), "shift:0.1")[..., 0].astype(float)
    for axis, center, limit in ((1, 10, 2.1), (2, 20, 4.1)):
        line = result.sum(axis=3 - axis)
        moved = (line * np.arange(line.shape[1])).sum(axis=1) / line.sum(axis=1) - center
        assert np.abs(moved).max() < limit + 0.05  # grey levels are whole numbers
        assert moved.min() < -0.9 * limit
        assert moved.max() > 0.9 * limit
        assert np.std(moved) == pytest.approx(limit / np.sqrt(3), rel=0.1)


def test_rotate_turns_counter_clockwise_about_the_center(monkeypatch):
    pictures = make_pictures(2)
    fix_draws(monkeypatch, ROTATE=0.5)
    np.testing.assert_array_equal(run(pictures, "rotate:0.5"), np.rot90(pictures, axes=(1, 2)))


def test_zoom_shows_its_part_of_the_side(monkeypatch):
    picture = np.zeros((1, 20, 20, 1), np.uint8)
    picture[:, 7:13, 7:13] = 255
    for part, side in ((-1, 12), (0, 6), (0.999999, 4)):
        fix_draws(monkeypatch, ZOOM=part)
        result = run(picture, "zoom:0.5")[0, :, :, 0]
        assert np.count_nonzero(result[10] > 127) == side
        np.testing.assert_array_equal(result, result[::-1, ::-1])


def test_interpolation_rounds_to_the_nearest_level(monkeypatch):
    picture = np.array([0, 3, 0, 200, 101, 0], np.uint8).reshape(1, 1, 6, 1)
    fix_draws(monkeypatch, SHIFT_X=0.5)
    # A shift of a quarter pixel: three quarters of each pixel and a quarter of its left one.
    expected = [0, 2, 1, 150, 126, 25]
    assert run(picture, f"shift:{0.5 / 6}").ravel().tolist() == expected


def test_flip_mirrors_half_of_the_pictures():
    pictures = make_pictures(1000, 4, 5)
    result = run(pictures, "flip")
    flipped = (result == pictures[:, :, ::-1]).all(axis=(1, 2, 3))
    untouched = (result == pictures).all(axis=(1, 2, 3))
    assert (flipped ^ untouched).all()
    assert 450 < flipped.sum() < 550


def test_crop_cuts_every_window_out_of_the_padded_picture():
    pictures = np.repeat(make_pictures(1, 8, 6), 400, axis=0)
    padded = np.pad(pictures[0], ((2, 2), (2, 2), (0, 0)))
    windows = [padded[y : y + 8, x : x + 6].tobytes() for y in range(5) for x in range(5)]
    found = [windows.index(result.tobytes()) for result in run(pictures, "crop:2")]
    assert np.bincount(found, minlength=25).min() >= 4


def test_crop_refuses_to_lose_the_picture():
    with pytest.raises(UsageError, match="crop:8 .* 8 x 9 pixels. .* less than crop:8"):
        run(make_pictures(1, 8, 9), "crop:8")


def test_flip_leaves_the_draws_of_crop_alone():
    half = make_pictures(50, 12, 6)
    symmetric = np.concatenate([half, half[:, :, ::-1]], axis=2)
    np.testing.assert_array_equal(run(symmetric, "crop:3"), run(symmetric, "flip,crop:3"))


def test_color_leaves_grey_pictures_grey():
    pictures = np.repeat(make_pictures(50, channels=1), 3, axis=-1)
    result = run(pictures, "color:0.8")
    assert (result != pictures).any()
    np.testing.assert_array_equal(result, np.repeat(result[..., :1], 3, axis=-1))


def test_color_does_the_same_to_one_channel_as_to_three_equal_ones():
    pictures = make_pictures(20, channels=1)
    colored = run(np.repeat(pictures, 3, axis=-1), "color:0.8")
    np.testing.assert_array_equal(run(pictures, "color:0.8"), colored[..., :1])


def test_color_changes_brightness_contrast_and_saturation(monkeypatch):
    pictures = make_pictures(1)
    grey = pictures @ np.array([77, 150, 29]) / 256
    fix_draws(monkeypatch, BRIGHTNESS=-0.4)
    np.testing.assert_array_equal(
        run(pictures, "color:0.5"), np.maximum(pictures.astype(int) - 51, 0)
    )
    fix_draws(monkeypatch, BRIGHTNESS=0.8)
    np.testing.assert_array_equal(
        run(pictures, "color:1"), np.minimum(pictures.astype(int) + 204, 255)
    )
    fix_draws(monkeypatch, SATURATION=-1)
    np.testing.assert_array_equal(
        run(pictures, "color:1"), np.repeat(np.floor(grey + 0.5)[..., None], 3, axis=-1)
    )
    fix_draws(monkeypatch, CONTRAST=-0.5)
    halved = (pictures + grey.mean()) / 2
    np.testing.assert_allclose(run(pictures, "color:1"), halved, atol=0.501)


@pytest.mark.parametrize("text", ["color:0.1", "randaugment:1"])
def test_augment_refuses_two_channels(text):
    with pytest.raises(ValueError, match="1 or 3 channels"):
        run(make_pictures(1, channels=2), text)


def test_randaugment_applies_the_layers_of_keras_one_after_the_other(monkeypatch):
    contrast, equalize = keras.layers.AutoContrast(), keras.layers.Equalization()
    pictures = make_pictures(3) // 2
    first, second = contrast(pictures), [equalize(picture[None])[0] for picture in pictures]
    assert (np.asarray(first) != pictures).any()
    for operations, expected in ((["auto_contrast"], first), (["equalization"], second)):
        fix_draws(monkeypatch, *operations)
        np.testing.assert_allclose(run(pictures, "randaugment:1"), expected, atol=0.501)
    fix_draws(monkeypatch, "auto_contrast", "equalization")
    both = [equalize(picture[None])[0] for picture in np.asarray(first)]
    np.testing.assert_allclose(run(pictures, "randaugment:2"), both, atol=0.501)


def test_randaugment_draws_every_strength_anew(monkeypatch):
    picture = make_pictures(1, channels=1).astype(int)
    picture = ((picture + picture.swapaxes(1, 2)) // 2).astype(np.uint8)
    fix_draws(monkeypatch, "random_translation")
    result = run(picture, "randaugment:1")
    # The same move in x and y would leave a picture symmetric that is.
    assert (result != result.swapaxes(1, 2)).any()


def test_randaugment_names_every_operation_of_keras():
    assert list(augment_module.RANDAUGMENT_LAYERS) == keras.layers.RandAugment._AUGMENT_LAYERS


def test_randaugment_gives_the_pictures_of_a_batch_different_operations():
    pictures = np.repeat(make_pictures(1) // 2, 200, axis=0)
    results = run(pictures, "randaugment:1")
    equalized = np.asarray(keras.layers.Equalization()(pictures[:1]))
    share = (results == equalized).all(axis=(1, 2, 3)).mean()
    assert 0.03 < share < 0.16  # one operation of eleven
    assert len({result.tobytes() for result in results}) > 100


def test_randaugment_grows_with_its_magnitude():
    pictures = make_pictures(60, 16, 16)
    weak, strong = (
        (run(pictures, f"randaugment:1:{magnitude}") != pictures).any(axis=(1, 2, 3)).mean()
        for magnitude in (0, 1)
    )
    assert weak < strong


def test_randaugment_ignores_the_random_state_of_the_process():
    pictures = make_pictures(10)
    results = []
    for seed in (1, 2):
        keras.utils.set_random_seed(seed)
        augment_module._randaugment_layer.cache_clear()
        results.append(run(pictures, "randaugment:3"))
    np.testing.assert_array_equal(*results)


def ramp(size: int) -> np.ndarray:
    """A picture whose channels are the positions of its pixels: 4 x and 4 y."""
    rows, columns = np.mgrid[:size, :size] * 4
    return np.stack([columns, rows, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def test_resized_crop_fills_the_image_with_a_window_of_the_wanted_size(monkeypatch) -> None:
    fix_draws(monkeypatch, AREA=-1.0, ASPECT=0.0, LEFT=0.0, TOP=-1.0)
    shown = augment(ramp(60)[None], make_keys(1), parse("resized_crop:0.25"), 30).numpy()[0]
    # A quarter of the area, in the middle of the left and right and at the top: 30 of 60 pixels.
    np.testing.assert_array_equal(shown, ramp(60)[:30, 15:45])


def test_resized_crop_has_the_areas_aspects_and_places_that_it_says() -> None:
    size, count = 64, 4000
    image = ramp(size).astype(np.float64)
    images = np.repeat(image[None].astype(np.uint8), count, axis=0)
    shown = (
        augment(images, make_keys(count), parse("resized_crop:0.3"), 32).numpy().astype(np.float64)
    )
    # The slope of the ramp is the window's side in pixels over the output's.
    width = (shown[:, 0, -2, 0] - shown[:, 0, 1, 0]) / 4 / 29 * 32 / size
    height = (shown[:, -2, 0, 1] - shown[:, 1, 0, 1]) / 4 / 29 * 32 / size
    area = width * height
    assert 0.29 < area.min() < 0.33 and area.max() <= 1.02
    # Windows of large area are cut to the image's sides, so their area is a little less.
    small = area[area < 0.5]
    assert abs(len(small) / count - 0.2 / 0.7) < 0.04
    ratio = np.log(width / height)[area < 0.5]
    assert abs(ratio.mean()) < 0.02 and abs(ratio.std() - np.log(4 / 3) / np.sqrt(3)) < 0.02
    left = shown[:, 0, 1, 0] / 4 - 1.5 * width * size / 32 + 0.5
    place = left[area < 0.5] / (size * (1 - width[area < 0.5]))
    assert abs(place.mean() - 0.5) < 0.03 and abs(place.std() - 1 / np.sqrt(12)) < 0.03


def test_resized_crop_of_the_whole_area_and_no_aspect_is_a_plain_resize(monkeypatch) -> None:
    fix_draws(monkeypatch, AREA=0.7, ASPECT=0.0)
    image = ramp(40)[None]
    np.testing.assert_array_equal(
        augment(image, make_keys(1), parse("resized_crop:1")).numpy(), image
    )


def test_resized_crop_leaves_the_draws_of_other_operations(monkeypatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    alone = augment(images, make_keys(6), parse("color:0.3")).numpy()
    fake = parse("color:0.3,resized_crop:1")
    monkeypatch.setattr(augment_module, "MAX_ASPECT", 1.0)
    np.testing.assert_array_equal(augment(images, make_keys(6), fake).numpy(), alone)
