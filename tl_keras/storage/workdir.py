"""The folder that holds everything an experiment makes, and what makes it that experiment's."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from tl_keras.config import Config
from tl_keras.config.flat import rename_old_settings
from tl_keras.config.training import SCRATCH_PREFIX
from tl_keras.errors import StoppedError, UsageError
from tl_keras.storage import files

LOG = logging.getLogger("tl_keras")

LOCK = "lock"
# A folder for the copy of a workdir, and the file in it that a process holds while it uses that.
SCRATCH, IN_USE = "tl_keras-copy-", "copy_in_use"
# Raised where the same flags come to another result: other random numbers, defaults, statistics.
VERSION, VERSION_NAME = 2, "results_version"
FOUND_WEIGHTS = "source_weights_found"
FOUND_PRECISION = "precision_found"


class Workdir:
    """WORKDIR: config.json, log.txt, looks.json, report.json, report.txt, source/, ARM-SEED/.

    One process has it at a time: use it in a `with`, which gives it back.
    """

    def __init__(self, config: Config, apart_from: Collection[str] = ()):
        """Make the folder, or open the one an earlier run of the same experiment left.

        Args:
            config: all flags.
            apart_from: names of settings that may differ from those of the earlier run, besides
                those of --allow_changed.

        Raises:
            UsageError: the folder belongs to an experiment with other settings.
            DataError: its config.json is damaged.
            WriteError: the folder cannot be made or written.
            StoppedError: another process has it.
        """
        root = Path(config.workdir or Path("runs") / default_name(config))
        # A shell leaves the ~ of --workdir=~/runs as it is.
        self.root = root.expanduser() if root.parts[:1] == ("~",) else root
        self._config = self.root / "config.json"
        self.history: dict[str, Any] = {}
        with files.writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            stack.callback(_locked(self.root).release)
            refuse_other_settings(self._config, config, apart_from)
            stack.enter_context(_logging(self.root / "log.txt"))
            self._opened = stack.pop_all()

    def __enter__(self) -> "Workdir":
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def precision(self, config: Config) -> list[str] | None:
        """Return what models compute in since the folder was begun; None where it is new.

        Raises:
            DataError: config.json is damaged.
        """
        kept = files.read_state(self._config) if self._config.is_file() else {}
        # What was begun before there was the flag goes by its default.
        if not kept or kept.get("precision", Config().precision) != config.precision:
            return None
        return kept.get(FOUND_PRECISION, ["float32", "float32", "begun when there was no other"])

    def claim(
        self,
        config: Config,
        source_weights: str,
        environment: dict[str, str],
        precision: Sequence[str],
    ) -> None:
        """Write config.json: from here on the folder is this experiment's, and no other's.

        Args:
            config: all flags.
            source_weights: sha256 of the file in --source_weights; empty without that flag.
            environment: what computes; a folder that was begun with another keeps both.
            precision: what models compute in, and why.

        Raises:
            UsageError: the folder was begun with other weights under the same name.
            DataError: config.json is damaged.
            WriteError: the file cannot be written.
        """
        kept = rename_old_settings(files.read_state(self._config)) if self._config.is_file() else {}
        if kept.get(FOUND_WEIGHTS, source_weights) != source_weights:
            raise UsageError(
                f"--source_weights={config.source_weights} is not the file that --workdir="
                f"{self.root} was begun with; choose another --workdir"
            )
        environments = kept.get("environments", [])
        if environment not in environments:
            environments = [*environments, environment]
        if len(environments) > 1:
            told = "; ".join(_changes(environments[0], environment))
            LOG.warning("%s was begun elsewhere, and last bits may differ: %s", self.root, told)
        now = _plain(config.experiment())
        changes = _changes(_resolved(kept, now), _resolved(now, kept), "--{}")
        self.history = {
            "environments": environments,
            "changes": [*kept.get("changes", []), *changes],
            FOUND_PRECISION: list(precision),
        }
        found = {FOUND_WEIGHTS: source_weights}
        write_settings(self._config, config, {**found, **self.history})

    def arm(self, arm: str, seed: int) -> Path:
        """Return where one run of one arm lies."""
        return self.root / f"{arm}-{seed}"


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Make a place in $TMPDIR for a copy of a workdir that goes away at the end.

    One that a killed process has left goes away at the beginning of the next.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*/{IN_USE}"):
        lock = filelock.FileLock(left, blocking=False)
        with contextlib.suppress(OSError, filelock.Timeout), lock:
            shutil.rmtree(left.parent)
    place = tempfile.TemporaryDirectory(prefix=SCRATCH, ignore_cleanup_errors=True)
    with place as folder, filelock.FileLock(Path(folder) / IN_USE):
        yield Path(folder) / "workdir"


class _LogFile(logging.Handler):
    """log.txt; where it cannot be written the run ends, as it would at any other file."""

    def __init__(self, path: Path):
        super().__init__()
        self._file = files.AppendFile(path)

    def emit(self, record: logging.LogRecord) -> None:
        self._file.write(f"{self.format(record)}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def _logging(path: Path) -> Iterator[None]:
    """Send the log to the console as plain lines, and to the file with times.

    The caller's own handlers stay, and get the lines too. The level and whether lines go on to the
    handlers of all loggers are as they were afterwards.
    """
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter("%(message)s"))
    file = _LogFile(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level, propagate = LOG.level, LOG.propagate
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
    LOG.addHandler(console)
    LOG.addHandler(file)
    try:
        yield
    finally:
        LOG.removeHandler(console)
        LOG.removeHandler(file)
        LOG.setLevel(level)
        LOG.propagate = propagate
        console.close()
        file.close()


def _locked(root: Path) -> filelock.FileLock:
    """Return the lock of a workdir, which is this process's until it ends, however it does.

    Raises:
        StoppedError: another process has it.
        WriteError: the folder cannot be written.
    """
    path = root / LOCK
    lock = filelock.FileLock(path, blocking=False)
    with files.writing(path):
        try:
            lock.acquire()
        except filelock.Timeout:
            raise StoppedError(
                f"--workdir={root} is in use by process {_owner(path)}; wait until that has ended,"
                " or choose another --workdir"
            ) from None
        # The lock itself is the system's; what is written here only tells whose it is.
        path.write_text(f"{os.getpid()}\n")
    return lock


def _owner(path: Path) -> str:
    try:
        return path.read_text().strip() or "?"
    except OSError:
        return "?"


def default_name(config: Config) -> str:
    """Return a folder name that tells what the experiment is, and differs where settings do."""
    source = Path(config.source_weights).stem if config.source_weights else config.source
    words = f"{source}_to_{config.target}-{config.method}"
    return f"{safe_name(words)}-{digest(config.experiment())}"


def digest(settings: dict[str, Any]) -> str:
    """Return a short hash of settings that is the same in every process."""
    text = json.dumps(settings, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def safe_name(words: str) -> str:
    """Return words as a file name may be, of 80 letters at most."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", words)[-80:]


def write_settings(path: Path, config: Config, more: Mapping[str, Any] | None = None) -> None:
    """Write a config.json, for `refuse_other_settings` to read.

    Args:
        path: of the file.
        config: all flags.
        more: what else it is to say, by name.

    Raises:
        WriteError: it cannot be written.
    """
    files.write_state(path, {**config.flat(), VERSION_NAME: VERSION, **(more or {})})


def refuse_other_settings(path: Path, config: Config, apart_from: Collection[str] = ()) -> None:
    """Raise UsageError where the config.json at `path` is of an experiment with other settings.

    Args:
        path: of the file; where there is none, nothing is refused.
        config: all flags.
        apart_from: names of settings that may differ.
    """
    if not path.is_file():
        return
    free = {*apart_from, *config.allow_changed}
    # What was written before there was a flag was run with what is the flag's default now.
    kept = {**_plain(Config().experiment()), **rename_old_settings(files.read_state(path))}
    if kept.get(VERSION_NAME) != VERSION:
        raise UsageError(
            f"--workdir={path.parent} was begun by another version of tl_keras, which draws other"
            " random numbers and has other defaults: its runs can be neither continued here nor"
            " compared with new ones. Choose another --workdir"
        )
    now = _plain(config.experiment())
    wanted = {name: value for name, value in _resolved(now, kept).items() if name not in free}
    before = _resolved(kept, now)
    differences = _changes({name: before[name] for name in wanted}, wanted, "--{}")
    if differences:
        raise UsageError(
            f"--workdir={path.parent} holds an experiment with other settings:"
            f" {'; '.join(differences)}. Give those, choose another --workdir, or name in"
            " --allow_changed what may differ"
        )


def _resolved(settings: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the target's training in place of None, where `others` say a value.

    None is how scratch trains as the target does, which is no difference by itself.
    """
    return {
        name: settings.get(name.removeprefix(SCRATCH_PREFIX))
        if value is None and name.startswith(SCRATCH_PREFIX) and others.get(name) is not None
        else value
        for name, value in settings.items()
    }


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any], shown: str = "{}") -> list[str]:
    """Return "NAME was X, is Y" for each value that was another one before."""
    return [
        f"{shown.format(name)} was {earlier[name]}, is {value}"
        for name, value in now.items()
        if name in earlier and earlier[name] != value
    ]


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as JSON gives them back."""
    return json.loads(json.dumps(settings))
