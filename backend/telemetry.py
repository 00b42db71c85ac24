"""Logs and figures: one JSON object a line on standard output, counters for Prometheus.

Arguments of commands stay out of both: they may hold secrets. The recording has them.
"""

import logging
import sys
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from backend.core.decisions import Decision
from backend.core.executions import Outcome, Request
from backend.core.gateway import Execution

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the figures and nobody reads them
DURATIONS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)  # seconds


def configure_logs(level: str) -> None:
    """Send every log of this process, uvicorn's too, to standard output as JSON."""
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    finish: list[Any] = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[structlog.processors.add_log_level, stamp, *finish],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(sys.stdout),
        cache_logger_on_first_use=True,
    )
    _adopt_foreign_logs(level, [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, stamp], finish)


def _adopt_foreign_logs(level: str, prepare: list[Any], finish: list[Any]) -> None:
    """Give the logs of libraries the same shape."""
    handler = logging.StreamHandler(sys.stdout)
    unwrap = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=prepare, processors=[unwrap, *finish]))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
        # Below this uvicorn writes URLs, and at `debug` every header and frame: secrets are among them.
        logger.setLevel("WARNING")


class Telemetry:
    """Watches the gateway. One for each application, with a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._log = structlog.get_logger()
        self._executions = Counter(
            "gatepost_executions_total", "Commands that ended", ["result"], registry=self.registry
        )
        self._running = Gauge("gatepost_executions_running", "Commands that run", registry=self.registry)
        self._duration = Histogram(
            "gatepost_execution_duration_seconds", "Time commands ran", buckets=DURATIONS, registry=self.registry
        )
        self._decisions = Counter(
            "gatepost_policy_decisions_total", "Verdicts by rule", ["decision", "rule"], registry=self.registry
        )
        self._limited = Counter("gatepost_rate_limited_total", "Commands over the rate limit", registry=self.registry)
        self.connections = Gauge("gatepost_ws_connections", "Open terminal sockets", registry=self.registry)

    def refused(self, request: Request, decision: Decision) -> None:
        self._decisions.labels("denied", decision.rule).inc()
        if decision.rule == "limits.rate":
            self._limited.inc()
        self._log.info("refused", rule=decision.rule, risk=str(decision.risk), **_who(request))

    def started(self, execution: Execution) -> None:
        self._decisions.labels("allowed", execution.decision.rule).inc()
        self._running.inc()
        self._log.debug(
            "started",
            execution=execution.id,
            program=execution.argv[0],
            rule=execution.decision.rule,
            **_who(execution.request),
        )

    def ended(self, execution: Execution, outcome: Outcome, seconds: float) -> None:
        self._running.dec()
        self._executions.labels(str(outcome.status)).inc()
        self._duration.observe(seconds)
        self._log.info(
            "ended",
            execution=execution.id,
            program=execution.argv[0],
            rule=execution.decision.rule,
            status=str(outcome.status),
            exit_code=outcome.exit_code,
            duration_ms=int(seconds * 1000),
            **_who(execution.request),
        )

    def broke(self, execution: Execution, error: Exception) -> None:
        self._log.error("execution broke", execution=execution.id, exc_info=error)


def _who(request: Request) -> dict[str, str]:
    return {"principal": request.principal.name, "address": request.principal.address}
