"""Find a dataset of tensorflow-datasets on disk, or download and prepare it."""

import contextlib
import difflib
import errno
import io
import logging
import os
import re
import socket
import stat
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from tl_keras.config.bounds import to_one_line
from tl_keras.data import catalog, usps
from tl_keras.errors import DataError, TransferError, UsageError, WriteError
from tl_keras.storage import files

tfds.disable_progress_bar()

_NAME = re.compile(r"\w+(/[\w.\-]+)?(:\d+\.\d+\.\d+)?", re.ASCII)
# Noise in the errors of tfds and TensorFlow: our own arguments, and names of graph nodes.
_NOISE = re.compile(r'^Failed to construct dataset .*?}": |\{\{.*?\}\} | \[Op:\w+\]( name:.*)?$')
_CONNECT_SECONDS = 3.0
_PORTS = {"http": 80, "https": 443, "ftp": 21}
_NO_ROOM = ("disk space", "No space left", "Read-only file system", "Disk quota exceeded")
_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def search_folders(data_dir: str) -> list[Path]:
    """Return the folders to search for prepared datasets, in order."""
    names = (data_dir, os.environ.get("TFDS_DATA_DIR", ""), "~/tensorflow_datasets")
    paths = [files.expand_user(name).absolute() for name in names if name]
    return list(dict.fromkeys(paths))


def find_builder(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Return the builder of a dataset, for the first folder in which it is prepared, if any.

    An older prepared version is used if the current one is missing.

    Raises:
        UsageError: there is no dataset, configuration or version of that name.
        DataError: the dataset's description on disk is damaged.
    """
    if not _NAME.fullmatch(name):
        raise _unknown_dataset_error(name)
    builders = [
        builder for root in search_folders(data_dir) if (builder := _make_builder(name, root))
    ]
    if not builders:
        raise _unknown_dataset_error(name)
    return next((builder for builder in builders if is_prepared(builder)), builders[0])


@contextlib.contextmanager
def silence_tfds() -> Iterator[None]:
    """Suppress the output and the warnings of tfds."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Return whether a dataset is prepared. The function of tfds logs a warning if it is not."""
    return Path(builder.data_dir, "dataset_info.json").exists()


def _make_builder(name: str, root: Path) -> tfds.core.DatasetBuilder | None:
    try:
        builder = tfds.builder(name, data_dir=root)
        if ":" not in name and not is_prepared(builder):
            versions = tfds.core.utils.version.list_all_versions(Path(builder.data_dir).parent)
            if versions:
                return tfds.builder(f"{name}:{max(versions)}", data_dir=root)
        return builder
    except tfds.core.DatasetNotFoundError:
        return None
    except (ValueError, AssertionError) as error:
        if "not found" in str(error):
            configurations = ", ".join(sorted(tfds.builder_cls(name.split("/")[0]).builder_configs))
            raise UsageError(
                f"dataset '{name}' has no such configuration."
                + (f" Choose one of {configurations}" if configurations else " Leave it out")
            ) from error
        if "cannot be loaded" in str(error):
            raise UsageError(f"dataset '{name}': {short_reason(error)}") from error
        raise _damaged_dataset_error(name, root, error) from error
    except ImportError as error:
        raise DataError(
            f"dataset '{name}' needs a package that cannot be imported: {short_reason(error)}"
        ) from error
    except Exception as error:  # json, protobuf and TensorFlow raise errors of many kinds
        raise _damaged_dataset_error(name, root, error) from error


def _damaged_dataset_error(name: str, root: Path, error: Exception) -> DataError:
    folder = root / name.split(":")[0]
    return DataError(
        f"dataset '{name}' in {folder} is damaged ({short_reason(error)}). Delete that folder, and"
        " the dataset is prepared again"
    )


def _unknown_dataset_error(name: str) -> UsageError:
    listed = sorted(catalog.DATASETS)
    known = {*listed, *tfds.list_builders(with_community_datasets=False)}
    close = difflib.get_close_matches(name, sorted(known), n=3)
    hint = f"did you mean {' or '.join(close)}? Choose" if close else "choose"
    return UsageError(
        f"dataset '{name}' is not known: {hint} one of {', '.join(listed)}, folder:PATH,"
        " csv:FILE, or a tensorflow-datasets name"
    )


def short_reason(error: BaseException) -> str:
    """Return the message of an error in one line of at most 300 characters."""
    text = _NOISE.sub("", to_one_line(error)) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def prepare(name: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """Prepare a dataset in the first writable folder, and return its builder.

    Files in `downloads/manual` of any search folder are used. The others are downloaded. The folder
    of the dataset appears when it is complete.

    Raises:
        WriteError: no folder can be written, or the disk is full.
        DataError: a file is missing and its server cannot be reached, or it is not as published.
    """
    root = _find_writable_root(name, data_dir)
    builder = tfds.builder(name, data_dir=root)
    manual = _find_manual_folder(builder, root, data_dir)
    _check_reachable(builder, manual, root)
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    try:
        with silence_tfds():
            builder.download_and_prepare(download_config=config)
    except TransferError:
        raise
    except Exception as error:
        # Another process may have prepared it meanwhile: the complete folder is renamed into place.
        if not is_prepared(builder):
            raise _preparation_error(builder, root, manual, error) from error
    return tfds.builder(name, data_dir=root)


def _find_writable_root(name: str, data_dir: str) -> Path:
    candidates = search_folders(data_dir)
    for root in candidates:
        if can_write(root):
            with contextlib.suppress(OSError):
                root.mkdir(parents=True, exist_ok=True)
                return root
    raise WriteError(
        f"dataset '{name}' is not prepared, and none of {', '.join(map(str, candidates))} can be"
        " written. Name a writable folder by --data_dir"
    )


def can_write(path: Path) -> bool:
    """Return whether a folder can be written or created.

    A folder without write permission for anyone counts as read-only, even for root.
    """
    while not path.exists() and path != path.parent:
        path = path.parent
    return bool(
        path.is_dir()
        and os.access(path, os.W_OK | os.X_OK)
        and stat.S_IMODE(path.stat().st_mode) & 0o222
    )


def _list_needed_files(builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    """Return the source files of a dataset: name in the manual folder -> URL."""
    if isinstance(builder, usps.Usps):
        return {name: usps.FOLDER_URL + name for name in usps.FILES.values()}
    return {info.filename: url for url, info in (builder.url_infos or {}).items() if info.filename}


def _find_manual_folder(builder: tfds.core.DatasetBuilder, root: Path, data_dir: str) -> Path:
    """Return the manual folder with most of the needed files, or the root's own."""
    needed = _list_needed_files(builder)
    folders = [path / "downloads" / "manual" for path in [root, *search_folders(data_dir)]]
    if needed:
        return max(folders, key=lambda folder: sum((folder / name).exists() for name in needed))
    return next(
        (folder for folder in folders if folder.is_dir() and any(folder.iterdir())), folders[0]
    )


def _check_reachable(builder: tfds.core.DatasetBuilder, manual: Path, root: Path) -> None:
    """Raise DataError within seconds if a server is down; a download would take many minutes."""
    missing = {
        name: url
        for name, url in _list_needed_files(builder).items()
        if not (manual / name).exists()
    }
    unreachable = _find_unreachable({urllib.parse.urlsplit(url)[:2] for url in missing.values()})
    absent = {n: url for n, url in missing.items() if urllib.parse.urlsplit(url)[:2] in unreachable}
    if absent:
        folder = manual if can_write(manual) else root / "downloads" / "manual"
        raise DataError(
            f"dataset '{builder.name}' is not prepared, and its server cannot be reached. Put"
            f" {', '.join(f'{name} from {url}' for name, url in absent.items())} into {folder}"
        )


def _find_unreachable(servers: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the servers (scheme, host) that accept no connection within _CONNECT_SECONDS."""
    reached: set[tuple[str, str]] = set()

    def connect(scheme: str, host: str) -> None:
        proxy = urllib.request.getproxies().get(scheme)
        address = urllib.parse.urlsplit(proxy if proxy and "//" in proxy else f"{scheme}://{host}")
        port = address.port or _PORTS.get(address.scheme, 443)
        with contextlib.suppress(OSError):
            socket.create_connection((address.hostname or "", port), _CONNECT_SECONDS).close()
            reached.add((scheme, host))

    # Daemon threads, because a name lookup has no timeout and must not delay the program's end.
    threads = [threading.Thread(target=connect, args=server, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + _CONNECT_SECONDS
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return servers - reached


def _preparation_error(
    builder: tfds.core.DatasetBuilder, root: Path, manual: Path, error: Exception
) -> TransferError:
    name = builder.name
    reason = short_reason(error)
    cannot_write = isinstance(error, OSError) and error.errno in _CANNOT_WRITE
    # TensorFlow's errors have no errno.
    if cannot_write or any(words in str(error) for words in _NO_ROOM):
        return WriteError(f"dataset '{name}' cannot be prepared in {root}: {reason}")
    if isinstance(error, ImportError):
        return DataError(f"dataset '{name}' needs a package to be prepared: {reason}")
    by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    return DataError(
        f"dataset '{name}' cannot be prepared in {root}, with {manual} for files that were"
        f" downloaded by hand: {reason}" + (f" ({' '.join(by_hand.split())})" if by_hand else "")
    )
