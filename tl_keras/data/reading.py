"""Open a dataset by its name. Light to import: the readers are imported when they are needed."""

from typing import TYPE_CHECKING

from tl_keras.config.tfds import TFDS_PREFIX, USUAL, TfdsSelection
from tl_keras.data import catalog
from tl_keras.data.dataset import Dataset
from tl_keras.errors import UsageError

if TYPE_CHECKING:
    from tl_keras.config.pictures import PictureOptions


def open_dataset(
    name: str,
    *,
    framing: str = "auto",
    data_dir: str = "",
    pictures: "PictureOptions | None" = None,
    tfds: TfdsSelection = USUAL,
    tfds_prefix: str = TFDS_PREFIX,
) -> Dataset:
    """Open a dataset, without decoding its images yet.

    A dataset of tensorflow-datasets is prepared if necessary. The files of a folder are listed;
    `Dataset.decode` checks and decodes them.

    Args:
        name: a row of `catalog.DATASETS`, `folder:PATH`, `csv:FILE`, or the name of an image
            classification set of tensorflow-datasets, such as `beans` or `colorectal_histology`.
        framing: "auto": the catalog's choice; "none": unchanged images; "mnist": `images.frame` is
            applied unless the dataset is published with MNIST's framing. Framed images have 1
            channel and 28x28 pixels.
        data_dir: the first folder to search for prepared datasets, before $TFDS_DATA_DIR and
            ~/tensorflow_datasets; empty for these alone.
        pictures: the flags of picture files; None for their defaults.
        tfds: features and splits of a dataset of tensorflow-datasets; other datasets have none.
        tfds_prefix: prefix of the flags that give them, for errors.

    Raises:
        UsageError: no dataset has that name, it has no classified images, or it has no feature or
            split that `tfds` names.
        DataError: the dataset is missing, damaged, or has fewer than two classes.
        WriteError: the dataset has to be prepared, and no folder can be written.
    """
    if framing not in catalog.FRAMINGS:
        raise UsageError(
            f"--framing={framing} is not known. Choose one of {', '.join(catalog.FRAMINGS)}"
        )
    reader = catalog.find(name).reader
    if reader == "folder":
        from tl_keras.config.pictures import PictureOptions
        from tl_keras.data import folder

        return folder.open_dataset(name, framing, pictures or PictureOptions())
    if reader == "embedded":
        from tl_keras.data import embedded

        return embedded.open_dataset(name, framing)
    from tl_keras.data import tfds_reader

    fit = pictures.fit if pictures else "crop"
    return tfds_reader.open_dataset(name, framing, data_dir, tfds, tfds_prefix, fit)
