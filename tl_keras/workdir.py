"""The folder that holds everything an experiment makes, and what makes it that experiment's."""

import json
import logging
import re
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tl_keras import files
from tl_keras.config import Config, digest
from tl_keras.errors import DataError, UsageError

LOG = logging.getLogger("tl_keras")


class Workdir:
    """WORKDIR: config.json, log.txt, report.json, report.txt, source/, transfer-0/, scratch-0/."""

    def __init__(self, config: Config, apart_from: Collection[str] = ()):
        """Make the folder, or open the one an earlier run of the same experiment left.

        Args:
            config: all flags.
            apart_from: names of settings that may differ from those of the earlier run.

        Raises:
            UsageError: the folder belongs to an experiment with other settings.
            WriteError: the folder cannot be made or written.
        """
        root = Path(config.workdir or Path("runs") / default_name(config))
        # A shell leaves the ~ of --workdir=~/runs as it is.
        self.root = root.expanduser() if root.parts[:1] == ("~",) else root
        self._config = self.root / "config.json"
        refuse_other_settings(self._config, config, apart_from)
        self._start_log()

    def claim(self, config: Config, source_weights_sha256: str = "") -> None:
        """Write config.json: from here on the folder is this experiment's, and no other's.

        Args:
            config: all flags.
            source_weights_sha256: of the weights in --source_weights; empty without that flag.

        Raises:
            UsageError: the folder was begun with other weights under the same name.
            WriteError: the file cannot be written.
        """
        key = "source_weights_sha256"
        earlier = read_json(self._config).get(key, "") if self._config.is_file() else ""
        if earlier and earlier != source_weights_sha256:
            raise UsageError(
                f"--source_weights={config.source_weights} is not the file that --workdir="
                f"{self.root} was begun with; choose another --workdir"
            )
        files.write_json(self._config, {**config.flat(), key: source_weights_sha256})

    @property
    def source(self) -> Path:
        """Where the pretraining lies."""
        return self.root / "source"

    def arm(self, arm: str, seed: int) -> Path:
        """Return where one run of one arm lies."""
        return self.root / f"{arm}-{seed}"

    def _start_log(self) -> None:
        """Send the log to the console as plain lines, and to log.txt with times."""
        for handler in list(LOG.handlers):
            LOG.removeHandler(handler)
            handler.close()
        console = logging.StreamHandler(sys.stderr)
        console.setFormatter(logging.Formatter("%(message)s"))
        path = self.root / "log.txt"
        with files.writing(path):
            self.root.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        LOG.setLevel(logging.INFO)
        LOG.propagate = False
        LOG.addHandler(console)
        LOG.addHandler(file)


def default_name(config: Config) -> str:
    """Return a folder name that tells what the experiment is, and differs where settings do."""
    source = Path(config.source_weights).stem if config.source_weights else config.source
    words = f"{source}_to_{config.target}-{config.method}"
    return f"{safe_name(words)}-{digest(config.experiment())}"


def safe_name(words: str) -> str:
    """Return words as a file name may be, of 80 letters at most."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", words)[-80:]


def refuse_other_settings(path: Path, config: Config, apart_from: Collection[str] = ()) -> None:
    """Raise UsageError where the config.json at `path` is of an experiment with other settings.

    Args:
        path: of the file; where there is none, nothing is refused.
        config: all flags.
        apart_from: names of settings that may differ.
    """
    if not path.is_file():
        return
    # What was written before there was a flag was run with what is the flag's default now.
    earlier = {**Config().experiment(), **read_json(path)}
    wanted: dict[str, Any] = json.loads(json.dumps(config.experiment()))
    differences = [
        f"--{name} was {earlier[name]}, is {value}"
        for name, value in wanted.items()
        if name not in apart_from and earlier[name] != value
    ]
    if differences:
        raise UsageError(
            f"--workdir={path.parent} holds an experiment with other settings:"
            f" {'; '.join(differences)}. Give those, or choose another --workdir"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file of ours.

    Raises:
        DataError: it is damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("it holds no settings by name")
        return value
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; remove it, or its folder") from error
