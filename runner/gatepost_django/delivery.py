"""Sends what a spool has, in its order, until the server has all of it."""

import logging
import threading
from dataclasses import dataclass

from gatepost_django.client import Client, Refused, Unavailable
from gatepost_django.protocol import End
from gatepost_django.spool import Chunk, Spool
from gatepost_django.standing import Denied, Standing

log = logging.getLogger("gatepost_django")

PAUSES = (0.25, 0.5, 1.0, 2.0, 5.0)  # seconds between attempts
UNKNOWN = {404, 410}  # the server knows nothing of the execution
INVALID = {409, 422}  # it will never accept this record


@dataclass
class Delivery:
    """The deliveries of a runner; each spool has a thread of its own. `stopped` is set when the runner ends at once."""

    standing: Standing
    stopped: threading.Event

    def deliver(self, spool: Spool, client: Client) -> bool:
        """Send all, and delete the spool; False if the runner ends before that."""
        attempts = 0
        while not self.stopped.is_set():
            if not self.standing.is_accepted(1.0) or (chunk := spool.next(1.0)) is None:
                continue
            reply = client.ask("POST", *_request(spool.id, chunk))
            if isinstance(reply, Unavailable) or (
                isinstance(reply, Refused) and self._may_be_accepted(spool, chunk, reply)
            ):
                self._report(spool, reply, attempts)
                self.stopped.wait(PAUSES[min(attempts, len(PAUSES) - 1)])
                attempts += 1
                continue
            attempts = 0
            if isinstance(reply, Refused) and reply.status in UNKNOWN:
                log.error("The server does not know execution %s any more: %s", spool.id, reply.detail)
                spool.delete()
                return True
            spool.advance(chunk)
            if isinstance(chunk.record, End):
                spool.delete()
                return True
        return False

    def _may_be_accepted(self, spool: Spool, chunk: Chunk, refused: Refused) -> bool:
        """Whether it is to be sent again: when the key, the clock or the size was refused, nothing is lost."""
        if refused.is_about_the_key:
            self.standing.set(Denied(refused.detail))
            return True
        if refused.status == 413 and spool.divide(chunk):
            return True
        if refused.status in UNKNOWN:
            return False
        if refused.status in INVALID or refused.status == 413:
            log.error("The server refused a piece of execution %s: %s", spool.id, refused.detail)
            return False
        return True

    def _report(self, spool: Spool, reply: Refused | Unavailable, attempts: int) -> None:
        if attempts == 1:
            reason = reply.reason if isinstance(reply, Unavailable) else reply.detail
            log.warning("The output of execution %s waits to be sent: %s", spool.id, reason)


def _request(execution: str, chunk: Chunk) -> tuple[str, dict[str, object]]:
    """The path and the body with which a chunk is sent."""
    record = chunk.record
    if isinstance(record, End):
        body: dict[str, object] = {"exit_code": record.exit_code, "status": record.status}
        return f"executions/{execution}/complete/", body
    segments = [{"timestamp": record.time, "content": record.text}]
    body = {"chunk_number": chunk.number, "segments": segments, "is_stderr": record.is_stderr}
    return f"executions/{execution}/output/", body
