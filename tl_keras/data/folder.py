"""Read a folder of images: `folder:PATH`.

`layout` finds the splits and the classes. Without a test split, a stratified fifth of each class,
always the same (`held_out.choose_test`), is it. Classes are the names of folders, in any script.
Names are sorted by their bytes, whatever the locale.

- Hidden files and folders (a name that begins with a dot) are ignored. So are files that are no
  images, unless their extension is that of an image: then they are corrupt. The number of ignored
  files is logged. The content decides the format; a wrong extension does no harm, except for TGA.
- Every image is decoded once when the folder is opened. Images that are corrupt, unreadable, of
  floating point, or larger than picture_file.load allows (by the header, without decoding) are
  listed. Up to `max_bad_images` of them are skipped and logged. More are an error.
- Symbolic links that lead out of PATH are refused. PATH itself may be a link.
- Transparency is composited on white. Palettes, CMYK and 16 bits become 8 bits per channel. Of an
  animation, the first frame is used. The EXIF orientation is applied.
- A folder in which all images are grey, even if stored in colour, has 1 channel. Others have 3.
- Images are resized to squares, antialiased. The aspect ratio is not kept. Framed images are not
  resized.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tl_keras.data import catalog
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.held_out import choose_test
from tl_keras.errors import DataError, UsageError
from tl_keras.pictures import images, picture_file
from tl_keras.pictures.layout import LabelledFiles, find_layout
from tl_keras.pictures.parallel import map_in_parallel
from tl_keras.storage import memory

LOG = logging.getLogger(__name__)

_MAX_LISTED = 10


class _Pictures(NamedTuple):
    paths: list[Path]
    labels: np.ndarray


class _ScanResult(NamedTuple):
    """The result of checking a file; `problem` is None for a good image, "" for no image."""

    problem: str | None
    is_grey: bool


def open_dataset(name: str, framing: str, max_bad_images: int = 0) -> Dataset:
    """Open `folder:PATH`, and check every image.

    Args:
        name: "folder:" and the path; `~` is the home folder.
        framing: "mnist" for images of single characters, "auto" or "none" for others.
        max_bad_images: how many unusable images are skipped and logged.

    Raises:
        UsageError: the path is empty.
        DataError: there is no such folder, there are fewer than two classes, a class has no
            training image, a test class has no training class, there is no test image, there are
            more unusable images than `max_bad_images`, or a link leads out of the folder.
    """
    path = name.removeprefix(catalog.FOLDER_PREFIX)
    if not path:
        raise UsageError(f"dataset '{name}' names no folder. Write folder:PATH")
    root = _find_folder(path)
    framed = catalog.is_framed(catalog.find(name), framing)
    classes, splits, all_grey = _find_pictures(root, max_bad_images)
    channels = 1 if framed or all_grey else 3

    def read(split: str, image_size: int = 0) -> ImageSet:
        if not framed and image_size < 1:
            raise ValueError(f"the images of '{name}' differ in size: image_size is needed")
        size = images.FRAME_SIZE if framed else image_size

        def decode(path: Path) -> np.ndarray:
            image = picture_file.load(path)
            if framed:
                return images.frame(image[None])[0]
            return images.resize(picture_file.with_channels(image, channels), size)

        return _read(splits[split], decode, (size, size, channels))

    size = images.FRAME_SIZE if framed else 0
    augment = catalog.HANDWRITING if framed else catalog.find(name).augment
    # Bytes that are not UTF-8 would raise errors where the name is printed.
    class_names = tuple(os.fsencode(c).decode("utf-8", "backslashreplace") for c in classes)
    return Dataset(name, class_names, channels, size, augment, read)


def _find_folder(path: str) -> Path:
    """Return the folder at a path, or raise DataError if there is none."""
    try:
        root = Path(path).expanduser()
        if root.is_dir():
            return root
    except (OSError, RuntimeError) as error:  # a name that is too long, or an unknown user
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"there is no folder {path}: {reason}") from error
    raise DataError(f"there is no folder {root}")


def _find_pictures(root: Path, max_bad_images: int) -> tuple[list[str], dict[str, _Pictures], bool]:
    """Return the classes, the images of both splits, and whether all of them are grey."""
    classes, listed, notes = find_layout(root)
    for note in notes:
        LOG.info("%s", note)
    pictures, all_grey = _scan_all(root, listed, max_bad_images)
    missing = np.setdiff1d(np.arange(len(classes)), pictures["train"].labels)
    if missing.size:
        names = ", ".join(repr(classes[label]) for label in missing)
        raise DataError(f"{root} has classes without a training image: {names}")
    if "test" not in pictures:
        pictures = _split(pictures["train"])
    if not pictures["test"].paths:
        raise DataError(f"{root} has no test image, and too few images for a test split")
    return classes, pictures, all_grey


def _scan_all(
    root: Path, listed: dict[str, LabelledFiles], max_bad_images: int
) -> tuple[dict[str, _Pictures], bool]:
    """Check every file. Return the images of each split, and whether all are grey."""
    pictures, problems, ignored, all_grey = {}, [], 0, True
    for split, files in listed.items():
        paths = [Path(path) for path in files.paths]
        scans, good = _map_in_parallel(_scan, paths), []
        for path, label, scan in zip(paths, files.labels, scans, strict=True):
            if scan.problem is None:
                good.append((path, label))
                all_grey &= scan.is_grey
            elif scan.problem:
                problems.append(f"{os.fspath(path.relative_to(root))!r} ({scan.problem})")
            else:
                ignored += 1
        labels = np.array([label for _, label in good], np.int64)
        pictures[split] = _Pictures([path for path, _ in good], labels)
    _report_problems(root, problems, max_bad_images)
    if ignored:
        LOG.info("%s: %d files that are no images are ignored", root, ignored)
    return pictures, all_grey


def _report_problems(root: Path, problems: list[str], max_bad_images: int) -> None:
    """Log the unusable images, or raise DataError if there are too many."""
    more = f" and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
    listed = f"({len(problems)} in all): {', '.join(problems[:_MAX_LISTED])}{more}"
    if len(problems) > max_bad_images:
        raise DataError(
            f"{root} has unusable images {listed}. Repair or remove them, or skip them by"
            f" --max_bad_images={len(problems)}"
        )
    if problems:
        LOG.warning("%s: unusable images are skipped %s", root, listed)


def _scan(path: Path) -> _ScanResult:
    try:
        # A pipe would block until something is written.
        if not stat.S_ISREG(path.stat().st_mode):
            return _ScanResult("", True)
        return _ScanResult(None, picture_file.is_grey(picture_file.load(path)))
    except picture_file.NotAPictureError:
        return _ScanResult("", True)
    except (picture_file.PictureError, OSError) as error:
        return _ScanResult(str(error) or type(error).__name__, True)


def _map_in_parallel(function: Callable[[Path], Any], paths: list[Path]) -> Iterator[Any]:
    """Yield function(path) in order."""

    def call(path: Path) -> Any:
        try:
            return function(path)
        except MemoryError as error:  # the image is good: another run could decode it
            raise DataError(f"there is not enough memory to decode {path}") from error

    return map_in_parallel(call, paths)


def _split(pictures: _Pictures) -> dict[str, _Pictures]:
    is_test = choose_test(pictures.labels)
    splits = {}
    for split, chosen in (("train", ~is_test), ("test", is_test)):
        paths = [path for path, wanted in zip(pictures.paths, chosen, strict=True) if wanted]
        splits[split] = _Pictures(paths, pictures.labels[chosen])
    return splits


def _read(
    pictures: _Pictures, decode: Callable[[Path], np.ndarray], shape: tuple[int, int, int]
) -> ImageSet:
    decoded = memory.allocate((len(pictures.paths), *shape))

    def decode_named(path: Path) -> np.ndarray:
        try:
            return decode(path)
        except picture_file.PictureError as error:
            raise DataError(f"{path} has changed and cannot be used: {error}") from error

    for index, image in enumerate(_map_in_parallel(decode_named, pictures.paths)):
        decoded[index] = image
    return ImageSet(decoded, pictures.labels.copy())
