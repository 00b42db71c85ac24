"""What passes between a server and an enrolled host while neither dies: instructions, and ends that come late."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path, PurePosixPath
from time import monotonic

import pytest
import pytest_asyncio

from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Actor, Delivery, Job, Outcome, Signal, SignalName, Status, Stop, StopReason
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.envelope import Envelope
from backend.core.policy.admit import Scope, admit
from backend.core.policy.files import Unseen
from backend.core.recording.writer import Recorder
from backend.host_agent.handlers import HandlersError, installed_handlers
from backend.policies.loader import load_profile
from backend.runtime.clock import new_id
from backend.runtime.hosts import LateAnswers
from backend.storage.memory.audit_log import MemoryAuditLog
from tests.client import BOUND
from tests.executors.local.test_pipelines import Log
from tests.host_agent.attached import Attached, attached
from tests.redis_server import Redis

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Attached]:
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o711)
    async with attached(folder, redis) as found:
        yield found


def begin(host: Attached, line: str) -> "tuple[asyncio.Future[Outcome], Job, Log, Instructions]":
    """Run a line on the host."""
    return begin_command(host, HostCommand("run", {"line": line}))


def begin_command(host: Attached, asked: HostCommand) -> "tuple[asyncio.Future[Outcome], Job, Log, Instructions]":
    """Run a command of the host."""
    command = asked.line
    plan = admit(command, Scope(load_profile("host").with_extra([asked.name]), Unseen(PurePosixPath("/")), False), ".")
    assert not isinstance(plan, Decision)
    job = Job(new_id(), "", Actor("user:ann", "127.0.0.1"), command, plan, 20.0, 1 << 20)
    log, instructions = Log(), Instructions(stdin=False)
    run = host.executor.run(job, Recorder(job.execution, log, monotonic), instructions)
    return asyncio.ensure_future(run), job, log, instructions


async def until(happened: object, what: str) -> None:
    assert callable(happened)
    async with asyncio.timeout(BOUND):
        while not happened():
            await asyncio.sleep(0.01)


async def test_a_signal_that_no_host_confirms_is_unreachable(host: Attached) -> None:
    (host.agent.settings.data_dir / "lines" / "log").write_text("begins\n")
    task, _, log, instructions = begin(host, "tail -f log")
    assert await instructions.deliver(Signal(SignalName.INT)) is Delivery.NOT_RUNNING  # it has not begun
    await until(lambda: "begins" in log.text("stdout"), "its first line")
    known, host.jobs.jobs = host.jobs.jobs, {}  # as if the agent had been started again
    assert await instructions.deliver(Signal(SignalName.INT)) is Delivery.UNREACHABLE
    host.jobs.jobs = known
    assert await instructions.deliver(Signal(SignalName.INT)) is Delivery.DELIVERED
    outcome = await task
    assert (outcome.status, outcome.exit_code) == (Status.FAILED, 130)


async def test_the_end_of_an_execution_that_nothing_waits_for_is_on_record(host: Attached) -> None:
    task, job, log, _ = begin(host, "echo begins; sleep 1; echo ends")
    await until(lambda: "begins" in log.text("stdout"), "its first line")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    def ended() -> list[tuple[str, Envelope]]:
        return [(id, each) for id, each in host.strays if each.body.get("end")]

    await until(ended, "the end")
    audit = MemoryAuditLog(lambda: "2026-01-02T03:04:05Z", new_id)
    late = LateAnswers(audit, lambda text: text.replace("ends", "***"))
    for each in host.strays:
        late.stray(*each)
    late.stray("web-01", Envelope("output", {"execution": 5, "end": {}}))
    late.stray("web-01", Envelope("output", {"execution": job.execution, "end": {"status": "failed"}, "parts": 5}))
    late.stray("web-01", Envelope("output", {"execution": job.execution, "end": {"status": "failed"}, "parts": [5]}))
    await until(lambda: not late.started.tasks, "the record")
    first, odd = audit.events
    assert (first.kind, first.actor) == ("answered_late", "host:web-01")
    assert first.fields["execution"] == job.execution
    assert (first.fields["success"], first.fields["output"]) == (True, "***\n")
    assert odd.fields["success"] is False


async def test_a_stop_is_confirmed_by_the_end(host: Attached) -> None:
    task, _, log, instructions = begin(host, "echo begins; tail -f /dev/null")
    await until(lambda: "begins" in log.text("stdout"), "its first line")
    assert await instructions.deliver(Stop(StopReason.CANCELLED)) is Delivery.DELIVERED
    assert (await task).status is Status.CANCELLED
    assert "may still run" not in log.text("stderr")


PACKAGE = """
from backend.host_agent.handlers import HandlerError, handler

@handler("deploy", timeout=5)
async def anything(params):
    if params.get("version") != "1":
        raise HandlerError("There is no such version.")
    return {"deployed": params["version"]}

async def report(params):
    return ["fine"]

def no_handler(params): ...
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for installed packages, with a package in it."""
    (tmp_path / "site" / "acme-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "acme_handlers.py").write_text(PACKAGE)
    (tmp_path / "site" / "acme-1.0.dist-info" / "METADATA").write_text("Name: acme\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site" / "acme-1.0.dist-info" / "entry_points.txt"


async def test_installed_packages_add_handlers(package: Path, redis: Redis, tmp_path: Path) -> None:
    package.write_text("[gatepost.handlers]\nship = acme_handlers:anything\nreport = acme_handlers:report\n")
    async with attached(tmp_path / "own", redis, "own-01", namespaces="auto", raw_output=True) as host:
        assert {"deploy", "report", "echo"} <= host.agent.handlers.keys()
        assert host.agent.handlers["deploy"].timeout == 5
        task, _, log, _ = begin_command(host, HostCommand("deploy", {"version": "1"}))
        assert (await task).status is Status.SUCCEEDED
        assert log.text("stdout") == '{"deployed": "1"}\n'
        task, _, log, _ = begin_command(host, HostCommand("deploy", {"version": "2"}))
        refused = await task
        assert (refused.status, refused.rule, refused.problem) == (
            Status.FAILED,
            "host.refused",
            "There is no such version.",
        )
        task, _, log, _ = begin_command(host, HostCommand("report", {}))
        assert (await task).status is Status.SUCCEEDED
        assert log.text("stdout") == '["fine"]\n'
        await lines_are_kept_raw_and_run_in_namespaces(host)


async def lines_are_kept_raw_and_run_in_namespaces(host: Attached) -> None:
    """GATEPOST_RAW_OUTPUT and GATEPOST_NAMESPACES, as on a server; one agent serves this test and the one before."""
    task, _, log, _ = begin(host, r"printf 'a\033]0;title\007b\n'")
    outcome = await task
    assert log.text("stdout") == "ab\n"
    kept = b"".join(path.read_bytes() for path in (host.agent.settings.data_dir / "recordings").rglob("*.ndjson"))
    assert b"title" in kept
    if host.agent.guard.rooms.make:
        assert outcome.usage.protection == "L3"


@pytest.mark.parametrize("name", ["no_handler", "missing"])
async def test_a_broken_package_is_named(package: Path, name: str) -> None:
    package.write_text(f"[gatepost.handlers]\nwrong = acme_handlers:{name}\n")
    with pytest.raises(HandlersError, match="wrong"):
        installed_handlers()
