"""What the commands have in common: help, errors of one line, exit codes."""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from tl_keras import interruption
from tl_keras.config import Config
from tl_keras.errors import StoppedError, TransferError


class Read(Protocol):
    """What a command line says."""

    @property
    def debug(self) -> bool:
        """Whether errors show their traceback."""


R = TypeVar("R", bound=Read)


def answer(
    argv: Sequence[str],
    read: Callable[[Sequence[str]], R | None],
    help_text: Callable[[], str],
    work: Callable[[R], str],
) -> int:
    """Print what `work` makes of the command line, or the help or an error; return the exit code.

    Args:
        argv: the program's name and its arguments.
        read: reads them; None where `--help` is asked for.
        help_text: what `--help` prints.
        work: does what they say, and returns its result.
    """
    debug = "--debug" in argv or "--debug=true" in argv
    try:
        settings = read(argv)
        if settings is None:
            # `--help | head` shall end as quietly as any other program does.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print(help_text())
            return 0
        debug = settings.debug
        with interruption.listening():
            print(work(settings))
        return 0
    except TransferError as error:
        if debug:
            traceback.print_exc()
        print(f"tl_keras: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"tl_keras: {interruption.MESSAGE}", file=sys.stderr)
        return StoppedError.exit_code


def find_datasets(names: Sequence[str], config: Config) -> None:
    """Say at once that a dataset is not there; folders are looked through later, and once."""
    from tl_keras.data import catalog, reading

    for name in names:
        if catalog.find(name).reader != "folder":
            reading.open_dataset(name, framing=config.framing, data_dir=config.data_dir)


@contextlib.contextmanager
def quiet(debug: bool) -> Iterator[None]:
    """Keep back what TensorFlow's libraries write while they load; no setting of theirs does."""
    if debug:
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    console = os.dup(sys.stderr.fileno())
    with tempfile.TemporaryFile() as unseen:
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
