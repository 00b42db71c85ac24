"""The errors of Gatepost. What is expected (denied, timed out, cancelled) is a value, not an error.

GatepostError
└── RecordingError      the recording cannot be written
"""


class GatepostError(Exception):
    """Something in Gatepost went wrong; the docstring of each class is its default message."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class RecordingError(GatepostError):
    """The recording cannot be written, so nothing may run."""
