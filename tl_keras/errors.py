"""The failures a user can mend, each with the exit code a script can act on."""


class TransferError(Exception):
    """A failure that is told in one line; `exit_code` is what the process ends with."""

    exit_code = 1


class UsageError(TransferError):
    """A flag, or a combination of flags, that cannot be carried out."""

    exit_code = 2


class DataError(TransferError):
    """A dataset or a weights file that is missing, damaged, or does not fit."""

    exit_code = 65


class DivergedError(TransferError):
    """A training whose loss, weights or outputs are not finite; its checkpoints are intact."""

    exit_code = 70

    def __init__(self, found: str, *, is_trained: bool = False):
        """Tell what was found, and what to do.

        Args:
            found: such as "the loss is not finite at step 5 of 50".
            is_trained: whether all steps were taken, so that no checkpoint leads elsewhere.
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
    """Another process that shares the work is gone; all of them started again continue it."""

    exit_code = 76
