"""Which links in a folder of images are followed."""

import errno
import os
from pathlib import Path

from tl_keras.errors import DataError


class Links:
    """The rule on the links in one folder.

    Attributes:
        root: the folder that they may not leave. It may be a link itself.
    """

    def __init__(self, root: Path, follow_links: bool):
        """Remember the folder, and whether links that lead out of it are followed."""
        self.root = root
        self._real_root = os.path.realpath(root)
        self._follows_all = follow_links

    def list_folders(self, folder: Path) -> list[str]:
        """Return the names of the folders in a folder, sorted by their bytes.

        Raises:
            DataError: as in `list_visible`; or a link leads nowhere: it might have been a folder.
        """
        entries = self.list_visible(folder, refuse_broken=True)
        return [entry.name for entry in entries if entry.is_dir()]

    def list_visible(self, folder: Path, *, refuse_broken: bool = False) -> list[os.DirEntry[str]]:
        """Return the entries of a folder that are not hidden, sorted by the bytes of their names.

        Args:
            folder: in `root`.
            refuse_broken: refuse links that lead nowhere. Links in a circle always are.

        Raises:
            DataError: the folder cannot be read, or a link in it leads out of `root`, or nowhere.
        """
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            raise DataError(f"the folder {folder} cannot be read: {error.strerror}") from error
        for entry in found:
            if entry.is_symlink():
                self.check(entry.path, refuse_broken=refuse_broken)
        return sorted(found, key=lambda entry: os.fsencode(entry.name))

    def check(self, path: str, *, refuse_broken: bool = False) -> str:
        """Return a path without its links.

        Args:
            path: of a file or a folder, which need not exist.
            refuse_broken: refuse links that lead nowhere. Links in a circle always are.

        Raises:
            DataError: the path leads out of `root` and may not, or nowhere.
        """
        target = os.path.realpath(path)
        if not (self._follows_all or _is_inside(target, self._real_root)):
            raise DataError(
                f"{path!r} leads out of {self.root}, to {target!r}. Put the files into that folder,"
                " or give --follow_links"
            )
        try:
            Path(path).stat()
        except OSError as error:
            if refuse_broken or error.errno == errno.ELOOP:
                raise DataError(
                    f"{path!r} is a link that leads nowhere: {error.strerror}. Remove or repair it"
                ) from error
        return target


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
