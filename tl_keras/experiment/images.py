"""The images of a dataset at the size that the models see."""

import functools

from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.fingerprints import DataFingerprints
from tl_keras.distributed import cluster
from tl_keras.pictures.picture_format import PictureFormat


class Images:
    """A dataset whose splits are read at first use and cached."""

    def __init__(
        self, dataset: Dataset, image_size: int, seals: DataFingerprints, stored_size: int = 0
    ):
        """Prepare to read `dataset`.

        Args:
            dataset: the dataset.
            image_size: side in pixels of the images that the model takes.
            seals: fingerprints of the workdir.
            stored_size: side in pixels of the images that are read, if the dataset's own differ;
                0 for `image_size`.
        """
        self.dataset = dataset
        self.image_size = image_size
        self._stored_size = stored_size or image_size
        self._seals = seals

    @functools.cached_property
    def train(self) -> ImageSet:
        """The training split; DataError if it differs from that of the workdir's first run."""
        return self._read("train")

    @functools.cached_property
    def test(self) -> ImageSet:
        """The test split, with the same check; it is read after training."""
        return self._read("test")

    def form(self, fit: str) -> PictureFormat:
        """Return what a picture becomes before a model of this dataset sees it.

        Args:
            fit: see `pictures.images.fit`.
        """
        dataset = self.dataset
        size = dataset.size or self._stored_size
        return PictureFormat(size, fit, dataset.is_framed, dataset.rendering)

    def check_test(self) -> None:
        """Check the labels of the test split, unless an earlier command has read the whole split.

        Raises:
            DataError: labels are missing or outside the classes.
        """
        if not self._seals.contains(self.dataset.name, "test"):
            self.dataset.check_test()

    def _read(self, split: str) -> ImageSet:
        images = self.dataset.read(split, self._stored_size)
        fingerprint = self._seals.check(self.dataset.name, split, images, self.dataset.class_names)
        title = f"the {split} images of '{self.dataset.name}'"
        cluster.current().check_same(title, fingerprint)
        return images
