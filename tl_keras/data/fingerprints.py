"""What the pictures of a workdir were when it was begun, so that others are not taken for them."""

import hashlib
from pathlib import Path

import numpy as np

from tl_keras.data.dataset import ImageSet
from tl_keras.errors import DataError
from tl_keras.storage import files

_CHUNK = 4096


class DataFingerprints:
    """The fingerprints of the splits that a workdir's runs have read, in WORKDIR/data.json."""

    def __init__(self, path: Path):
        """Keep them in the file at `path`, from `save` on: a command that fails leaves none.

        Raises:
            DataError: the file is damaged.
        """
        self._path = path
        self._is_saved = path.is_file()
        self._fingerprints = files.read_state(path) if self._is_saved else {}

    def check(self, name: str, split: str, images: ImageSet, class_names: tuple[str, ...]) -> str:
        """Note what a split holds; or, where that was noted before, see that it is the same.

        Args:
            name: of the dataset.
            split: "train" or "test".
            images: what was read.
            class_names: in the order of the labels.

        Returns:
            The sha256 of it all.

        Raises:
            DataError: it holds other pictures, labels or classes.
            WriteError: the file cannot be written.
        """
        total = hashlib.sha256("\n".join(class_names).encode(errors="surrogatepass"))
        total.update(np.ascontiguousarray(images.labels).data)
        total.update(hash_images(images.images).encode())
        sha256 = total.hexdigest()
        found = {"images": len(images.labels), "sha256": sha256}
        before = self._fingerprints.setdefault(f"{name} {split}", found)
        if before != found:
            raise DataError(
                f"the {split} images of '{name}' are not those that {self._path.parent} was begun"
                f" with ({before['images']} then, {found['images']} now): bring those back, or"
                " choose another --workdir"
            )
        if self._is_saved:
            files.write_state(self._path, self._fingerprints)
        return sha256

    def contains(self, name: str, split: str) -> bool:
        """Tell whether the split of the dataset has been read in this workdir before."""
        return f"{name} {split}" in self._fingerprints

    def save(self) -> None:
        """Write the file, now and at every split that is read from here on.

        Raises:
            WriteError: it cannot be written.
        """
        self._is_saved = True
        files.write_state(self._path, self._fingerprints)


def hash_images(images: np.ndarray) -> str:
    """Return the sha256 of (n, height, width, channels) uint8 pictures, a part at a time."""
    total = hashlib.sha256(str(images.shape).encode())
    for start in range(0, len(images), _CHUNK):
        total.update(np.ascontiguousarray(images[start : start + _CHUNK]).data)
    return total.hexdigest()
