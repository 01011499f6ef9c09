"""What the commands have in common: help, errors of one line, exit codes."""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Protocol, TypeVar

from tl_keras.config import Config
from tl_keras.distributed import cluster_config
from tl_keras.errors import DataError, StoppedError, TransferError, WriteError
from tl_keras.experiment.validate import reads_source
from tl_keras.runtime import interruption, keras_defaults


class CommandSettings(Protocol):
    """What a command line says."""

    @property
    def debug(self) -> bool:
        """Whether errors show their traceback."""


S = TypeVar("S", bound=CommandSettings)


def run_command(
    argv: Sequence[str],
    read: Callable[[Sequence[str]], S | None],
    help_text: Callable[[bool], str],
    work: Callable[[S], str],
) -> int:
    """Print what `work` makes of the command line, or the help or an error; return the exit code.

    Args:
        argv: the program's name and its arguments.
        read: reads them; None where `--help` is asked for.
        help_text: what `--help` prints, and, of True, `--helpfull`.
        work: does what they say, and returns its result; '' where there is nothing to print.
    """
    debug = "--debug" in argv or "--debug=true" in argv
    try:
        settings = read(argv)
        if settings is None:
            # `--help | head` shall end as quietly as any other program does.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            _print(help_text(any(word.endswith("-helpfull") for word in argv)))
            return 0
        debug = settings.debug
        with interruption.handle_signals():
            if text := work(settings):
                _print(text)
        return 0
    except TransferError as error:
        # Where nobody can read it, there is the exit code still.
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
        WriteError: the standard output goes to a full disk, or to nobody.
    """
    try:
        print(text, flush=True)
    except OSError as error:
        # What the buffer holds would be tried once more, and told of, when Python ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise WriteError(f"the output cannot be written: {error.strerror or error}") from error


def check_inputs(config: Config) -> bool:
    """Say at once what is wrong with Keras, the cluster, the weights or the datasets' names.

    Returns:
        Whether this process is one of a cluster.

    Raises:
        TransferError: see tl_keras.errors.
    """
    keras_defaults.check_backend()
    in_cluster = bool(cluster_config.find_cluster_variable(config.strategy))
    check_weights_file(config)
    check_datasets([config.target, *([config.source] if reads_source(config) else [])], config)
    return in_cluster


def check_datasets(names: Sequence[str], config: Config) -> None:
    """Say at once that a dataset is not there; folders are looked through later, and once."""
    from tl_keras.data import catalog, reading

    for name in names:
        if catalog.find(name).reader != "folder":
            reading.open_dataset(name, framing=config.framing, data_dir=config.data_dir)


def check_weights_file(config: Config) -> None:
    """Refuse at once a --source_weights that is no file of weights, or is not safe to read.

    It is looked at again where it is read: a fifth of a second, against an answer that comes only
    after TensorFlow's import. A file whose sha256 is given is compared with that first, there.

    Raises:
        DataError: it cannot be used.
    """
    from tl_keras.methods import catalog
    from tl_keras.models import file_structure
    from tl_keras.storage import files

    wanted = config.source_weights and catalog.find(config.method).copies_weights
    if not wanted or config.source_weights_sha256:
        return
    try:
        # What cannot be opened at all is told of where it is opened.
        with contextlib.suppress(OSError):
            path = files.expand_user(config.source_weights)
            if path.is_file():
                file_structure.read(path)
    except DataError as error:
        named = f"--source_weights={config.source_weights}"
        raise DataError(f"{named} {error}") from error.__cause__


@contextlib.contextmanager
def suppress_output(debug: bool, *, in_cluster: bool = False) -> Iterator[None]:
    """Keep back what TensorFlow's libraries write while they load; no setting of theirs does.

    Args:
        debug: whether all is to be seen.
        in_cluster: whether to keep back errors too: each process that loses another one tells of it
            in pages.
    """
    if debug:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3" if in_cluster else "2")
    console = os.dup(sys.stderr.fileno())
    with _open_temporary_file() as unseen:
        os.dup2(unseen.fileno(), sys.stderr.fileno())
        try:
            yield
        except BaseException:
            unseen.seek(0)
            os.write(console, unseen.read())
            raise
        finally:
            os.dup2(console, sys.stderr.fileno())
            os.close(console)


def _open_temporary_file() -> IO[bytes]:
    """Return a new file without a name; a WriteError where there is no place for any.

    Keras wants such a place too, to write a model: better said now than when that is trained.
    """
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise WriteError(
            f"no folder takes temporary files ({error.strerror or error}): set TMPDIR to one that"
            " does"
        ) from error
