"""Hosts as resources: list, view, and run a command on one or on several. The rest is as for any execution."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Response
from pydantic import Field, model_validator

from backend.application.executions import ExecutionService
from backend.application.host_targets import HOST, HostTargets, unknown_host
from backend.application.submission import CommandSpec
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.gateway import check_role
from backend.core.execution.targets import TargetRef
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.naming import HOST_ID
from backend.core.hosts.registry import HostEntry
from backend.core.hosts.roster import matches
from backend.core.identity import Permission, Principal
from backend.core.recording.transcript import Transcript
from backend.core.times import iso
from backend.transports.dependencies import Access, Answer, Body, JsonOnly, granted
from backend.transports.problems import WITH_BODY, Problem, described
from backend.transports.routing import new_router
from backend.transports.schemas import KEY_HEADER, STARTING, Started, started_by
from backend.transports.turns import in_turns

MOST_HOSTS = 200  # of one request
OUTPUT_SHOWN = 64 * 1024  # characters of output in the result of one of several hosts
HostName = Annotated[str, Field(pattern=f"^{HOST_ID.pattern}$")]


class HostResponse(Answer):
    """A host. Times are UTC; `last_seen` is its last heartbeat. `status` is `online` only while it can be expected to answer."""

    id: str
    status: str
    last_seen: str | None
    started_at: str | None
    version: str
    capabilities: list[str]
    labels: dict[str, str]
    commands_executed: int
    target: str


class HostCommandBody(Body):
    """A command for a host. `timeout` is in seconds."""

    command: str = Field(min_length=1, max_length=64)
    params: dict[str, Any] = Field(default_factory=dict)
    timeout: int | None = Field(default=None, ge=1, le=86400)
    dry_run: bool = False
    metadata_only: bool = False


class ManyHostsBody(HostCommandBody):
    """A command for several hosts: those that are listed, or those of the caller that have all `labels`."""

    hosts: Annotated[list[HostName], Field(max_length=MOST_HOSTS)] = Field(default_factory=list)
    labels: Annotated[dict[str, str], Field(max_length=16)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_chosen(self) -> Self:
        if bool(self.hosts) == bool(self.labels):
            raise ValueError("name hosts or labels, not both")
        return self


class HostResult(Answer):
    """How a command ended on one host; `id` is its execution, `error` why it was refused or failed."""

    host: str
    id: str | None
    status: str
    exit_code: int | None
    output: str
    error: str | None
    rule: str | None


class ManyResults(Answer):
    """The result of each host, in the order of the request, and how many ended in which status."""

    summary: dict[str, int]
    results: list[HostResult]


@dataclass(frozen=True, slots=True)
class HostService:
    """What the routes need. `targets` is None where the server reaches no hosts; `at_once` commands of a caller may run.

    `seal` encrypts a sensitive parameter for a host, so that no record contains it.
    """

    access: Access
    service: ExecutionService
    targets: HostTargets | None
    seal: Callable[[str, str], str]
    at_once: int

    async def visible(self, principal: Principal) -> list[HostEntry]:
        """The hosts that exist for the caller."""
        return await self.targets.visible(principal) if self.targets else []

    async def find(self, principal: Principal, id: str) -> HostEntry | Decision:
        """A host that exists for the caller."""
        return await self.targets.find(principal, id) if self.targets else unknown_host(id)

    async def chosen(self, principal: Principal, body: ManyHostsBody) -> list[str]:
        """The hosts that a command is for. Raises Problem if there are none, or too many."""
        if body.hosts:
            return list(dict.fromkeys(body.hosts))
        visible = [entry.id for entry in await self.visible(principal)]
        found = [id for id in visible if self.targets and matches(self.targets.labels(id), body.labels)]
        if not found:
            raise Problem.of(
                Decision.deny("target.unknown", "You may use no host with these labels.", "GET /api/hosts.")
            )
        if len(found) > MOST_HOSTS:
            detail = f"{len(found)} hosts have these labels; at most {MOST_HOSTS} can be used at once."
            raise Problem(422, "request.invalid", detail, hint="Name further labels.")
        return found

    def response(self, entry: HostEntry) -> HostResponse:
        """A host as the API shows it."""
        healthy = self.targets is not None and entry.is_healthy(self.targets.now())
        return HostResponse(
            id=entry.id,
            status="online" if healthy else "offline",
            last_seen=_time(entry.last_heartbeat),
            started_at=_time(entry.started_at),
            version=entry.version,
            capabilities=list(entry.capabilities),
            labels=dict(self.targets.labels(entry.id)) if self.targets else {},
            commands_executed=entry.commands_executed,
            target=f"{HOST}:{entry.id}",
        )

    def spec(self, host: str, body: HostCommandBody) -> CommandSpec:
        """The command as a line. Raises Problem for parameters that no line can name."""
        command = HostCommand(body.command, body.params).sealed(partial(self.seal, host))
        try:
            line = command.line
        except ValueError as error:
            raise Problem(422, "host.parameters", f"Invalid parameters: {error}.") from error
        return CommandSpec(
            line,
            TargetRef(HOST, host),
            timeout=body.timeout,
            dry_run=body.dry_run,
            detached=True,
            metadata_only=body.metadata_only,
        )

    async def run_on(self, principal: Principal, host: str, body: HostCommandBody) -> HostResult:
        """Run a command on one of several hosts and wait for its end."""
        try:
            started = await started_by(self.service, principal, self.spec(host, body), None, "")
        except Problem as problem:
            return _refused(host, problem)
        transcript = Transcript()
        lost = await self.service.follow_started(started.id, 0, in_turns(transcript.add))
        return _ended(host, started.id, transcript, lost)


def _time(seconds: float) -> str | None:
    return iso(int(seconds * 1000)) if seconds else None


def _refused(host: str, problem: Problem) -> HostResult:
    id = problem.extra.get("command_id")
    return HostResult(
        host=host, id=id, status="denied", exit_code=None, output="", error=problem.detail, rule=problem.rule
    )


def _ended(host: str, id: str, transcript: Transcript, lost: Decision | None) -> HostResult:
    end, problem = transcript.last("complete"), transcript.last("error")
    error = lost.reason if lost else problem.get("message") or "".join(transcript.stderr)[:OUTPUT_SHOWN] or None
    return HostResult(
        host=host,
        id=id,
        status=end.get("status", "lost"),
        exit_code=end.get("exit_code"),
        output="".join(transcript.stdout)[:OUTPUT_SHOWN],
        error=error,
        rule=lost.rule if lost else problem.get("rule"),
    )


def host_routes(hosts: HostService) -> APIRouter:
    """The routes under /api/hosts."""
    router = new_router("hosts", "/api/hosts")
    _add_looking(router, hosts)
    _add_commands(router, hosts)
    return router


def _add_looking(router: APIRouter, hosts: HostService) -> None:
    reader = Depends(hosts.access.needs(Permission.READ))

    @router.get("", responses=described(403))
    async def list_hosts(principal: Annotated[Principal, reader]) -> list[HostResponse]:
        """The hosts that exist for the caller, also those that are offline."""
        return [hosts.response(entry) for entry in await hosts.visible(principal)]

    @router.get("/{host}", responses=described(403, 404))
    async def one(principal: Annotated[Principal, reader], host: str) -> HostResponse:
        """One host."""
        return hosts.response(granted(await hosts.find(principal, host)))


def _add_commands(router: APIRouter, hosts: HostService) -> None:
    caller = Depends(hosts.access.caller)

    @router.post("/commands", responses=described(*WITH_BODY, 403, 404))
    async def many(principal: Annotated[Principal, caller], body: ManyHostsBody, _: JsonOnly) -> ManyResults:
        """Run a command on several hosts, and wait for the end on each. Every one of them is an execution."""
        if refusal := check_role(principal):
            raise Problem.of(refusal)
        free = asyncio.Semaphore(hosts.at_once)

        async def run(host: str) -> HostResult:
            async with free:
                return await hosts.run_on(principal, host, body)

        results = list(await asyncio.gather(*map(run, await hosts.chosen(principal, body))))
        return ManyResults(summary=_summary(results), results=results)

    @router.post("/{host}/commands", status_code=202, responses=described(*WITH_BODY, *STARTING))
    async def start(
        principal: Annotated[Principal, caller],
        host: str,
        body: HostCommandBody,
        response: Response,
        _: JsonOnly,
        key: KEY_HEADER = None,
    ) -> Started:
        """Start a command on a host and return at once."""
        if not HOST_ID.fullmatch(host):
            raise Problem.of(unknown_host(host))
        asked: Mapping[str, Any] = {"host": host, **body.model_dump()}
        started = await started_by(
            hosts.service, principal, hosts.spec(host, body), key, json.dumps(asked, sort_keys=True)
        )
        url = f"/api/executions/{started.id}"
        response.headers["location"] = url
        return Started(id=started.id, status="running", url=url)


def _summary(results: list[HostResult]) -> dict[str, int]:
    return dict(Counter(result.status for result in results))
