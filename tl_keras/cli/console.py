"""The common parts of the commands: help, one-line errors, exit codes."""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Protocol, TypeVar

from tl_keras.config import Config
from tl_keras.config.tfds import SELECTIONS
from tl_keras.distributed import cluster_config
from tl_keras.errors import DataError, StoppedError, TransferError, WriteError
from tl_keras.experiment.validate import reads_source
from tl_keras.runtime import interruption, keras_defaults


class CommandSettings(Protocol):
    """The parsed command line."""

    @property
    def debug(self) -> bool:
        """Whether errors print their traceback."""


S = TypeVar("S", bound=CommandSettings)


def run_command(
    argv: Sequence[str],
    read: Callable[[Sequence[str]], S | None],
    help_text: Callable[[bool], str],
    work: Callable[[S], str],
) -> int:
    """Run a command, print its result, its help or an error, and return the exit code.

    Args:
        argv: the program's name and its arguments.
        read: parses `argv`; `--help` gives None.
        help_text: returns the text of `--help`, or of `--helpfull` if the argument is True.
        work: runs the command and returns the text to print; '' for nothing.
    """
    debug = "--debug" in argv or "--debug=true" in argv
    try:
        settings = read(argv)
        if settings is None:
            # Without this, `--help | head` would print a BrokenPipeError.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            _print(help_text(any(word.endswith("-helpfull") for word in argv)))
            return 0
        debug = settings.debug
        with interruption.handle_signals():
            if text := work(settings):
                _print(text)
        return 0
    except TransferError as error:
        # Where standard error is closed, only the exit code remains.
        with contextlib.suppress(OSError):
            if debug:
                traceback.print_exc()
            print(f"tl_keras: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            print(f"tl_keras: {interruption.MESSAGE}", file=sys.stderr)
        return StoppedError.exit_code


def _print(text: str) -> None:
    """Print a result.

    Raises:
        WriteError: the standard output cannot be written: a full disk, or a closed pipe.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # Python would write the buffer again at exit and print a second error.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise WriteError(f"the output cannot be written: {error.strerror or error}") from error


def check_inputs(config: Config) -> bool:
    """Check Keras, the cluster, the weights file and the dataset names before TensorFlow loads.

    Returns:
        Whether this process is part of a cluster.

    Raises:
        TransferError: see tl_keras.errors.
    """
    keras_defaults.check_backend()
    in_cluster = bool(cluster_config.find_cluster_variable(config.strategy))
    check_weights_file(config)
    check_datasets(config)
    return in_cluster


def check_datasets(config: Config) -> None:
    """Raise an error for a missing dataset. Folders are checked later, when they are read."""
    from tl_keras.data import catalog, reading

    datasets = [(config.target, "tfds")]
    if reads_source(config):
        datasets.append((config.source, "source_tfds"))
    for name, selection in datasets:
        if catalog.find(name).reader != "folder":
            reading.open_dataset(
                name,
                framing=config.framing,
                data_dir=config.data_dir,
                tfds=getattr(config, selection),
                tfds_prefix=SELECTIONS[selection],
            )


def check_weights_file(config: Config) -> None:
    """Check that --source_weights is a weights file and safe to read, before TensorFlow loads.

    The check takes 0.2 s and is repeated when the file is read. A file with a given sha256 is only
    checked there, because its hash is compared first.

    Raises:
        DataError: the file cannot be used.
    """
    from tl_keras.methods import catalog
    from tl_keras.models import file_structure
    from tl_keras.storage import files

    is_used = config.source_weights and catalog.find(config.method).copies_weights
    if not is_used or config.source_weights_sha256:
        return
    try:
        # The later reading reports files that cannot be opened.
        with contextlib.suppress(OSError):
            path = files.expand_user(config.source_weights)
            if path.is_file():
                file_structure.read(path)
    except DataError as error:
        flag = f"--source_weights={config.source_weights}"
        raise DataError(f"{flag} {error}") from error.__cause__


@contextlib.contextmanager
def suppress_output(debug: bool, *, in_cluster: bool = False) -> Iterator[None]:
    """Suppress what TensorFlow's libraries print while they load; they have no setting for it.

    Args:
        debug: print everything.
        in_cluster: suppress TensorFlow's errors too: a process that loses a peer prints pages.
    """
    if debug:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if in_cluster else "2")
    console = os.dup(sys.stderr.fileno())
    with _open_temporary_file() as hidden:
        os.dup2(hidden.fileno(), sys.stderr.fileno())
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(console, hidden.read())
            raise
        finally:
            os.dup2(console, sys.stderr.fileno())
            os.close(console)


def _open_temporary_file() -> IO[bytes]:
    """Return a new anonymous file, or raise WriteError if none can be made.

    Keras needs temporary files to save a model, so the error comes before training.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise WriteError(
            f"temporary files cannot be written ({error.strerror or error}). Set TMPDIR to a folder"
            " that can"
        ) from error
