"""Which features and splits of a dataset of tensorflow-datasets are used."""

import dataclasses
from collections.abc import Iterator

from tl_keras.config.options import Option, option

DATA = "Data and model"

TFDS_PREFIX = "tfds_"
# The fields of Config of type TfdsSelection, with the prefix of their flags.
SELECTIONS = {"tfds": TFDS_PREFIX, "source_tfds": f"source_{TFDS_PREFIX}"}


@dataclasses.dataclass(frozen=True)
class TfdsSelection:
    """Features and splits, such as `--tfds_label_key` (target) or `--source_tfds_label_key`."""

    image_key: str = option(
        "",
        "--target from tensorflow-datasets: the feature with the image, nested as in photo/left;"
        " empty: that of the supervised keys, or the only Image",
        DATA,
        rare=True,
    )
    label_key: str = option(
        "",
        "the feature with the label: a ClassLabel, a whole number or a text, whose values in the"
        " training split are the classes; empty: that of the supervised keys, or the only"
        " ClassLabel",
        DATA,
        rare=True,
    )
    train_split: str = option(
        "",
        "the training split, such as train[:80%] or train+validation; empty: train",
        DATA,
        rare=True,
    )
    test_split: str = option(
        "",
        "the test split, such as train[80%:]; empty: test, else validation, else a fixed fifth of"
        " each class of the training split",
        DATA,
        rare=True,
    )

    def __str__(self) -> str:
        """Return the given values: `label_key=species, train_split=train[:80%]`."""
        given = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return ", ".join(f"{name}={value}" for name, value in given if value)


# The features and splits that are chosen without flags.
USUAL = TfdsSelection()


def selection_options(
    field_name: str, selection: TfdsSelection
) -> Iterator[tuple[str, Option, str]]:
    """Yield (flag name, option, value) for every setting of a field of `SELECTIONS`."""
    for field in dataclasses.fields(TfdsSelection):
        named, prefix = field.metadata["option"], SELECTIONS[field_name]
        if prefix != TFDS_PREFIX:
            named = named._replace(help=f"as --{TFDS_PREFIX}{field.name}, of the dataset --source")
        yield prefix + field.name, named, getattr(selection, field.name)
