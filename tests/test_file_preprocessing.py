"""Files of others whose networks prepare their images themselves: our features are theirs."""

import importlib
import itertools
import logging

import keras
import numpy as np
import pytest
from made import program, sweep

from tl_keras.config import Config
from tl_keras.errors import DataError, UsageError
from tl_keras.experiment import source
from tl_keras.models import building, catalog, model_file, weights
from tl_keras.models.weights import Origin
from tl_keras.models.weights_file import WeightsFile

L = keras.layers
SIZE = 32


def images(channels: int = 3, size: int = SIZE) -> np.ndarray:
    shape = (4, size, size, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def ours(path, name: str, channels: int = 3, body: int = 3, size: int = SIZE, **flags):
    """Return our model with what a file brings, as an experiment builds it."""
    config = Config(source_weights=str(path), model=name, **flags)
    file = source.open_weights_file(config)
    prepared = source.choose_preprocessing(config, file)
    model = building.build(
        name,
        3,
        image_size=size,
        input_channels=channels,
        body_channels=body,
        dense_units=8,
        seed=1,
        preprocessing=prepared,
    )
    weights.copy(file.read(model), model, ("a", "b", "c"), "new", "--source_weights")
    return model, prepared


def assert_features(model, expected: np.ndarray, pixels: np.ndarray) -> None:
    """Compare within 1e-5 of the features' scale."""
    found = np.asarray(model(pixels)["features"])
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def assert_survives(model, prepared, name, path, pixels, expected) -> None:
    """See that our own files keep the preprocessing: opened by Keras alone, and as a source."""
    origin = Origin("pictures", ("a", "b", "c"), name, SIZE, 3, preprocessing=prepared)
    own = path.with_name("own.keras")
    model_file.save(own, model, origin)
    assert_features(keras.models.load_model(own), expected, pixels)
    again, prepared_again = ours(own, name)
    assert_features(again, expected, pixels)
    assert prepared_again == prepared
    weights.save(path.with_name("own.weights.h5"), weights.get_tensors(model), origin)
    assert_features(ours(path.with_name("own.weights.h5"), name)[0], expected, pixels)


def randomised(network):
    """Give a network weights that let every channel through, and differ from each other."""
    random = np.random.default_rng(0)
    for variable in network.weights:
        if "count" in variable.name or variable.path.endswith(("normalization/mean",)):
            continue
        if variable.name in ("moving_variance", "gamma"):
            variable.assign(random.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("moving_mean", "beta", "bias"):
            variable.assign(random.normal(0, 0.1, variable.shape))
        elif "kernel" in variable.name:
            fan_in = np.prod(variable.shape[:3] if "depth" not in variable.path else (3, 3))
            variable.assign(random.normal(0, (1.0 / fan_in) ** 0.5, variable.shape))
    return network


@pytest.fixture(scope="module")
def mobilenet(shared_data_module):
    """Keras's MobileNet with its weights of ImageNet."""
    path = shared_data_module / "keras_home" / "models" / "mobilenet_2_5_224_tf_no_top.h5"
    return keras.applications.MobileNet(
        alpha=0.25, include_top=False, weights=str(path), input_shape=(SIZE, SIZE, 3)
    )


@pytest.fixture(scope="module")
def shared_data_module():
    """The folder of weights, for fixtures of a module."""
    from conftest import SHARED_DATA

    if not SHARED_DATA.is_dir():
        pytest.skip(f"there is no {SHARED_DATA}")
    return SHARED_DATA


def sequential(scaling, network, path):
    model = keras.Sequential(
        [keras.Input((SIZE, SIZE, 3)), *scaling, network, L.GlobalAveragePooling2D(), L.Dense(3)]
    )
    model.save(path)
    return keras.Model(model.inputs, model.layers[-2].output)


def functional(scaling, network, path):
    inputs = x = keras.Input((SIZE, SIZE, 3))
    for layer in scaling:
        x = layer(x)
    features = L.GlobalAveragePooling2D()(network(x))
    keras.Model(inputs, L.Dense(3)(features)).save(path)
    return keras.Model(inputs, features)


def nested(scaling, network, path):
    """Save a preprocessing and a network as models of their own, inside of a third."""
    prepare = keras.Sequential([keras.Input((SIZE, SIZE, 3)), L.RandomFlip(), *scaling])
    inner = keras.Input((SIZE, SIZE, 3))
    extractor = keras.Model(inner, L.GlobalAveragePooling2D()(network(prepare(inner))))
    model = keras.Sequential([keras.Input((SIZE, SIZE, 3)), extractor, L.Dropout(0.5), L.Dense(3)])
    model.save(path)
    return extractor


RESCALINGS = [
    pytest.param((1 / 255, 0.0), marks=pytest.mark.slow),
    pytest.param((1 / 127.5, -1.0)),
]
forms = pytest.mark.parametrize("form", sweep([sequential, functional, nested], fast=[nested]))


@forms
@pytest.mark.parametrize("scaling", RESCALINGS)
def test_mobilenet_behind_a_rescaling(form, scaling, mobilenet, tmp_path):
    path, pixels = tmp_path / "a.keras", images()
    theirs = form([L.Rescaling(*scaling)], mobilenet, path)
    model, prepared = ours(path, "mobilenet_025")
    expected = theirs.predict(pixels.astype("float32"), verbose=0)
    assert_features(model, expected, pixels)
    assert (prepared is None) == (scaling[1] == -1)
    assert_survives(model, prepared, "mobilenet_025", path, pixels, expected)


@pytest.mark.parametrize("module", sweep(["mobilenet", "resnet50", "densenet"], fast=["resnet50"]))
def test_mobilenet_behind_preprocess_input(module, mobilenet, tmp_path):
    """The operations on tensors that Keras's functions leave in a model."""
    prepare = importlib.import_module(f"keras.applications.{module}").preprocess_input
    path, pixels = tmp_path / "a.keras", images()
    theirs = functional([prepare], mobilenet, path)
    model, prepared = ours(path, "mobilenet_025")
    expected = theirs.predict(pixels.astype("float32"), verbose=0)
    assert_features(model, expected, pixels)
    assert (prepared is None) == (module == "mobilenet")
    assert_survives(model, prepared, "mobilenet_025", path, pixels, expected)


@pytest.mark.parametrize("ending", sweep(["keras", "h5"], fast=["keras"]))
def test_resnet_behind_a_rescaling(ending, tmp_path):
    network = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(SIZE, SIZE, 3)
    )
    path, pixels = tmp_path / f"a.{ending}", images()
    theirs = sequential([L.Rescaling(1 / 255)], randomised(network), path)
    model, _ = ours(path, "resnet50")
    assert_features(model, theirs.predict(pixels.astype("float32"), verbose=0), pixels)


def test_normalization_with_tensors_of_its_own(mobilenet, tmp_path):
    scaling = L.Normalization()
    scaling.adapt(np.random.default_rng(1).normal([100, 110, 120], [70, 60, 50], (200, 4, 4, 3)))
    path, pixels = tmp_path / "a.keras", images()
    theirs = nested([scaling], mobilenet, path)
    model, prepared = ours(path, "mobilenet_025")
    assert len(prepared.scale) == 3
    expected = theirs.predict(pixels.astype("float32"), verbose=0)
    assert_features(model, expected, pixels)
    assert_survives(model, prepared, "mobilenet_025", path, pixels, expected)


def test_grey_input_with_arithmetic_and_reversed_channels(mobilenet, tmp_path):
    inputs = keras.Input((SIZE, SIZE, 1))
    x = L.Concatenate()([inputs] * 3)
    x = (255 - 2.0 * x[..., ::-1]) / np.array([30, 40, 50], "float32")
    features = L.GlobalAveragePooling2D()(mobilenet(x))
    keras.Model(inputs, L.Dense(3)(features)).save(tmp_path / "a.keras")
    pixels = images(1)
    model, _ = ours(tmp_path / "a.keras", "mobilenet_025", channels=1)
    theirs = keras.Model(inputs, features)
    assert_features(model, theirs.predict(pixels.astype("float32"), verbose=0), pixels)


def efficientnet():
    return randomised(
        keras.applications.EfficientNetB0(
            include_top=False, weights=None, input_shape=(SIZE, SIZE, 3), pooling="avg"
        )
    )


@pytest.mark.slow
def test_efficientnet_whose_normalization_is_the_identity(tmp_path, caplog):
    network, path, pixels = efficientnet(), tmp_path / "a.keras", images()
    network.save(path)
    with caplog.at_level(logging.INFO):
        model, prepared = ours(path, "efficientnet_b0")
    assert "has the preprocessing 0.00392156863:0" in caplog.text
    expected = network.predict(pixels.astype("float32"), verbose=0)
    assert_features(model, expected, pixels)
    assert_survives(model, prepared, "efficientnet_b0", path, pixels, expected)


@pytest.mark.slow
def test_efficientnet_as_keras_builds_it_with_weights_of_imagenet(tmp_path, monkeypatch):
    """Its files have deviations as variances, which one more Rescaling mends."""
    network = efficientnet()
    network.layers[2].adapt_mean.assign([0.485, 0.456, 0.406])
    network.layers[2].adapt_variance.assign([0.229, 0.224, 0.225])
    network.save(tmp_path / "notop.h5", include_optimizer=False)
    files = importlib.import_module("keras.src.utils.file_utils")
    monkeypatch.setattr(files, "get_file", lambda *_, **__: str(tmp_path / "notop.h5"))
    theirs = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(SIZE, SIZE, 3), pooling="avg"
    )
    assert sum(isinstance(one, L.Rescaling) for one in theirs.layers) == 2
    theirs.save(tmp_path / "a.keras")
    model, prepared = ours(tmp_path / "a.keras", "efficientnet_b0")
    assert prepared is None
    pixels = images()
    assert_features(model, theirs.predict(pixels.astype("float32"), verbose=0), pixels)
    # The same again, behind another Rescaling of its user's.
    outer = keras.Sequential([keras.Input((SIZE, SIZE, 3)), L.Rescaling(0.5, 3.0), theirs])
    outer.save(tmp_path / "b.keras")
    model, prepared = ours(tmp_path / "b.keras", "efficientnet_b0")
    assert_features(model, outer.predict(pixels.astype("float32"), verbose=0), pixels)


def test_mobilenet_v2_as_the_guide_of_keras_has_it(shared_data, tmp_path, caplog):
    name = catalog.find("mobilenet_v2_035").weights_file(224)
    base = keras.applications.MobileNetV2(
        alpha=0.35,
        input_shape=(160, 160, 3),
        include_top=False,
        weights=str(shared_data / "keras_home" / "models" / name),
    )
    base.trainable = False
    inputs = keras.Input((160, 160, 3))
    x = keras.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.1)])(inputs)
    x = L.Rescaling(scale=1 / 127.5, offset=-1)(x)
    x = L.GlobalAveragePooling2D()(base(x, training=False))
    features = L.Dropout(0.2)(x)
    keras.Model(inputs, L.Dense(1)(features)).save(tmp_path / "a.keras")
    with caplog.at_level(logging.INFO):
        model, prepared = ours(tmp_path / "a.keras", "mobilenet_v2_035", size=160)
    assert prepared is None
    assert "skipped random_flip" in caplog.text and "random_rotation" in caplog.text
    pixels = images(size=160)
    theirs = keras.Model(inputs, features)
    assert_features(model, theirs.predict(pixels.astype("float32"), verbose=0), pixels)


def test_own_architecture_with_and_without_a_scale(tmp_path):
    """A network that says nothing of pixels sees 0 to 1, as ours do."""
    for scaling in ([], [L.Rescaling(1 / 100, 0.5)]):
        model = keras.Sequential(
            [
                *(keras.Input((8, 8, 1)), *scaling),
                *(L.Conv2D(32, 3, activation="relu", name="conv"), L.MaxPooling2D(), L.Flatten()),
                *(L.Dense(8, "relu", name="dense"), L.Dense(3, name="predictions")),
            ]
        )
        model.save(tmp_path / "a.keras")
        own, prepared = ours(tmp_path / "a.keras", "small_cnn", channels=1, body=1, size=8)
        assert (prepared is None) == (not scaling)
        theirs, pixels = keras.Model(model.inputs, model.layers[-2].output), images(1, 8)
        seen = pixels.astype("float32") * (1 if scaling else 1 / 255)
        assert_features(own, theirs.predict(seen, verbose=0), pixels)


def test_preprocessing_that_is_not_said_is_assumed_and_told(mobilenet, tmp_path, caplog):
    mobilenet.save(tmp_path / "a.keras")
    mobilenet.save_weights(tmp_path / "a.weights.h5")
    for path in (tmp_path / "a.keras", tmp_path / "a.weights.h5"):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            _, prepared = ours(path, "mobilenet_025")
        assert prepared is None
        assert "does not name its preprocessing. Assumed: 0.00784313725:-1" in caplog.text
    pixels, flags = images(), {"source_preprocessing": "0.00392156862745098:0"}
    model, _ = ours(tmp_path / "a.weights.h5", "mobilenet_025", **flags)
    expected = mobilenet.predict(pixels.astype("float32") / 255, verbose=0).mean((1, 2))
    assert_features(model, expected, pixels)


@pytest.mark.parametrize(
    "flag, fits", [("0.00392156862745098:0", True), ("tf", False), ("none", False)]
)
def test_flag_may_not_contradict_the_file(flag, fits, mobilenet, tmp_path):
    path = tmp_path / "a.keras"
    sequential([L.Rescaling(1 / 255)], mobilenet, path)
    if fits:
        assert ours(path, "mobilenet_025", source_preprocessing=flag)[1] is not None
        return
    with pytest.raises(UsageError) as caught:
        ours(path, "mobilenet_025", source_preprocessing=flag)
    told = str(caught.value)
    assert f"--source_preprocessing={flag} contradicts --source_weights={path}" in told
    assert "which says 0.00392156863:0" in told and "\n" not in told


def test_flag_may_not_contradict_our_own_file(tmp_path):
    model = building.build(
        "small_cnn", 3, image_size=8, input_channels=1, body_channels=1, dense_units=8
    )
    origin = Origin("letters", ("a", "b", "c"), "small_cnn", 8, 1)
    weights.save(tmp_path / "a.h5", weights.get_tensors(model), origin)
    with pytest.raises(UsageError, match="contradicts"):
        ours(tmp_path / "a.h5", "small_cnn", 1, 1, 8, source_preprocessing="none")


@pytest.mark.parametrize(
    "layers, words",
    [
        ([L.Resizing(64, 64, name="mine")], "preprocessing: 'mine', a Resizing, resizes to 64x64"),
        ([L.Resizing(64, 64)], ", a Resizing, resizes to 64x64"),
        ([L.CenterCrop(31, 31)], ", a CenterCrop, is not supported as preprocessing"),
        ([L.UnitNormalization()], ", a UnitNormalization, is no"),
        ([L.Rescaling(0.0)], "a scale of 0 is not between"),
        ([L.Rescaling(1e30)], "constants"),
        ([lambda x: keras.ops.sqrt(x)], ", a Sqrt, is not supported as preprocessing"),
        ([lambda x: x / keras.ops.max(x)], ", a Max, is not supported as preprocessing"),
        ([lambda x: keras.ops.take(x, [0, 2, 1], axis=-1)], "a Take"),
        ([lambda x: keras.ops.concatenate([x[..., 1:], x[..., :1]], -1)], "in the order 1, 2, 0"),
    ],
)
def test_preprocessing_that_is_not_understood_is_refused_by_name(layers, words, tmp_path):
    inputs = x = keras.Input((SIZE, SIZE, 3))
    for layer in layers:
        x = layer(x)
    network = keras.applications.MobileNet(alpha=0.25, include_top=False, weights=None)
    keras.Model(inputs, network(x)).save(tmp_path / "a.keras")
    with pytest.raises(DataError) as caught:
        ours(tmp_path / "a.keras", "mobilenet_025")
    told = str(caught.value)
    assert words in told and "--source_preprocessing" in told and "\n" not in told


def test_copy_report_leaves_out_the_constants_of_the_model(tmp_path):
    network = keras.applications.EfficientNetB0(include_top=False, weights=None)
    network.save_weights(tmp_path / "a.weights.h5")
    model = building.build(
        "efficientnet_b0", 3, image_size=SIZE, input_channels=3, body_channels=3, dense_units=8
    )
    found = WeightsFile(tmp_path / "a.weights.h5", "--source_weights").read(model)
    account = weights.copy(found, model, ("a", "b", "c"), "new", "--source_weights")
    assert "stem_conv/kernel" in account.copied
    assert not [name for name in account.copied if name.startswith("normalization/")]


@pytest.mark.slow
def test_experiment_trains_and_saves_with_the_preprocessing_of_the_file(mobilenet, tmp_path):
    """From the command line: frozen features are the user's, in both arms' files and once more."""
    theirs = sequential([L.Rescaling(1 / 255)], mobilenet, tmp_path / "a.keras")
    random = np.random.default_rng(0)
    for split, name, number in itertools.product(("train", "test"), "ab", range(4)):
        folder = tmp_path / "pictures" / split / name
        folder.mkdir(parents=True, exist_ok=True)
        picture = random.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        keras.utils.save_img(folder / f"{number}.png", picture, scale=False)
    flags = [
        *(f"--target=folder:{tmp_path / 'pictures'}", "--model=mobilenet_025", "--image_size=32"),
        *("--method=features", "--steps=2", "--batch_size=4", "--augment=none"),
        *("--validation=0", "--precision=float32"),
    ]

    def run(source_weights, workdir):
        words = [f"--source_weights={source_weights}", f"--workdir={workdir}", *flags]
        done = program("tl_keras.main", *words)
        assert done.returncode == 0, done.stderr
        return done.stderr

    told = run(tmp_path / "a.keras", tmp_path / "first")
    assert "has the preprocessing 0.00392156863:0, which all models here use" in told
    pixels = images()
    expected = theirs.predict(pixels.astype("float32"), verbose=0)
    model = keras.models.load_model(tmp_path / "first" / "transfer-0" / "model.keras")
    assert_features(model, expected, pixels)
    scratch = keras.models.load_model(tmp_path / "first" / "scratch-0" / "model.keras")
    assert scratch.get_layer("preprocess").scale == model.get_layer("preprocess").scale == 1 / 255
    run(tmp_path / "first" / "transfer-0" / "model.keras", tmp_path / "second")
    again = keras.models.load_model(tmp_path / "second" / "transfer-0" / "model.keras")
    assert_features(again, expected, pixels)
