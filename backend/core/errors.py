"""The errors of Gatepost. What is expected (denied, timed out, cancelled) is a value, not an error.

GatepostError
├── KeyFileError        a key file cannot be used
├── RecordingError      the recording cannot be written
└── StorageError        the database cannot be reached or does not do what it is told
"""


def reason_of(error: Exception) -> str:
    """What went wrong, in the words of the system where they are its."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


class GatepostError(Exception):
    """Something in Gatepost went wrong; the docstring of each class is its default message."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class KeyFileError(GatepostError):
    """A key file cannot be read or made, or others may read it."""


class RecordingError(GatepostError):
    """The recording cannot be written, so nothing may run."""


class StorageError(GatepostError):
    """The database cannot be reached, so nothing may run."""
