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


class WriteError(TransferError):
    """A folder or a file that cannot be written."""

    exit_code = 73


class StoppedError(TransferError):
    """A run that ended early and can be continued by the same command."""

    exit_code = 75


class PeerLostError(TransferError):
    """Another process that shares the work is gone; all of them started again continue it."""

    exit_code = 76
