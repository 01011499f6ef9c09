"""What is compared: one row each, with its goal. The table is the documentation.

The sizes of a round are such that two cores take a second or a few for it.
"""

from typing import Any, NamedTuple, Protocol

from experiments.benchmarks.accuracy import Accuracy
from experiments.benchmarks.from_files import FirstReading, SecondReading, Streaming
from experiments.benchmarks.growth import CACHED, Growth
from experiments.benchmarks.picture_files import Files
from experiments.benchmarks.speed import Comparison, Opponent
from experiments.benchmarks.transfer import Transfer
from experiments.benchmarks.turns import Pace

OURS = "experiments.benchmarks.ours"
KERAS = "experiments.benchmarks.peers_keras"
TORCH = "experiments.benchmarks.peers_torch"

SMALL_BATCH = 128
# Of the others, and Keras' default; ours takes the batch that its features come in anyway.
FEATURES_BATCH = 32
FINE_TUNING_BATCH = {96: 32, 224: 16}
QUICK = Pace(warmup=1, rounds=2)
# Width and height of picture files.
WEB, CAMERA = (500, 375), (4000, 3000)


class Row(Protocol):
    """One row of the results."""

    @property
    def name(self) -> str:
        """What --rows looks for."""

    def measure(self) -> dict[str, Any]:
        """Return the finding: ready for JSON, with the "row" and the "kind" it is shown by."""


class Work(NamedTuple):
    """An application, the side of its images in pixels, and how many of these are a round."""

    model: str
    size: int
    images: int


FEATURES = (
    Work("resnet50", 96, 256),
    Work("resnet50", 224, 64),
    Work("vgg16", 96, 128),
    Work("vgg16", 224, 32),
    Work("mobilenet_v2", 224, 128),
)
FINE_TUNING = (
    Work("resnet50", 96, 96),
    Work("resnet50", 224, 32),
    Work("vgg16", 96, 64),
    Work("vgg16", 224, 32),
)


def table(quick: bool) -> list[Row]:
    """Return all rows; or, quick, a few of each kind and small."""
    if quick:
        return [
            small_cnn(20, QUICK),
            features(Work("resnet50", 96, 64), QUICK),
            fine_tuning(Work("vgg16", 96, 32), Pace(0, 1)),
            last_layers("vgg16", 64, Pace(0, 1)),
            first_reading(Files(200, *WEB), 96, QUICK),
            first_reading(Files(24, *CAMERA), 224, QUICK),
            second_reading(1_000, Pace(0, 2)),
            streaming(64, 2, QUICK),
            transfer(200, Pace(0, 1)),
            Accuracy("accuracy of digits", "digits", ["--source_epochs=1"], seeds=(0,)),
            Growth("growth with images", "images", (200, 1000), 1, (CACHED,), rounds=1),
        ]
    return [
        small_cnn(160, Pace()),
        *(features(work, Pace()) for work in FEATURES),
        *(fine_tuning(work, Pace()) for work in FINE_TUNING),
        head_training("resnet50", 2500, 20, Pace(0, 5)),
        last_layers("resnet50", 1024, Pace(warmup=1, rounds=5)),
        *(
            first_reading(files, size, Pace(warmup=1, rounds=5))
            for files in (Files(1_000, *WEB), Files(48, *CAMERA))
            for size in (96, 224)
        ),
        second_reading(20_000, Pace(0, 5)),
        streaming(1_000, 20, Pace(warmup=1, rounds=5)),
        transfer(5_000, Pace(0, 3)),
        Accuracy("accuracy of digits", "digits"),
        Accuracy("accuracy of mnist_to_usps", "mnist_to_usps", ["--shots=10"]),
        Accuracy("accuracy of mobilenet_to_cifar10", "mobilenet_to_cifar10"),
        Growth("growth with images", "images", (1_000, 10_000, 60_000, 600_000), 1, rounds=2),
        Growth("growth with epochs", "epochs", (1, 2, 5, 10, 20), 5_000, rounds=2),
    ]


def small_cnn(steps: int, pace: Pace) -> Row:
    """Return the row on training the small CNN."""
    images = steps * SMALL_BATCH
    peer = {"images": images, "batch_size": SMALL_BATCH}
    return Comparison(
        "small CNN, training",
        f"an epoch of {images} images of 28 px, batch {SMALL_BATCH}, Adam, shuffled",
        f"{OURS}:train",
        {
            **{"images": images, "size": 28, "channels": 1, "steps": steps},
            "flags": {
                **{"model": "small_cnn", "dense_units": 128, "batch_size": SMALL_BATCH},
                **{"optimizer": "adam", "learning_rate": 1e-3},
            },
        },
        [
            Opponent("Keras fit, arrays", 2.0, f"{KERAS}:train_small_cnn", peer | {"chain": False}),
            Opponent("Keras fit, tf.data", 1.2, f"{KERAS}:train_small_cnn", peer | {"chain": True}),
            Opponent("PyTorch eager, float32", 2.0, f"{TORCH}:train_small_cnn", peer),
        ],
        pace,
    )


def features(work: Work, pace: Pace) -> Row:
    """Return a row on computing frozen features; MobileNet has neither a goal nor a PyTorch."""
    known = work.model != "mobilenet_v2"
    peer = {"name": work.model, "images": work.images, "size": work.size}
    peer["batch_size"] = FEATURES_BATCH
    opponents = [Opponent("Keras predict", 3.0 if known else 0.0, f"{KERAS}:features", peer)]
    if known:
        opponents.append(Opponent("PyTorch, bfloat16", 1.8, f"{TORCH}:features", peer))
    return Comparison(
        f"{work.model}, frozen features, {work.size} px",
        f"pooled features of {work.images} images",
        f"{OURS}:features",
        {"images": work.images, "size": work.size, "flags": {"model": work.model}},
        opponents,
        pace,
    )


def fine_tuning(work: Work, pace: Pace) -> Row:
    """Return a row on training all weights of an application."""
    batch_size = FINE_TUNING_BATCH[work.size]
    peer = {"name": work.model, "images": work.images, "size": work.size}
    peer |= {"batch_size": batch_size, "momentum": 0.9}
    flags = {"model": work.model, "batch_size": batch_size, "optimizer": "sgd", "momentum": 0.9}
    images = {"images": work.images, "size": work.size, "channels": 3}
    return Comparison(
        f"{work.model}, fine-tuning, {work.size} px",
        f"an epoch of {work.images} images, batch {batch_size}, SGD with momentum 0.9, all weights",
        f"{OURS}:train",
        {**images, "steps": work.images // batch_size, "flags": flags},
        [
            Opponent("Keras fit, float32", 1.5, f"{KERAS}:fine_tune", peer),
            Opponent("PyTorch, bfloat16 autocast", 1.0, f"{TORCH}:fine_tune", peer),
        ],
        pace,
    )


def head_training(model: str, images: int, epochs: int, pace: Pace) -> Row:
    """Return the row on training the head alone, with what the frozen layers make kept and not."""
    size = 96
    flags = {"model": model, "method": "finetune", "trainable": "head", "batch_size": 32}
    shared = {"images": images, "size": size, "epochs": epochs}
    return Comparison(
        f"{model}, {epochs} epochs of the head, {size} px",
        f"{epochs} epochs of {images} images, batch 32, Adam: all that comes after building a fresh"
        " model, caching too",
        f"{OURS}:short_training",
        {**shared, "flags": flags},
        [
            Opponent(
                "tl_keras with --cache_gb=0",
                15.0,
                f"{OURS}:short_training",
                {**shared, "flags": {**flags, "cache_gb": 0.0}},
            )
        ],
        pace,
    )


def last_layers(model: str, images: int, pace: Pace) -> Row:
    """Return the row on training the last ten layers of an application for five epochs."""
    batch_size, epochs, last, size = 32, 5, 10, 96
    flags = {"model": model, "trainable": f"last:{last}", "batch_size": batch_size}
    shared = {"images": images, "size": size, "epochs": epochs}
    peer = {**shared, "name": model, "batch_size": batch_size, "last": last}
    return Comparison(
        f"{model}, last {last} layers, {size} px",
        f"{epochs} epochs of {images} images, batch {batch_size}, Adam: all that comes after"
        " building a fresh model, compiling and caching too",
        f"{OURS}:short_training",
        {**shared, "flags": flags},
        [Opponent("Keras fit, the same layers frozen", 4.0, f"{KERAS}:train_last", peer)],
        pace,
    )


def first_reading(files: Files, size: int, pace: Pace) -> Row:
    """Return a row on reading picture files for the first time."""
    name = f"first reading, {files.width}x{files.height} to {size} px, CPU time"
    return FirstReading(name, files, size, pace)


def second_reading(count: int, pace: Pace) -> Row:
    """Return the row on reading the same picture files again."""
    return SecondReading("second reading, CPU time", Files(count, *WEB), 224, 5.0, pace)


def streaming(count: int, steps: int, pace: Pace) -> Row:
    """Return the row on training on pictures that are decoded in each epoch."""
    flags = {"model": "resnet50", "batch_size": 16, "optimizer": "sgd", "momentum": 0.9}
    name = "streamed pictures, resnet50, 224 px"
    return Streaming(name, Files(count, *WEB), 224, flags, steps, 0.95, pace)


def transfer(count: int, pace: Pace) -> Row:
    """Return the row from picture files to a trained head."""
    files = Files(count, *WEB, has_splits=True)
    return Transfer("from files to a trained head", files, 10, pace)
