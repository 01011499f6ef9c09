import dataclasses
import functools
import hashlib
import http.server
import importlib
import socket
import threading
import time

import keras
import numpy as np
import pytest
from made import sweep

from tl_keras.errors import DataError
from tl_keras.models import applications, catalog
from tl_keras.models.building import build, find_head, named_weights

APPLICATIONS = [name for name, entry in catalog.MODELS.items() if entry.function]
FAST = ("vgg16", "mobilenet_v2_035", "resnet50")


def make(name, size=32, seed=1, weights=None):
    return build(
        name,
        10,
        image_size=size,
        input_channels=3,
        body_channels=3,
        dense_units=8,
        seed=seed,
        weights=weights,
    )


def pictures(size, count=2):
    shape = (count, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def function(name):
    entry = catalog.find(name)
    return functools.partial(getattr(keras.applications, entry.function), **entry.arguments)


def preprocessed(name, images):
    """Return what Keras's own preprocessing makes of images, which it would change in place."""
    module = importlib.import_module(function(name).func.__module__)
    return module.preprocess_input(images.astype(np.float32))


def stock(name, size, weights=None):
    return function(name)(
        include_top=False, weights=weights, pooling="avg", input_shape=(size, size, 3)
    )


@pytest.mark.parametrize("name", sweep(APPLICATIONS, fast=FAST))
def test_preprocess_is_that_of_keras(name):
    images = pictures(8)
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    outputs = applications.preprocess(inputs, catalog.find(name).preprocessing)
    found = keras.Model(inputs, outputs)(images)
    assert np.allclose(found, preprocessed(name, images), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    sweep(
        ["vgg16", "densenet121", "mobilenet_v3_small", "efficientnet_v2_b0", "convnext_tiny"],
        fast=["vgg16", "mobilenet_v3_small"],
    ),
)
def test_features_are_those_of_keras(name):
    ours, theirs = make(name), stock(name, 32)
    theirs.set_weights(ours.get_weights()[:-2])
    images = pictures(32)
    assert np.allclose(
        ours(images)["features"], theirs(preprocessed(name, images)), rtol=1e-4, atol=1e-5
    )


@pytest.mark.slow
def test_efficientnet_is_one_architecture_fresh_and_pretrained(tmp_path, monkeypatch):
    images = pictures(32)
    fresh = make("efficientnet_b0")
    network = stock("efficientnet_b0", 32)
    network.set_weights(fresh.get_weights()[:-2])
    # The published files hold the deviation in the variance's place.
    network.layers[2].adapt_variance.assign([0.229, 0.224, 0.225])
    path = tmp_path / "models" / "efficientnetb0_notop.h5"
    path.parent.mkdir()
    save_legacy(network, path)
    keras_files = importlib.import_module("keras.src.utils.file_utils")
    monkeypatch.setattr(keras_files, "get_file", lambda *_, **__: str(path))
    theirs = stock("efficientnet_b0", 32, weights="imagenet")(images)
    accept(monkeypatch, "efficientnet_b0", path)
    pretrained = make("efficientnet_b0", weights="imagenet")
    assert [one.name for one in fresh.layers] == [one.name for one in pretrained.layers]
    assert np.allclose(pretrained(images)["features"], theirs, rtol=1e-4, atol=1e-5)
    assert np.allclose(fresh(images)["features"], theirs, rtol=1e-4, atol=1e-5)


def save_legacy(network, path):
    """Write the HDF5 form of the published weights, which Keras 3 writes as part of a model."""
    network.save(path, include_optimizer=False)


def accept(monkeypatch, name, path, **changes):
    """Make the catalog expect the file at `path`, in a KERAS_HOME two folders up."""
    entry = catalog.find(name)
    changes.setdefault("weights_hash", hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setitem(catalog.MODELS, name, dataclasses.replace(entry, **changes))
    monkeypatch.setenv("KERAS_HOME", str(path.parents[1]))


@pytest.mark.parametrize(
    "name", sweep(["mobilenet_025", "mobilenet_v2_035"], fast=["mobilenet_025"])
)
def test_imagenet_weights_give_the_features_of_keras(name, shared_data, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(shared_data / "keras_home"))
    ours = make(name, 224, weights="imagenet")
    path = shared_data / "keras_home" / "models" / catalog.find(name).weights_file(224)
    images = photographs(shared_data)
    wanted = stock(name, 224, weights=str(path))(preprocessed(name, images))
    assert np.allclose(ours(images)["features"], wanted, rtol=1e-4, atol=1e-4)
    fresh = make(name, 224)
    assert np.array_equal(find_head(ours).kernel, find_head(fresh).kernel)
    assert list(named_weights(ours)) == list(named_weights(fresh))


def photographs(shared_data):
    files = [shared_data / "pictures" / f"check_{name}.jpg" for name in ("quail", "cat")]
    return np.stack([np.asarray(keras.utils.load_img(f, target_size=(224, 224))) for f in files])


def test_imagenet_weights_recognise_a_quail(shared_data, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(shared_data / "keras_home"))
    features = make("mobilenet_025", 224, weights="imagenet")(photographs(shared_data))["features"]
    path = shared_data / "keras_home" / "models" / "mobilenet_2_5_224_tf.h5"
    whole = keras.applications.MobileNet(alpha=0.25, weights=str(path))
    kernel, bias = whole.get_layer("conv_preds").get_weights()
    chances = keras.ops.softmax(features @ kernel[0, 0] + bias).numpy()
    quail, persian_cat = 85, 283
    assert chances.argmax(axis=1).tolist() == [quail, persian_cat]
    assert chances[0, quail] > 0.99


class Asked(Exception):  # noqa: N818
    """Carries what Keras asks its downloader for."""


@pytest.fixture
def no_values():
    """Give weights shapes and no memory; Keras would fill them in later if it did not forget."""
    with keras.StatelessScope(initialize_variables=False):
        yield
    keras.utils.clear_session()


@pytest.mark.parametrize("name", sweep(APPLICATIONS, fast=FAST))
def test_weights_file_is_the_one_keras_asks_for(name, monkeypatch, no_values):
    def get_file(fname, origin, cache_subdir, file_hash=None):
        raise Asked(fname, origin, cache_subdir, file_hash or "")

    keras_files = importlib.import_module("keras.src.utils.file_utils")
    monkeypatch.setattr(keras_files, "get_file", get_file)
    entry = catalog.find(name)
    for size in {entry.image_size, *entry.weights_sizes[:1]}:
        with pytest.raises(Asked) as asked:
            stock(name, size, weights="imagenet")
        wanted = (entry.weights_file(size), entry.weights_url(size), "models", entry.weights_hash)
        assert asked.value.args == wanted


@pytest.mark.parametrize("name", sweep(APPLICATIONS, fast=FAST))
def test_catalog_has_the_sizes_of_keras(name, monkeypatch):
    def obtain_input_shape(shape, default_size, min_size, **_):
        raise Asked(default_size, min_size)

    module = importlib.import_module("keras.src.applications.imagenet_utils")
    monkeypatch.setattr(module, "obtain_input_shape", obtain_input_shape)
    entry = catalog.find(name)
    if "MobileNetV3" in entry.function:  # the one family that has its sizes in its own code
        with pytest.raises(ValueError, match="at least 32x32"):
            stock(name, 31)
        assert (entry.image_size, entry.min_size) == (224, 32)
    else:
        with pytest.raises(Asked) as asked:
            function(name)(weights=None)
        assert asked.value.args == (entry.image_size, entry.min_size)


def test_weights_file_says_which_file_goes_where(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/vgg16.h5"
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    entry = dataclasses.replace(catalog.find("vgg16"), weights=url)
    monkeypatch.setitem(catalog.MODELS, "vgg16", entry)
    with pytest.raises(DataError) as error:
        make("vgg16", weights="imagenet")
    message = str(error.value)
    assert "\n" not in message
    for part in ("--model=vgg16", "vgg16.h5", url, "refused", str(tmp_path / "models")):
        assert part in message


def test_weights_file_does_not_wait_for_a_silent_server(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(applications, "TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/vgg16.h5"
        entry = dataclasses.replace(catalog.find("vgg16"), weights=url)
        start = time.monotonic()
        with pytest.raises(DataError, match=r"no answer within 0.3 seconds|timed out"):
            applications.find_weights_file("vgg16", entry, 224)
    assert time.monotonic() - start < 2


def test_weights_file_names_a_size_whose_weights_are_there(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(applications, "_find_download_problem", lambda url: "no network")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mobilenet_2_5_224_tf_no_top.h5").touch()
    entry = catalog.find("mobilenet_025")
    with pytest.raises(DataError, match="mobilenet_2_5_128_.*, or choose --image_size=224"):
        applications.find_weights_file("mobilenet_025", entry, 128)
    assert applications.find_weights_file("mobilenet_025", entry, 100).name.startswith(
        "mobilenet_2_5_2"
    )


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Serve a folder on this machine, and return it with its address."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    folder = tmp_path / "store"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def test_weights_file_downloads_once_and_checks(store, tmp_path, monkeypatch):
    folder, address = store
    content = b"weights"
    (folder / "vgg16.h5").write_bytes(content)
    home = tmp_path / "new" / "home"
    monkeypatch.setenv("KERAS_HOME", str(home))
    entry = dataclasses.replace(
        catalog.find("vgg16"),
        weights=address + "vgg16.h5",
        weights_hash=hashlib.md5(content).hexdigest(),
    )
    path = applications.find_weights_file("vgg16", entry, 224)
    assert path == home / "models" / "vgg16.h5"
    assert path.read_bytes() == content
    (folder / "vgg16.h5").unlink()
    assert applications.find_weights_file("vgg16", entry, 224) == path
    path.write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"vgg16.h5 is damaged, .*--model=vgg16. Remove it"):
        applications.find_weights_file("vgg16", entry, 224)


def test_weights_file_keeps_no_damaged_download(store, tmp_path, monkeypatch):
    folder, address = store
    (folder / "vgg16.h5").write_bytes(b"something else")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    entry = dataclasses.replace(catalog.find("vgg16"), weights=address + "vgg16.h5")
    with pytest.raises(DataError, match="cannot be downloaded .*hash does not match"):
        applications.find_weights_file("vgg16", entry, 224)
    assert not list((tmp_path / "models").iterdir())
    missing = dataclasses.replace(entry, weights=address + "missing.h5")
    with pytest.raises(DataError, match="cannot be downloaded .*File not found"):
        applications.find_weights_file("vgg16", missing, 224)


def test_build_loads_weights_from_a_file_of_the_published_form(tmp_path, monkeypatch):
    network = stock("vgg16", 32)
    path = tmp_path / "models" / catalog.find("vgg16").weights_file(224)
    path.parent.mkdir()
    save_legacy(network, path)
    accept(monkeypatch, "vgg16", path)
    model = make("vgg16", weights="imagenet")
    for found, wanted in zip(model.get_weights()[:-2], network.get_weights(), strict=True):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("content", ["noise", "truncated", "another network"])
def test_build_refuses_a_damaged_weights_file(content, tmp_path, monkeypatch):
    path = tmp_path / "models" / catalog.find("mobilenet_025").weights_file(32)
    path.parent.mkdir()
    save_legacy(stock("mobilenet" if content == "another network" else "mobilenet_025", 32), path)
    if content == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-100_000])
    accept(monkeypatch, "mobilenet_025", path, weights_hash="")
    with pytest.raises(DataError, match=r"2_5_224_tf_no_top.h5 does not hold the weights") as error:
        make("mobilenet_025", weights="imagenet")
    assert "\n" not in str(error.value)
