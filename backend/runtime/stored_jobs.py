"""Jobs as texts: what is stored of one that waits for a server that reaches its target."""

from functools import cache

from pydantic import TypeAdapter

from backend.core.execution.model import Job


@cache  # made for the first job that waits: it takes a fiftieth of a start
def _adapter() -> TypeAdapter[Job]:
    return TypeAdapter(Job)


def encode_job(job: Job) -> str:
    """The job as JSON."""
    return _adapter().dump_json(job).decode()


def decode_job(text: str) -> Job:
    """The job in a text. Raises ValueError."""
    return _adapter().validate_json(text)
