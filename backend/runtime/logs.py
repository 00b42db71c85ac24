"""Logs: one JSON object a line on standard output, with its texts masked.

Arguments of commands stay out of them: they may hold secrets. The recording has them.
"""

import json
import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TextIO

import structlog

from backend.core.audit.anomalies import DANGEROUS, Alert, AlertTracker, AttemptSummary, is_counted
from backend.core.audit.attempts import Completion
from backend.core.decisions import Decision
from backend.core.errors import StorageError, reason_of
from backend.core.execution.model import Status
from backend.core.execution.refusals import UNRECORDED
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Request
from backend.runtime.masking import masked_line

ENCODER = json.JSONEncoder(default=repr)  # made once, as structlog's renderer does not


def configure_logs(level: str, mask: Callable[[str], str]) -> None:
    """Send every log of this process, uvicorn's too, to standard output as JSON, with its texts masked."""
    open_standard_streams()
    output: Any = LogStream(sys.stdout)
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    finish: list[Any] = [
        structlog.processors.format_exc_info,
        lambda _logger, _method, line: masked_line(line, mask),
        lambda _logger, _method, line: ENCODER.encode(line),
    ]
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(output),
        cache_logger_on_first_use=True,
    )
    prepare = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, stamp]
    _adopt_foreign_logs(level, prepare, finish, output)


def _adopt_foreign_logs(level: str, prepare: list[Any], finish: list[Any], output: Any) -> None:
    """Give the logs of libraries the same shape."""
    handler = logging.StreamHandler(output)
    unwrap = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=prepare, processors=[unwrap, *finish]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel("WARNING")
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        # Below this uvicorn writes URLs, and at `debug` every header and frame: secrets are among them.
        logger.setLevel("WARNING")


def open_standard_streams() -> None:
    """Replace standard streams that are closed: other files would get their numbers, and the output meant for them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - it stays open
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        LogStream.report("it is closed")


def release_output() -> None:
    """Write what is left of the logs. Where that fails, the interpreter must not try it again and report a failure."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class LogStream:
    """Standard output for logs. That it fails, on a full disk or without a reader, must not end what is logged."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._failing = False

    def write(self, text: str) -> None:
        """Write a line, or report the first of several consecutive errors."""
        self._try(lambda: self._file.write(text))

    def flush(self) -> None:
        """The same for what is buffered."""
        self._try(self._file.flush)

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except (OSError, ValueError) as error:  # a file that was closed raises ValueError
            if not self._failing:
                self.report(reason_of(error))
            self._failing = True

    @staticmethod
    def report(reason: str) -> None:
        """Say on standard error that logs are lost."""
        with suppress(OSError, ValueError):
            text = f"gatepost: No logs can be written to standard output: {reason}. The audit is not affected."
            print(text, file=sys.stderr, flush=True)


class LoggingObserver:
    """Observes the gateway, and logs what happens there."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._watch = AlertTracker()
        self._log = structlog.get_logger().bind()

    def refused(self, request: Request, decision: Decision) -> None:
        details = {"rule": decision.rule, "risk": str(decision.risk), **_who(request)}
        if decision.rule in UNRECORDED:
            self._log.error("refused", reason=decision.reason, **details)
        else:
            self._log.info("refused", **details)
        if is_counted(decision.rule, dry_run=request.dry_run):
            self._see(request, AttemptSummary(failed=True, deletes=False, dangerous=decision.risk in DANGEROUS))

    def started(self, execution: Execution) -> None:
        self._log.debug(
            "started",
            execution=execution.id,
            program=execution.plan.program,
            rule=execution.attempt.decision.rule,
            **_who(execution.request),
        )

    def ended(self, execution: Execution, completion: Completion) -> None:
        self._log.info(
            "ended",
            execution=execution.id,
            program=execution.plan.program,
            rule=execution.attempt.decision.rule,
            status=str(completion.status),
            exit_code=completion.exit_code,
            duration_ms=completion.duration_ms,
            protection=completion.usage.protection or None,
            **_who(execution.request),
        )
        attempt = execution.attempt
        failed = completion.status is not Status.SUCCEEDED
        if is_counted(attempt.decision.rule, dry_run=attempt.dry_run):
            self._see(execution.request, AttemptSummary(failed, attempt.deletes, attempt.decision.risk in DANGEROUS))

    def handed_over(self, execution: Execution) -> None:
        self._log.info("handed over", execution=execution.id, **_who(execution.request))

    def on_crash(self, execution: str, error: Exception) -> None:
        self._log.error("execution broke", execution=execution, exc_info=error)

    def on_audit_failure(self, execution: str, error: StorageError) -> None:
        self._log.error("audit not written", execution=execution, reason=str(error))

    def _see(self, request: Request, trace: AttemptSummary) -> None:
        """Report suspicious activity when it begins."""
        if request.principal.user is None:
            return
        for found in self._watch.observe(request.principal.name, trace, self._clock()):
            self.alert(found, request)

    def alert(self, found: Alert, request: Request) -> None:
        """Something unusual has begun."""
        details = {"type": found.type, "severity": found.severity, "count": found.count}
        self._log.warning("alert opened", message=found.message, **details, **_who(request))


def _who(request: Request) -> dict[str, str]:
    return {"principal": request.principal.name, "address": request.principal.address}
