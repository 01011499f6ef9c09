"""The command that starts a cluster of processes on this machine and ends them together."""

import contextlib
import sys
from collections.abc import Sequence

from tl_keras.cli import launch_flags
from tl_keras.distributed import local_cluster
from tl_keras.errors import TransferError


def main(argv: Sequence[str]) -> int:
    """Run the processes that `argv` asks for and return the exit code; see tl_keras.errors."""
    try:
        launch = launch_flags.parse(argv)
        if launch is None:
            print(launch_flags.USAGE, end="")
            return 0
        return local_cluster.run(*launch)
    except TransferError as error:
        with contextlib.suppress(OSError):
            print(f"tl_keras: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
