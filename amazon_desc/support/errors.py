"""What a user can mend: the message says where, what was wanted, what was found, what to do.

The command line prints these without a traceback and leaves with their exit code. Everything else
that goes wrong is our own mistake, and keeps its traceback (exit code 1).
"""


class UserError(ValueError):
    """Wrong options, or files that do not belong together."""

    exit_code = 2


class DataError(UserError):
    """A file of products or titles that cannot be used."""

    exit_code = 3


class CheckpointError(UserError):
    """No intact checkpoint to resume from."""

    exit_code = 4


class NotFiniteError(UserError):
    """A loss, gradient or weight that is NaN or infinite."""

    exit_code = 5


class OutOfMemoryError(UserError):
    """Too little memory, of the GPU or of the machine."""

    exit_code = 6


class StorageError(UserError):
    """A disk that is full, a folder that cannot be written, or one that does not answer."""

    exit_code = 7


class PeerLostError(UserError):
    """Another process of the same command has ended, or does not answer."""

    exit_code = 69  # EX_UNAVAILABLE of BSD's sysexits.h


class InUseError(UserError):
    """Another process is at work on the same thing; the same command works when it is done."""

    exit_code = 75  # EX_TEMPFAIL of BSD's sysexits.h


class Interrupted(BaseException):
    """This process was asked to leave; no `except Exception` may hold it up.

    Args:
        why: what asked: the name of a signal, or of an option
        exit_code: that it leaves with; of a signal 128 and its number, as a shell says it
    """

    def __init__(self, why: str, exit_code: int) -> None:
        super().__init__(why, exit_code)
        self.why = why
        self.exit_code = exit_code
