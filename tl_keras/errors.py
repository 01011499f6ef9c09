"""Errors that a user can fix, each with an exit code for scripts."""


class TransferError(Exception):
    """An error that is reported in one line. The process ends with `exit_code`."""

    exit_code = 1


class UsageError(TransferError):
    """An invalid flag or combination of flags."""

    exit_code = 2


class DataError(TransferError):
    """A dataset or weights file that is missing, damaged, or does not match."""

    exit_code = 65


class DivergedError(TransferError):
    """A loss, weight or output in training is not finite. The checkpoints are intact."""

    exit_code = 70

    def __init__(self, finding: str, *, is_trained: bool = False):
        """Make the message from the finding and a remedy.

        Args:
            finding: such as "the loss is not finite at step 5 of 50".
            is_trained: whether all steps are done, so that resuming from a checkpoint cannot help.
        """
        place = "in another --workdir"
        if not is_trained:
            place += (
                ", or, if the last checkpoint is early enough, in this one with these flags named"
                " in --allow_changed"
            )
        super().__init__(
            f"{finding}: training diverged; the checkpoints are intact. Lower --learning_rate or"
            " set --clip_norm=1 (for the source --source_learning_rate or --source_clip_norm),"
            f" {place}"
        )


class WriteError(TransferError):
    """A folder or a file that cannot be written."""

    exit_code = 73


class StoppedError(TransferError):
    """A run that ended early and can be continued by the same command."""

    exit_code = 75


class PeerLostError(TransferError):
    """Another process of the cluster is gone. Starting all of them again continues the run."""

    exit_code = 76
