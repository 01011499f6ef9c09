"""The command line of `python -m tl_keras.launch`."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tl_keras.errors import UsageError

USAGE = """\
Train in several processes on this machine that share each batch, to test what several machines
would do. With TF_CONFIG or srun, each machine starts python -m tl_keras.main itself.

  python -m tl_keras.launch --workers=2 -- --flagfile=experiments/mnist_to_usps.flags --shots=10

Flags before the --:

  --workers=2
      number of processes; they share the processor's cores [1 to 64; unit: processes]
  --program=main
      program to run [one of main, compare]

Flags after the -- go to the program; see python -m tl_keras.main --help. The report of the first
process is printed. Log lines begin with the number of the process: [0], [1] and so on. The
processes communicate over 127.0.0.1, without a password and without encryption.

The exit code is that of the first process to fail, 76 if it was killed, or 0.
"""

MAX_WORKERS = 64
PROGRAMS = ("main", "compare")


class Launch(NamedTuple):
    """The parsed command line.

    Attributes:
        workers: number of processes.
        program: the program to run: "main" or "compare".
        flags: flags of that program.
    """

    workers: int
    program: str
    flags: tuple[str, ...]


def parse(argv: Sequence[str]) -> Launch | None:
    """Parse a command line; `--help` gives None.

    Raises:
        UsageError: a flag is unknown or out of range.
    """
    launch_words = list(argv[1 : argv.index("--")]) if "--" in argv else list(argv[1:])
    if any(re.fullmatch("--?(help|h)", word) for word in launch_words):
        return None
    values = {"workers": "2", "program": "main"}
    for word in launch_words:
        match = re.fullmatch("--?([a-z]+)=(.*)", word)
        if not match or match[1] not in values:
            raise UsageError(
                f"'{word}' is not a flag of tl_keras.launch, which has --workers and --program. Put"
                " the program's flags after --"
            )
        values[match[1]] = match[2]
    workers, program = values["workers"], values["program"]
    if not re.fullmatch("[0-9]{1,4}", workers) or not 1 <= int(workers) <= MAX_WORKERS:
        raise UsageError(f"--workers={workers}: must be a whole number from 1 to {MAX_WORKERS}")
    if program not in PROGRAMS:
        raise UsageError(f"--program={program}: must be one of {', '.join(PROGRAMS)}")
    flags = tuple(argv[argv.index("--") + 1 :]) if "--" in argv else ()
    return Launch(int(workers), program, flags)
