"""Metrics: counters for Prometheus, next to the logs. Arguments of commands stay out of both: they may hold secrets."""

import math
from collections.abc import Callable, Iterable
from functools import cache, partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from backend.core.audit.anomalies import Alert
from backend.core.audit.attempts import Completion
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Request
from backend.core.hosts.ports import HostFigures
from backend.runtime.logs import LoggingObserver

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the number of series without use
DURATIONS = (0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600)  # seconds


@dataclass(slots=True, eq=False)
class HostCollector(Collector):
    """The figures of hosts. How many there are is set before it is asked: it is not known while Redis is away."""

    figures: HostFigures
    online: float = math.nan
    offline: float = math.nan

    def collect(self) -> Iterable[Metric]:
        """The metrics, as they are now."""
        hosts = GaugeMetricFamily("gatepost_hosts", "Hosts by their state", labels=["state"])
        hosts.add_metric(["online"], self.online)
        hosts.add_metric(["offline"], self.offline)
        commands = GaugeMetricFamily("gatepost_host_commands", "Commands for hosts by their state", labels=["state"])
        commands.add_metric(["queued"], self.figures.queued)
        commands.add_metric(["running"], self.figures.running)
        late = CounterMetricFamily("gatepost_host_answers_late", "Ends that hosts reported too late", self.figures.late)
        return hosts, commands, late


class Telemetry(LoggingObserver):
    """Counts what it logs. One for each application, with a registry of its own."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.registry = CollectorRegistry()
        self._executions = Counter(
            "gatepost_executions_total", "Commands that ended", ["result"], registry=self.registry
        )
        self._running = 0  # counted without a lock: all on the event loop
        running = Gauge("gatepost_executions_running", "Commands that are running", registry=self.registry)
        running.set_function(lambda: self._running)
        self._duration = Histogram(
            "gatepost_execution_duration_seconds", "Time commands ran", buckets=DURATIONS, registry=self.registry
        )
        self._decisions = Counter(
            "gatepost_policy_decisions_total", "Verdicts by rule", ["decision", "rule"], registry=self.registry
        )
        self._limited = Counter("gatepost_rate_limited_total", "Commands over the rate limit", registry=self.registry)
        self._alerts = Counter(
            "gatepost_alerts_total", "Alerts that were raised", ["type", "severity"], registry=self.registry
        )
        self._unwritten = Counter(
            "gatepost_audit_failures_total", "Events that could not be written to the audit", registry=self.registry
        )
        self.connections = Gauge("gatepost_ws_connections", "Open terminal sockets", registry=self.registry)
        self._allowed = cache(partial(self._decisions.labels, "allowed"))
        self._result = cache(self._executions.labels)

    def refused(self, request: Request, decision: Decision) -> None:
        self._decisions.labels("denied", decision.rule).inc()
        if decision.rule == "limits.rate":
            self._limited.inc()
        super().refused(request, decision)

    def started(self, execution: Execution) -> None:
        self._allowed(execution.attempt.decision.rule).inc()
        self._running += 1
        super().started(execution)

    def ended(self, execution: Execution, completion: Completion) -> None:
        self._running -= 1
        self._result(str(completion.status)).inc()
        self._duration.observe(completion.duration_ms / 1000)
        super().ended(execution, completion)

    def handed_over(self, execution: Execution) -> None:
        self._running -= 1
        super().handed_over(execution)

    def on_audit_failure(self, execution: str, error: StorageError) -> None:
        self._unwritten.inc()
        super().on_audit_failure(execution, error)

    def alert(self, found: Alert, request: Request) -> None:
        self._alerts.labels(found.type, found.severity).inc()
        super().alert(found, request)
