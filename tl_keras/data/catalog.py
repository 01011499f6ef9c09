"""The datasets by name: what each is called, holds, and needs before a model may see it.

A row is the whole documentation of a dataset; `tl_keras.data.reading` acts on it. Light to import:
`--help` and the flag checks read it.
"""

import string
from dataclasses import dataclass

from tl_keras.config.augmentation import Augmentation, parse

DIGITS = tuple(string.digits)
LETTERS = tuple(string.ascii_lowercase)
BYCLASS = DIGITS + tuple(string.ascii_uppercase) + LETTERS
# EMNIST's merge: lower-case letters that look like their capitals share the capital's class.
BYMERGE = DIGITS + tuple(string.ascii_uppercase) + tuple("abdefghnqrt")
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
KUZUSHIJI = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

HANDWRITING = parse("shift:0.08,rotate:0.04,zoom:0.12")
PHOTOGRAPHS = parse("flip,crop:4")


@dataclass(frozen=True)
class Entry:
    """What is known of a dataset before it is read.

    Attributes:
        reader: which module of tl_keras.data reads it: "tfds", "embedded" or "folder".
        class_names: in the order of the labels; empty where only the data themselves can tell.
        channels: 1 or 3; 0 where only the data can tell.
        size: side of the square images in pixels; 0 where they differ or only the data can tell.
        framing: "native": published as MNIST is, 20 pixels of ink centred by mass in 28;
            "mnist": brought to that by `images.frame`; "none": pictures as they are.
        transposed: whether tfds delivers rows and columns exchanged.
        first_label: the label that tfds gives to the first class.
        splits: names of the training and the test split.
        augment: what `--augment=auto` stands for.
    """

    reader: str
    class_names: tuple[str, ...] = ()
    channels: int = 0
    size: int = 0
    framing: str = "none"
    transposed: bool = False
    first_label: int = 0
    splits: tuple[str, str] = ("train", "test")
    augment: Augmentation = PHOTOGRAPHS


# EMNIST's ink is 24 pixels large, not 20: MNIST models read its digits with 84.5 % as they are
# published, and with 98.8 % when they are framed.
def _emnist(class_names: tuple[str, ...], first_label: int = 0) -> Entry:
    return Entry("tfds", class_names, 1, 28, "mnist", True, first_label, augment=HANDWRITING)


DATASETS = {
    "cifar10": Entry("tfds", channels=3, size=32),
    "cifar100": Entry("tfds", channels=3, size=32),
    "digits": Entry("embedded", DIGITS, 1, 8, "mnist", augment=HANDWRITING),
    "emnist/balanced": _emnist(BYMERGE),
    "emnist/byclass": _emnist(BYCLASS),
    "emnist/bymerge": _emnist(BYMERGE),
    "emnist/digits": _emnist(DIGITS),
    "emnist/letters": _emnist(LETTERS, first_label=1),
    "emnist/mnist": _emnist(DIGITS),
    "fashion_mnist": Entry("tfds", FASHION, 1, 28, augment=parse("flip,shift:0.08")),
    "kmnist": Entry("tfds", KUZUSHIJI, 1, 28, augment=HANDWRITING),
    "mnist": Entry("tfds", DIGITS, 1, 28, "native", augment=HANDWRITING),
    "mnist_5k": Entry("embedded", DIGITS, 1, 28, "native", augment=HANDWRITING),
    "svhn_cropped": Entry("tfds", DIGITS, 3, 32, augment=parse("crop:4,color:0.2")),
    "usps": Entry("tfds", DIGITS, 1, 16, "mnist", augment=HANDWRITING),
}

FOLDER_PREFIX = "folder:"
CSV_PREFIX = "csv:"
FRAMINGS = ("auto", "mnist", "none")


def find(name: str) -> Entry:
    """Return the entry of a dataset; a name that is not listed is a dataset of tfds."""
    if name.startswith((FOLDER_PREFIX, CSV_PREFIX)):
        return Entry("folder")
    return DATASETS.get(name, Entry("tfds"))


def own_names(dataset: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return class names of tfds; automatic ones, which are numbers, become the dataset's own.

    Two datasets with the classes "0" and "1" have nothing in common, and no row of a head.
    """
    if names != tuple(map(str, range(len(names)))):
        return names
    return tuple(f"{dataset}/{name}" for name in names)


def has_framed_images(entry: Entry, framing: str) -> bool:
    """Tell whether images are framed, by `images.frame` or as they were published."""
    return is_framed(entry, framing) or (entry.framing == "native" and framing != "none")


def is_framed(entry: Entry, framing: str) -> bool:
    """Tell whether `images.frame` is applied, for --framing=auto, mnist or none."""
    if framing == "auto":
        return entry.framing == "mnist"
    return framing == "mnist" and entry.framing != "native"
