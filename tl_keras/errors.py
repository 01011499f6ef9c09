"""Errors that a user can fix, each with an exit code for scripts."""


class TransferError(Exception):
    """An error that is reported in one line. The process ends with `exit_code`."""

    exit_code = 1


class UsageError(TransferError):
    """An invalid flag or combination of flags."""

    exit_code = 2


class DataError(TransferError):
    """A dataset or a weights file that is missing, damaged, or does not match."""

    exit_code = 65


class DivergedError(TransferError):
    """The loss, weights or outputs of a training are not finite. Its checkpoints are intact."""

    exit_code = 70

    def __init__(self, found: str, *, is_trained: bool = False):
        """Make the message: what was found, and what to do.

        Args:
            found: such as "the loss is not finite at step 5 of 50".
            is_trained: whether all steps were taken, so that resuming from a checkpoint cannot
                help.
        """
        place = "in another --workdir"
        if not is_trained:
            place += (
                ", or, where the last checkpoint is early enough, in this one with these"
                " flags named in --allow_changed"
            )
        super().__init__(
            f"{found}: training diverged; the checkpoints are intact. Lower --learning_rate or set"
            " --clip_norm=1 (for the source --source_learning_rate or --source_clip_norm),"
            f" {place}"
        )


class WriteError(TransferError):
    """A folder or a file that cannot be written."""

    exit_code = 73


class StoppedError(TransferError):
    """A run that ended early and can be continued by the same command."""

    exit_code = 75


class PeerLostError(TransferError):
    """Another process of the cluster is gone. Start all of them again to continue."""

    exit_code = 76
