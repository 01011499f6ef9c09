"""The command line program: flags in, report out."""

import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence

from tl_keras import checks, options
from tl_keras.config import Config
from tl_keras.errors import StoppedError, TransferError


def main(argv: Sequence[str]) -> int:
    """Run the experiment that `argv` describes and return the exit code; see tl_keras.errors."""
    debug = "--debug" in argv or "--debug=true" in argv
    try:
        config = options.parse(argv)
        if config is None:
            # `--help | head` shall end as quietly as any other program does.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print(options.help_text())
            return 0
        debug = config.debug
        _find_datasets(config)
        # Only here: TensorFlow takes seconds to import, and a wrong flag should not wait for it.
        with contextlib.nullcontext() if debug else _quiet():
            from tl_keras import experiment

            experiment.start_tensorflow()

        print(experiment.run(config).text)
        return 0
    except TransferError as error:
        if debug:
            traceback.print_exc()
        print(f"tl_keras: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tl_keras: stopped; the same command continues it", file=sys.stderr)
        return StoppedError.exit_code


def _find_datasets(config: Config) -> None:
    """Say at once that a dataset is not there; folders are looked through later, and once."""
    from tl_keras.data import catalog, reading

    names = [config.target, *([config.source] if checks.reads_source(config) else [])]
    for name in names:
        if catalog.find(name).reader != "folder":
            reading.open_dataset(name, framing=config.framing, data_dir=config.data_dir)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what TensorFlow's libraries write while they load; no setting of theirs does."""
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


if __name__ == "__main__":
    sys.exit(main(sys.argv))
