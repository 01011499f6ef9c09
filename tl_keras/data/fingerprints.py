"""Fingerprints of the images of a workdir, which detect changed datasets."""

import hashlib
from pathlib import Path

import numpy as np

from tl_keras.data.dataset import ImageSet
from tl_keras.errors import DataError
from tl_keras.pictures.arrays import ImageArray, Images
from tl_keras.storage import files

_CHUNK = 4096
# Begins the hash of images whose files were not decoded: it covers names, sizes and times.
FILES = "files"


class DataFingerprints:
    """Fingerprints of the splits that the runs of a workdir have read, in WORKDIR/data.json."""

    def __init__(self, path: Path):
        """Use the file at `path`, which is not written before `save`.

        So a command that fails early leaves no file.

        Raises:
            DataError: the file is damaged.
        """
        self._path = path
        self._is_saved = path.is_file()
        self._fingerprints = files.read_state(path) if self._is_saved else {}

    def check(self, name: str, split: str, images: ImageSet, class_names: tuple[str, ...]) -> str:
        """Record the fingerprint of a split, or compare it with the recorded one.

        Args:
            name: of the dataset.
            split: "train" or "test".
            images: the split.
            class_names: in the order of the labels.

        Returns:
            The sha256 of the images, labels and class names.

        Raises:
            DataError: the split has other images, labels or classes.
            WriteError: the file cannot be written.
        """
        total = hashlib.sha256("\n".join(class_names).encode(errors="surrogatepass"))
        total.update(np.ascontiguousarray(images.labels).data)
        hashed = hash_images(images.images)
        total.update(hashed.encode())
        kind = FILES if hashed.startswith(FILES) else "pixels"
        sha256 = total.hexdigest()
        found = {"images": len(images.labels), "sha256": sha256}
        if kind == FILES:
            found["kind"] = kind
        before = self._fingerprints.setdefault(f"{name} {split}", found)
        if before.get("kind", "pixels") != kind:
            checks = "headers" if kind == "pixels" else "all"
            raise DataError(
                f"{self._path.parent} was started with --check_pictures={checks} for '{name}'. Give"
                " it again, or choose another --workdir"
            )
        if before != found:
            raise DataError(
                f"the {split} images of '{name}' are not those that {self._path.parent} was"
                f" started with ({before['images']} then, {found['images']} now). Restore them, or"
                " choose another --workdir"
            )
        if self._is_saved:
            files.write_state(self._path, self._fingerprints)
        return sha256

    def contains(self, name: str, split: str) -> bool:
        """Return whether the split of the dataset was read in this workdir before."""
        return f"{name} {split}" in self._fingerprints

    def save(self) -> None:
        """Write the file, now and after every further split.

        Raises:
            WriteError: it cannot be written.
        """
        self._is_saved = True
        files.write_state(self._path, self._fingerprints)


def hash_images(images: Images) -> str:
    """Return the sha256 of (n, height, width, channels) uint8 images, computed in chunks.

    That of an ImageArray is known.
    """
    if isinstance(images, ImageArray):
        return images.digest
    total = hashlib.sha256(str(images.shape).encode())
    for start in range(0, len(images), _CHUNK):
        total.update(np.ascontiguousarray(images[start : start + _CHUNK]).data)
    return total.hexdigest()
