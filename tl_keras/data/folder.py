"""A dataset of picture files: `folder:PATH` or `csv:FILE`.

The room `pictures` reads the files. Here they become splits: a folder without a test split gets a
stratified fifth of each class, always the same (`held_out.choose_test`). Classes are the names of
folders, in any script, sorted by their bytes, whatever the locale.

- Hidden files and folders (a name that begins with a dot) are ignored. So are files that are no
  images, unless their extension is that of an image: then they are corrupt. The number of ignored
  files is logged. The content decides the format; a wrong extension does no harm, except for TGA.
- Unusable images are listed: corrupt, unreadable, of floating point, or larger than --max_pixels.
  Up to `max_bad_images` of them are left out and logged. More are an error.
- Palettes, CMYK and more than 8 bits become 8 bits per channel, see `pictures.pixels`. Of an
  animation, the first frame is used. The EXIF orientation is applied.
- A folder in which all images are grey, even if stored in colour, has 1 channel. Others have 3.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tl_keras.config.pictures import PictureOptions
from tl_keras.data import catalog
from tl_keras.data.dataset import Dataset, ImageSet
from tl_keras.data.fingerprints import FILES
from tl_keras.data.held_out import choose_test
from tl_keras.errors import DataError, UsageError
from tl_keras.pictures import data_report, images
from tl_keras.pictures.analysis import Analysis, analyse_set
from tl_keras.pictures.arrays import StoredImages
from tl_keras.pictures.csv_layout import find_csv_layout
from tl_keras.pictures.data_report import DataReport
from tl_keras.pictures.decoded_set import GOOD, NO_PICTURE
from tl_keras.pictures.duplicates import join_groups
from tl_keras.pictures.layout import LabelledFiles, Layout, find_layout
from tl_keras.pictures.picture_format import PictureFormat
from tl_keras.pictures.picture_set import read_pictures
from tl_keras.pictures.streamed import StreamedImages

LOG = logging.getLogger(__name__)

_MAX_LISTED = 10
_TRAINING = ("train", "validation")


def open_dataset(name: str, framing: str, options: PictureOptions) -> Dataset:
    """Open `folder:PATH` or `csv:FILE`: list its files. `Dataset.decode` checks and decodes them.

    Args:
        name: "folder:" or "csv:" and the path; `~` is the home folder.
        framing: "mnist" for images of single characters, "auto" or "none" for others.
        options: the flags.

    Raises:
        UsageError: the path is empty.
        DataError: there is no such folder, or its layout cannot be understood, see
            `layout.find_layout` and `csv_layout.find_csv_layout`.
    """
    root, layout = _find_layout(name, options)
    for note in layout.notes:
        LOG.info("%s", note)
    framed = catalog.is_framed(catalog.find(name), framing)
    # Bytes that are not UTF-8 would raise errors where the name is printed.
    class_names = tuple(os.fsencode(c).decode("utf-8", "backslashreplace") for c in layout.classes)

    def decode(size: int) -> Dataset:
        form = PictureFormat(images.FRAME_SIZE if framed else size, options.fit, framed)
        pictures = _FolderPictures(root, layout, form, options)
        augment = catalog.HANDWRITING if framed else catalog.find(name).augment
        return Dataset(
            name,
            class_names,
            pictures.channels,
            form.size,
            augment,
            pictures.read,
            decode=decode,
            files=pictures,
            is_framed=framed,
            rendering=pictures.rendering,
        )

    def read_undecoded(split: str, image_size: int = 0) -> ImageSet:
        return decode(image_size).read(split, image_size)

    size = images.FRAME_SIZE if framed else 0
    augment = catalog.HANDWRITING if framed else catalog.find(name).augment
    return Dataset(name, class_names, 0, size, augment, read_undecoded, decode=decode)


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


def _find_layout(name: str, options: PictureOptions) -> tuple[Path, Layout]:
    """Return the folder of a dataset, and its layout."""
    if name.startswith(catalog.CSV_PREFIX):
        path = name.removeprefix(catalog.CSV_PREFIX)
        if not path:
            raise UsageError(f"dataset '{name}' names no file. Write csv:FILE")
        try:
            file = Path(path).expanduser()
        except RuntimeError as error:  # an unknown user
            raise DataError(f"there is no file {path}: {error}") from error
        columns = options.csv_columns()
        return file.parent, find_csv_layout(file, columns, follow_links=options.follow_links)
    path = name.removeprefix(catalog.FOLDER_PREFIX)
    if not path:
        raise UsageError(f"dataset '{name}' names no folder. Write folder:PATH")
    root = _find_folder(path)
    return root, find_layout(root, options.follow_links)


class _FolderPictures:
    """The good pictures of a folder, in splits.

    Attributes:
        channels: 1 if all pictures are grey, else 3.
        rendering: how pictures became 8 bits.
        report: what was found by looking at all of them; None if they were not decoded.
    """

    def __init__(self, root: Path, layout: Layout, form: PictureFormat, options: PictureOptions):
        """Check and decode all files.

        Raises:
            DataError: there are more unusable pictures than `max_bad_images`, a class has no
                training picture, there is no test picture, or --on_duplicates refuses copies.
        """
        self._root, self._prefix = root, f"{root}{os.sep}"
        self._options = options
        self._classes = layout.classes
        splits = layout.splits
        paths = [path for files in splits.values() for path in files.paths]
        split_of = np.repeat(list(splits), [len(files.paths) for files in splits.values()])
        self._set = read_pictures(paths, np.isin(split_of, _TRAINING), form, options)
        self.channels = self._set.channels
        self.rendering = self._set.form.rendering
        self._report_problems(paths)
        good = self._set.records["status"] == GOOD
        self._paths = [path for path, is_good in zip(paths, good, strict=True) if is_good]
        self._labels = np.concatenate([files.labels for files in splits.values()])[good]
        self._check_classes(self._labels[np.isin(split_of[good], _TRAINING)])
        analysis = analyse_set(self._set)
        self._groups = _find_groups(analysis, _list_groups(splits), good)
        self._split_of = self._hold_out_test(split_of[good])
        self.report, self._keep = None, np.ones(len(self._labels), bool)
        if analysis is not None:
            self.report = self._make_report(analysis)
            self._keep = data_report.resolve(self.report, options.on_duplicates)

    def read(self, split: str, image_size: int = 0) -> ImageSet:
        """Return one split; see `Dataset.read`."""
        size = self._set.form.size
        if split not in ("train", "test"):
            raise ValueError(f"split is 'train' or 'test', not {split!r}")
        if image_size not in (0, size) and not self._set.form.framed:
            raise ValueError(f"the pictures were decoded to {size} pixels, not {image_size}")
        wanted = _TRAINING if split == "train" else (split,)
        rows = np.flatnonzero(self._keep & np.isin(self._split_of, wanted))
        is_validation = self._split_of[rows] == "validation"
        groups = None if self._groups is None else self._groups[rows]
        return ImageSet(
            self._images(rows),
            self._labels[rows],
            groups if groups is not None and len(np.unique(groups)) < len(groups) else None,
            is_validation if is_validation.any() else None,
        )

    def list_files(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name, the class and the split of each picture, in the order of the files."""
        for row, path in enumerate(self._paths):
            split = self._split_of[row] if self._keep[row] else "dropped"
            yield self._name(path), self._classes[self._labels[row]], split

    def _make_report(self, analysis: Analysis) -> DataReport:
        names = [self._name(path) for path in self._paths]
        report = data_report.make_report(
            analysis, self._labels, self._split_of, names, self._classes
        )
        for line in report.log_lines():
            LOG.warning("%s: %s", self._root, line)
        return report

    def _name(self, path: str) -> str:
        # relpath takes ten times as long.
        prefix = self._prefix
        return path[len(prefix) :] if path.startswith(prefix) else os.path.relpath(path, self._root)

    def _images(self, rows: np.ndarray) -> StoredImages | StreamedImages:
        found = self._set
        if found.table is not None:
            return StoredImages(found.table, rows, self._digest(rows))
        paths = [self._paths[row] for row in rows]
        return StreamedImages(
            paths, found.form, found.channels, self._digest(rows), self._options.max_pixels
        )

    def _digest(self, rows: np.ndarray) -> str:
        """Return a sha256 of the pixels of some pictures, or else of their names, sizes, times."""
        total = hashlib.sha256(repr((len(rows), self._set.form, self.channels)).encode())
        if self._set.is_decoded:
            records = self._set.records[self._set.records["status"] == GOOD]
            total.update(np.ascontiguousarray(records["digest"][rows]).tobytes())
            return total.hexdigest()
        for row in rows:
            path, size, time = self._paths[row], 0, 0
            with contextlib.suppress(OSError):  # decoding will name a file that is missing
                status = os.stat(path)  # noqa: PTH116
                size, time = status.st_size, status.st_mtime_ns
            name = self._name(path)
            total.update(os.fsencode(f"{name}\0{size}\0{time}\0"))
        return f"{FILES}:{total.hexdigest()}"

    def _hold_out_test(self, split_of: np.ndarray) -> np.ndarray:
        """Return the split of each picture, with a held out test split if there is no other."""
        if not (split_of == "test").any():
            is_test = choose_test(self._labels, groups=self._groups)
            split_of = np.where(is_test, "test", split_of)
        if not (split_of == "test").any():
            raise DataError(f"{self._root} has no test image, and too few images for a test split")
        return split_of

    def _check_classes(self, trained: np.ndarray) -> None:
        missing = np.setdiff1d(np.arange(len(self._classes)), trained)
        if missing.size:
            names = ", ".join(repr(self._classes[label]) for label in missing)
            raise DataError(f"{self._root} has classes without a training image: {names}")

    def _report_problems(self, paths: list[str]) -> None:
        """Log the unusable images, or raise DataError if there are too many."""
        problems = [
            f"{self._name(paths[index])!r} ({reason})"
            for index, reason in sorted(self._set.problems.items())
        ]
        more = f" and {len(problems) - _MAX_LISTED} more" if len(problems) > _MAX_LISTED else ""
        listed = f"({len(problems)} in all): {', '.join(problems[:_MAX_LISTED])}{more}"
        if len(problems) > self._options.max_bad_images:
            raise DataError(
                f"{self._root} has unusable images {listed}. Repair or remove them, or skip them by"
                f" --max_bad_images={len(problems)}"
            )
        if problems:
            LOG.warning("%s: unusable images are skipped %s", self._root, listed)
        ignored = int((self._set.records["status"] == NO_PICTURE).sum())
        if ignored:
            LOG.info("%s: %d files that are no images are ignored", self._root, ignored)


def _list_groups(splits: dict[str, LabelledFiles]) -> np.ndarray | None:
    """Return the group of each file that the layout names, (files,) int64, or None."""
    groups = [files.groups for files in splits.values() if files.groups is not None]
    return np.concatenate(groups) if len(groups) == len(splits) else None


def _find_groups(
    analysis: Analysis | None, named: np.ndarray | None, good: np.ndarray
) -> np.ndarray | None:
    """Return the group of each good picture, (n,) int64: those that are copies or named together.

    None is returned if nothing is known.
    """
    if named is not None:
        _, first, inverse = np.unique(named[good], return_index=True, return_inverse=True)
        named = first[inverse]
    if analysis is None or named is None:
        return named if analysis is None else analysis.duplicates.near
    pairs = np.stack([np.arange(len(named)), named], axis=1)
    return join_groups(analysis.duplicates.near, pairs)
