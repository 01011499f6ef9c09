"""The way from a dataset's name to its pictures. Light to import: the readers are not, yet."""

from tl_keras.data import catalog
from tl_keras.data.dataset import Dataset
from tl_keras.errors import UsageError


def open_dataset(
    name: str, *, framing: str = "auto", data_dir: str = "", max_bad_images: int = 0
) -> Dataset:
    """Make sure that a dataset is there, and say what it holds; its pictures are not decoded yet.

    A dataset of tensorflow-datasets that is not prepared yet is prepared here. A folder's pictures
    are all looked at here, so that a corrupt one is found before anything is trained.

    Args:
        name: a row of `catalog.DATASETS`, `folder:PATH`, or the name of an image classification set
            of tensorflow-datasets, such as `beans` or `colorectal_histology`.
        framing: "auto": as the catalog has it; "none": pictures as they are; "mnist": all that is
            not published as MNIST is, is brought to that by `images.frame`. What is framed has
            1 channel and 28x28 pixels.
        data_dir: the first folder to look for prepared datasets in, before $TFDS_DATA_DIR and
            ~/tensorflow_datasets; empty for these alone.
        max_bad_images: how many pictures of a folder that cannot be used are left out, and told in
            the log; more of them are a DataError.

    Raises:
        UsageError: if no dataset has that name, or it is not one of classified images.
        DataError: if it is missing, damaged, or holds nothing to learn.
        WriteError: if it would have to be prepared and no folder can be written.
    """
    if framing not in catalog.FRAMINGS:
        raise UsageError(f"--framing={framing}: choose one of {', '.join(catalog.FRAMINGS)}")
    reader = catalog.find(name).reader
    if reader == "folder":
        from tl_keras.data import folder

        return folder.open_dataset(name, framing, max_bad_images)
    if reader == "embedded":
        from tl_keras.data import embedded

        return embedded.open_dataset(name, framing)
    from tl_keras.data import tfds_reader

    return tfds_reader.open_dataset(name, framing, data_dir)
