"""What a user can mend: the message says where, what was wanted, what was found, what to do.

The command line prints these without a traceback and leaves with their exit code. Everything else
that goes wrong is our own mistake, and keeps its traceback.
"""


class UserError(ValueError):
    """Wrong options, or files that do not belong together."""

    exit_code = 2


class DataError(UserError):
    """A file of products or titles that cannot be used."""

    exit_code = 3


class StorageError(UserError):
    """A disk that is full, or a folder that cannot be written."""

    exit_code = 7
