"""Find the files that a CSV file lists. Each folder is read once, and no file by itself."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_keras.errors import DataError
from tl_keras.pictures.layout import list_names
from tl_keras.pictures.links import Links
from tl_keras.pictures.picture_file import EXTENSIONS

# The folder does not exist.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_FILE, _FOLDER, _NOTHING = "file", "folder", "nothing"


class FoundFiles(NamedTuple):
    """The files of a list.

    Attributes:
        paths: (files,) as the list names them, below the folder.
        targets: (files,) absolute and without links, equal for equal files.
        notes: lines for the log.
    """

    paths: list[str]
    targets: list[str]
    notes: list[str]


class _Folder(NamedTuple):
    """The names in one folder. `path` and `target`, without links, end in a separator."""

    path: str
    target: str
    files: set[str]
    links: set[str]
    folders: set[str]


class _List(NamedTuple):
    """Names of files with their lines, of the CSV file at `path`."""

    path: Path
    names: Sequence[str]
    lines: np.ndarray


class _Missing(NamedTuple):
    """Indices of names without a file, and of names of folders."""

    nothing: list[int]
    folders: list[int]


def find_files(csv_path: Path, names: Sequence[str], lines: np.ndarray, links: Links) -> FoundFiles:
    """Find each of some files, which need not be images.

    Args:
        csv_path: of the list, for errors.
        names: (files,) absolute, or relative to the root of `links`.
        lines: (files,) int64, the lines of the names, for errors.
        links: the folder, and the rule on paths that lead out of it.

    Raises:
        DataError: a file is missing, is a folder, or leads out of the folder and may not; or the
            names lack their extension, and several would do.
    """
    listed, folders = _List(csv_path, names, lines), _Folders(links)
    found, missing = _find(listed, "", folders)
    if len(missing.nothing) + len(missing.folders) < len(names):
        _refuse_missing(listed, links, missing)
        return found
    extensions = _list_extensions(names[0], folders)
    fitting = [one for one in extensions if not any(_find(listed, one, folders, True)[1])]
    if not fitting:
        _refuse_missing(listed, links, missing)
    if len(fitting) > 1:
        raise DataError(
            f"{csv_path} names files without an extension, and there are files with each of"
            f" {list_names(fitting)}. Give the names in full"
        )
    found, _ = _find(listed, fitting[0], folders)
    note = f"{csv_path} names files without an extension: those with {fitting[0]!r} are read"
    return found._replace(notes=[note])


class _Folders:
    """The folders that are read, each once."""

    def __init__(self, links: Links):
        """Remember the rule on links."""
        self.links = links
        self._by_name: dict[str, _Folder] = {}

    def read(self, name: str) -> _Folder:
        """Return a folder by its name in the list, "" or with a separator at the end."""
        if name not in self._by_name:
            path = str(self.links.root / name).rstrip(os.sep) + os.sep
            target = self.links.check(path).rstrip(os.sep) + os.sep
            folder = _Folder(path, target, set(), set(), set())
            self._fill(folder)
            self._by_name[name] = folder
        return self._by_name[name]

    def look_up(self, name: str, extension: str) -> tuple[str, str, str]:
        """Return the path of a name with an extension, the same without links, and what it is."""
        last = name.rpartition(os.sep)[2]
        folder = self.read(name[: len(name) - len(last)])
        last += extension
        path = folder.path + last
        if last in folder.files:
            return path, folder.target + last, _FILE
        if last in folder.links:
            target = self.links.check(path, refuse_broken=True)
            return path, target, _FOLDER if Path(target).is_dir() else _FILE
        is_folder = last in folder.folders or last in (os.curdir, os.pardir)
        is_folder = is_folder or (not last and Path(path).is_dir())
        return path, folder.target + last, _FOLDER if is_folder else _NOTHING

    def _fill(self, folder: _Folder) -> None:
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        folder.links.add(entry.name)
                    elif entry.is_dir():
                        folder.folders.add(entry.name)
                    else:
                        folder.files.add(entry.name)
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise DataError(
                    f"the folder {folder.path!r} cannot be read: {error.strerror}"
                ) from error


def _find(
    listed: _List, extension: str, folders: _Folders, stop: bool = False
) -> tuple[FoundFiles, _Missing]:
    """Find names with an extension added; with `stop`, up to the first that is missing."""
    found, missing = FoundFiles([], [], []), _Missing([], [])
    for index, name in enumerate(listed.names):
        try:
            path, target, kind = folders.look_up(name, extension)
        except DataError as error:
            raise DataError(f"{listed.path}, line {listed.lines[index]}: {error}") from error
        if kind != _FILE:
            (missing.folders if kind == _FOLDER else missing.nothing).append(index)
            if stop:
                break
        found.paths.append(path)
        found.targets.append(target)
    return found, missing


def _list_extensions(name: str, folders: _Folders) -> list[str]:
    """Return the image extensions with which there is a file of that name."""
    last = name.rpartition(os.sep)[2]
    folder = folders.read(name[: len(name) - len(last)])
    ends = {entry[len(last) :] for entry in folder.files | folder.links if entry.startswith(last)}
    return sorted(end for end in ends if end.lower() in EXTENSIONS)


def _refuse_missing(listed: _List, links: Links, missing: _Missing) -> None:
    """Raise DataError if a file is missing."""
    csv_path, names, lines = listed
    if missing.nothing:
        gone = [names[index] for index in missing.nothing]
        are = "file that is" if len(gone) == 1 else "files that are"
        also = ", with or without the extension of an image" if len(gone) == len(names) else ""
        raise DataError(
            f"{csv_path} names {len(gone):,} {are} not in the folder {links.root}{also}:"
            f" {list_names(gone)}, the first in line {lines[missing.nothing[0]]}. Names are"
            " relative to that folder"
        )
    if missing.folders:
        index = missing.folders[0]
        raise DataError(
            f"{csv_path}, line {lines[index]}: {list_names([names[index]])} is a folder. Name files"
        )
