"""Jobs as texts: what is stored of one that waits for a server that reaches its target."""

from pydantic import TypeAdapter

from backend.core.execution.model import Job

_JOB: TypeAdapter[Job] = TypeAdapter(Job)


def encode_job(job: Job) -> str:
    """The job as JSON."""
    return _JOB.dump_json(job).decode()


def decode_job(text: str) -> Job:
    """The job in a text. Raises ValueError."""
    return _JOB.validate_json(text)
