"""What passes between a server and an enrolled host while neither dies: instructions, and ends that come late."""

import asyncio
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytest_asyncio
from redis import Redis as Client

from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    Actor,
    Delivery,
    Job,
    Outcome,
    Signal,
    SignalName,
    Status,
    Stop,
    StopReason,
)
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.envelope import Envelope
from backend.core.hosts.messages import Dropped, SeenIds
from backend.core.hosts.naming import jobs_stream, reply_stream
from backend.core.policy.admit import Scope, admit
from backend.core.policy.files import Unseen
from backend.core.recording.redaction.spans import MASK
from backend.core.recording.writer import Recorder
from backend.executors.host.streamed import ASK_AGAIN, RESUMED_WITHIN, START_WITHIN
from backend.host_agent.front import AT_ONCE
from backend.host_agent.handlers import Handler, HandlerError, HandlersError, QuickHandler, installed_handlers
from backend.policies.loader import load_profile
from backend.runtime import agent_check
from backend.runtime.clock import new_id, now_ms
from backend.runtime.hosts import LateAnswers
from backend.storage.memory.audit_log import MemoryAuditLog
from tests.client import BOUND
from tests.executors.local.test_pipelines import Log
from tests.host_agent.attached import Attached, attached
from tests.ids import numbered_id
from tests.redis_server import Redis

# What only a hostile host sends: a text in it is no JSON.
NO_OUTPUT = b'{"type":"stdout","execution":"1","seq":2,"ms":1,"lines":["\\x"]}\n'
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Attached]:
    folder = tmp_path_factory.mktemp("host")
    folder.chmod(0o711)
    async with attached(folder, redis) as found:
        yield found


def begin(host: Attached, line: str, **more: Any) -> "tuple[asyncio.Future[Outcome], Job, Log, Instructions]":
    """Run a line on the host."""
    return begin_command(host, HostCommand("run", {"line": line}), **more)


def begin_command(
    host: Attached,
    asked: HostCommand,
    *,
    resumed: bool = False,
    age: float = 0,
    seconds: float = 20.0,
    limit: int = 1 << 20,
    room: bool = True,
) -> "tuple[asyncio.Future[Outcome], Job, Log, Instructions]":
    """Run a command of the host, or take one up that was submitted `age` seconds ago. Without `room` no output is stored."""
    command = asked.line
    plan = admit(command, Scope(load_profile("host").with_extra([asked.name]), Unseen(PurePosixPath("/")), False), ".")
    assert not isinstance(plan, Decision)
    id = numbered_id(now_ms() - int(age * 1000), secrets.randbits(64))
    job = Job(id, "", Actor("user:ann", "127.0.0.1"), command, plan, seconds, limit, resumed=resumed)
    log, instructions = Log(), Instructions(stdin=False)
    run = host.executor.run(job, Recorder(job.execution, log, monotonic, count=lambda _: room), instructions)
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


async def test_output_that_was_cut_is_a_failure_even_if_its_command_had_ended(host: Attached) -> None:
    echo = HostCommand("echo", {"message": "0123456789"})  # what it says and its end are one message
    task, job, log, instructions = begin_command(host, echo, limit=5)
    outcome = await task
    assert (outcome.status, outcome.stdout_bytes, log.text("stdout")) == (Status.FAILED, 5, "01234")
    assert instructions.reason is StopReason.OUTPUT_LIMIT
    record = await host.agent.service.history.get(job.execution)
    assert record
    assert record.status is Status.SUCCEEDED


async def test_a_command_whose_output_finds_no_room_here_is_stopped_there(host: Attached) -> None:
    task, job, log, instructions = begin(host, "echo begins; tail -f /dev/null", room=False)
    outcome = await task
    assert (outcome.status, outcome.exit_code, log.text("stdout")) == (Status.FAILED, EXIT_GATEPOST_FAILED, "")
    assert instructions.reason is StopReason.RECORDINGS_FULL
    record = await host.agent.service.history.get(job.execution)
    assert record
    assert record.status is Status.FAILED


@pytest.mark.parametrize(
    ("result", "rule", "size"),
    [
        ("\x01" * 170_000, "", 170_001),  # six bytes each
        ("\\" * 1_000_000, "host.output", 0),  # two bytes each: more than a message holds
        (HandlerError("x" * 3_000_000), "host.refused", 0),
    ],
)
async def test_what_a_handler_says_fits_into_a_message_or_is_refused(
    host: Attached, monkeypatch: pytest.MonkeyPatch, result: str | HandlerError, rule: str, size: int
) -> None:
    def answer(_: Any) -> str:
        if isinstance(result, HandlerError):
            raise result
        return result

    monkeypatch.setitem(cast(dict[str, Handler], host.agent.handlers), "echo", QuickHandler("echo", 5, answer))
    task, _, _, _ = begin_command(host, HostCommand("echo", {}))
    outcome = await task
    assert (outcome.rule, outcome.stdout_bytes, outcome.status is Status.SUCCEEDED) == (rule, size, not rule)
    assert len(outcome.problem) <= 4096


async def test_a_line_that_has_not_ended_is_shown(host: Attached) -> None:
    """A question, for example: what answers it must see it."""
    task, _, log, instructions = begin(host, "printf 'Continue? '; tail -f /dev/null")
    await until(lambda: log.text("stdout") == "Continue? ", "the question")
    instructions.stop(StopReason.CANCELLED)
    assert (await task).status is Status.CANCELLED


async def held_back(host: Attached) -> "tuple[asyncio.Future[Outcome], Job]":
    """A command that has arrived, and waits until one of the four that run has ended."""
    for _ in range(AT_ONCE):
        await host.jobs.front.free.acquire()
    task, job, _, _ = begin(host, "echo begun")
    await until(lambda: job.execution in host.jobs.jobs, "the job")
    await until(lambda: bool(host.jobs.front.free._waiters), "that it waits for its turn")
    return task, job


def release(host: Attached) -> None:
    for _ in range(AT_ONCE):
        host.jobs.front.free.release()


async def test_what_its_server_may_have_given_up_is_not_begun(host: Attached) -> None:
    task, job = await held_back(host)
    waiting = host.jobs.jobs[job.execution].task
    assert waiting
    task.cancel()  # the server says no more
    await asyncio.gather(task, return_exceptions=True)
    host.jobs.now = lambda: time.time() + START_WITHIN + 2
    release(host)
    await waiting
    assert await host.agent.service.history.get(job.execution) is None
    host.jobs.now = time.time


async def test_what_its_server_still_waits_for_is_asked_for_again_and_begins(host: Attached) -> None:
    task, job = await held_back(host)
    host.jobs.jobs[job.execution].expires = 0  # its server could not say for long that it still waits
    release(host)
    outcome = await task
    assert (outcome.status, outcome.exit_code) == (Status.SUCCEEDED, 0)


async def test_the_time_of_a_command_begins_when_its_host_has_it(host: Attached, redis: Redis) -> None:
    """So an agent that takes longer to start than a command may take costs no command."""
    client: Any = Client(unix_socket_path=str(redis.path))
    await host.stop_listening()
    try:
        task, _, log, _ = begin_command(host, HostCommand("echo", {"message": "hi"}), seconds=ASK_AGAIN - 0.5)
        await until(lambda: client.xlen(jobs_stream("web-01")) > 1, "that it is asked for again")
    finally:
        host.listen()
    assert (await task).status is Status.SUCCEEDED
    assert log.text("stdout") == "hi\n"


async def test_a_job_whose_server_died_before_it_was_sent_begins(host: Attached) -> None:
    task, _, log, _ = begin_command(host, HostCommand("run", {"line": "echo begun"}), resumed=True)
    assert (await task).status is Status.SUCCEEDED
    assert log.text("stdout") == "begun\n"


@pytest.mark.parametrize("how", ["masked", "stopped", "old"])
async def test_a_job_that_is_taken_up_does_not_begin_without_its_words_or_late(host: Attached, how: str) -> None:
    line = f"echo {MASK.decode()}" if how == "masked" else "echo begun"
    task, job, log, instructions = begin_command(
        host, HostCommand("run", {"line": line}), resumed=True, age=RESUMED_WITHIN + 1 if how == "old" else 0
    )
    if how == "stopped":
        instructions.stop(StopReason.CANCELLED)
    outcome = await task
    assert (outcome.status, outcome.rule) == (
        (Status.CANCELLED, "") if how == "stopped" else (Status.FAILED, "host.expired")
    )
    assert log.text("stdout") == ""
    assert await host.agent.service.history.get(job.execution) is None


async def test_a_host_whose_disk_is_full_refuses_and_runs_again_when_there_is_room(host: Attached) -> None:
    host.agent.gateway.protected = replace(host.agent.guard, disk_margin=1 << 62).refusal
    task, _, _, _ = begin(host, "echo hi")
    outcome = await task
    assert (outcome.status, outcome.exit_code, outcome.rule) == (Status.FAILED, 126, "storage.full")
    assert "disk" in outcome.problem
    host.agent.gateway.protected = host.agent.guard.refusal
    task, _, log, _ = begin(host, "echo hi")
    assert (await task).status is Status.SUCCEEDED
    assert log.text("stdout") == "hi\n"


async def test_a_wrong_clock_is_named_by_the_check_and_by_what_is_dropped(
    host: Attached, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = SimpleNamespace(time=lambda: time.time() + 600)
    monkeypatch.setattr(agent_check, "time", wrong)
    findings = await agent_check.check_agent(host.agent.settings, host.agent.own)
    [problem] = [each.problem for each in findings if each.name == "clock"]
    assert re.match(r"it is (599|60\d) s ahead of that of Redis\. Start a time service", problem)
    data = host.executor.party.seal("host", "run", {}, "nonce", time.time())
    found = host.executor.party.open(data, "host", wrong.time(), SeenIds())
    assert isinstance(found, Dropped)
    assert re.search(r"differ by 60\d s", found.reason)


async def test_an_execution_of_someone_else_is_not_shown(host: Attached) -> None:
    task, job, _, _ = begin(host, "echo secret")
    assert (await task).status is Status.SUCCEEDED
    again = replace(job, actor=Actor("user:eve", "127.0.0.1"))
    log = Log()
    outcome = await host.executor.run(again, Recorder(job.execution, log, monotonic), Instructions(stdin=False))
    assert (outcome.status, outcome.rule, log.text("stdout")) == (Status.FAILED, "host.parameters", "")


@pytest.mark.parametrize(
    "asked", [HostCommand("run", {"line": "echo once | tee -a runs"}), HostCommand("echo", {"message": "once"})]
)
async def test_a_job_that_redis_gives_twice_as_the_first_request_runs_once(host: Attached, asked: HostCommand) -> None:
    """As after a Redis that was restored from a copy, and an agent that was started again."""
    task, job, _, _ = begin_command(host, asked)
    assert (await task).status is Status.SUCCEEDED
    executed = host.jobs.front.executed
    log = Log()
    outcome = await host.executor.run(job, Recorder(job.execution, log, monotonic), Instructions(stdin=False))
    assert (outcome.status, log.text("stdout")) == (Status.SUCCEEDED, "once\n")
    assert host.jobs.front.executed == executed
    runs = host.agent.settings.data_dir / "lines" / "runs"
    assert not runs.exists() or runs.read_text() == "once\n"


async def test_what_redis_sent_to_a_connection_that_broke_is_read_again(host: Attached, redis: Redis) -> None:
    """Else it would be counted as unread for ever, and the host would wait."""
    party = replace(host.executor.party, host="web-02")
    stream = reply_stream("web-02", "server-1")
    client: Any = Client(unix_socket_path=str(redis.path))
    client.xgroup_create(stream, "server", id="0", mkstream=True)
    client.xadd(stream, {"m": party.seal("server", "alive", {"execution": "one"}, "n", time.time())})
    assert client.xreadgroup("server", "server-1", {stream: ">"})  # it is not acknowledged
    async with host.streams.messages_of(party, "one") as messages:
        message = await asyncio.wait_for(messages.get(), BOUND)
        assert message.kind == "alive"
        await until(lambda: client.xlen(stream) == 0, "the acknowledgement")


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
    late.stray("web-01", Envelope("alive", {"execution": job.execution, "end": {"status": "failed"}}))
    late.stray("web-01", Envelope("output", {"execution": job.execution, "end": {"status": "failed"}}, NO_OUTPUT))
    await until(lambda: not late.started.tasks, "the record")
    first, odd = audit.events
    assert (first.kind, first.actor) == ("answered_late", "host:web-01")
    assert first.fields["execution"] == job.execution
    assert (first.fields["success"], first.fields["output"]) == (True, "***\n")
    assert odd.fields["success"] is False


async def test_a_host_cannot_fill_the_audit_with_answers_that_are_late() -> None:
    audit = MemoryAuditLog(lambda: "2026-01-02T03:04:05Z", new_id)
    late = LateAnswers(audit, str)
    for host, count in (("web-01", 2000), ("web-02", 1)):
        for number in range(count):
            end = {"execution": numbered_id(0, number), "end": {"status": "failed"}}
            late.stray(host, Envelope("output", end, NO_OUTPUT))
    await until(lambda: not late.started.tasks, "the records")
    assert Counter(each.actor for each in audit.events) == {"host:web-01": 600, "host:web-02": 1}
    assert late.figures.late == 2001


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        ({"status": "succeeded", "protection": []}, Outcome(Status.SUCCEEDED, None)),
        ({"status": ["failed"], "signal": {}}, Outcome(Status.LOST, None)),
        (
            {"status": "failed", "error": "a\ud800\0\x1b[2J\nb\u202e", "rule": "x\ud800", "signal": "\ud800"},
            Outcome(Status.FAILED, None, "\ufffd", problem="a\ufffd\ufffd\ufffd[2J\nb\ufffd", rule="x\ufffd"),
        ),
    ],
)
async def test_whatever_a_host_reports_can_be_recorded(
    host: Attached, redis: Redis, end: dict[str, Any], expected: Outcome
) -> None:
    await host.stop_listening()
    task, job, _, _ = begin(host, "echo x")
    stream, client = reply_stream("web-01", "server-1"), Client(unix_socket_path=str(redis.path))
    id = {"execution": job.execution}

    def say(kind: str, body: dict[str, Any]) -> None:
        sealed = host.executor.party.seal("server", kind, {**id, **body}, secrets.token_hex(8), time.time())
        client.xadd(stream, {"m": sealed})

    await until(lambda: job.execution in host.streams.readings["web-01"].inboxes, "the server")
    say("output", {"after": 0, "upto": 1})
    say("instructed", {"id": "1", "delivery": []})
    say("input", {"upto": {}, "closed": {}})
    say("output", {"after": 1, "upto": 2, "end": end})
    outcome = await asyncio.wait_for(task, BOUND)
    host.listen()
    assert (outcome.status, outcome.signal) == (expected.status, expected.signal)
    assert (outcome.problem, outcome.rule) == (expected.problem, expected.rule)


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
