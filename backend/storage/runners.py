"""Runners of Django projects: their keys, their commands, what they were answered, and the executions that they run."""

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Boolean, Connection, Text, bindparam, case, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from backend.core.dataclasses import dataclass
from backend.core.django.commands import CommandList, ManagementCommand
from backend.core.django.ports import Added, Caller, Reply, RunnerKey, RunnerVersions, StoredAnswer
from backend.core.django.runs import Chunk, Run, RunEnd, StopLevel
from backend.core.ids import as_id
from backend.storage.bare_connection import BareConnection
from backend.storage.database import LONG_PATIENCE, Database, changes, rows
from backend.storage.execution_rows import storable
from backend.storage.identities import checked_name
from backend.storage.tables import projects, runner_answers, runner_chunks, runner_commands, runner_keys, runner_runs

NO_PROJECT = "there is no such project"
LONGEST_VERSION = 64  # characters
# Milliseconds. A request is accepted for five minutes before and after its time, so its answer is asked for no later.
ANSWERS_KEPT = 15 * 60_000
RUNS_KEPT = 2 * 24 * 3600 * 1000  # a runner may report an end that late
BEGINNING = 60_000  # in which a server that has begun an execution has also claimed it, or died
HEARD_EVERY = 5_000  # between two writes that a runner was heard of
# What runners ask for all the time, made once: to make a statement takes longer than to run it.
OPEN_PROJECTS = select(projects.c.id).where(projects.c.deleted_ms.is_(None))
BY_SECRET = (runner_keys.c.secret_hash == bindparam("secret_hash")) & runner_keys.c.project_id.in_(OPEN_PROJECTS)
KEY = select(runner_keys).where(BY_SECRET)
ANSWERED = (runner_answers.c.key_id == runner_keys.c.id) & (runner_answers.c.nonce == bindparam("nonce"))
CALLER = (
    select(runner_keys, runner_answers.c.digest, runner_answers.c.status, runner_answers.c.body)
    .join_from(runner_keys, runner_answers, ANSWERED, isouter=True)
    .where(BY_SECRET)
)
BY_ID = select(runner_keys).where(runner_keys.c.id == bindparam("id"))
OF_PROJECT = select(runner_keys).where(runner_keys.c.project_id == bindparam("project")).order_by(runner_keys.c.id)
COMMANDS = select(runner_commands).where(runner_commands.c.project_id == bindparam("project"))
COMMANDS_HASH = select(runner_commands.c.hash).where(runner_commands.c.project_id == bindparam("project"))
SEEN = (
    update(runner_keys)
    .where(runner_keys.c.id == bindparam("key"))
    .values(
        runner_version=bindparam("runner"),
        python_version=bindparam("python"),
        django_version=bindparam("django"),
        seen_ms=bindparam("now"),
    )
)
THIS_RUN = runner_runs.c.execution == bindparam("id")
RUN = select(runner_runs).where(THIS_RUN)
HEAR = update(runner_runs).where(THIS_RUN).values(heard_ms=bindparam("now"))
HEAR_OPEN = HEAR.where(runner_runs.c.closed.is_(False))
END = (
    update(runner_runs)
    .where(THIS_RUN, runner_runs.c.end_status.is_(None))
    .values(end_status=bindparam("status"), exit_code=bindparam("code"), heard_ms=bindparam("now"))
)
OF_EXECUTION = runner_chunks.c.execution == bindparam("id")
IN_ORDER = select(runner_chunks).order_by(runner_chunks.c.number).limit(bindparam("limit"))
FROM = runner_chunks.c.number >= bindparam("begin")
NEXT_CHUNKS = IN_ORDER.where(OF_EXECUTION, FROM)
SKIPPED = or_(FROM, runner_chunks.c.number.in_(bindparam("skipped", expanding=True)))
NEXT_AND_SKIPPED = IN_ORDER.where(OF_EXECUTION, SKIPPED)
KNOWN = select(runner_chunks.c.number).where(OF_EXECUTION, runner_chunks.c.number == bindparam("place"))
NEW_CHUNK = select(
    runner_runs.c.execution,
    bindparam("place", type_=BigInteger),
    bindparam("error", type_=Boolean),
    case((runner_runs.c.muted, ""), else_=bindparam("text", type_=Text)),
).where(THIS_RUN, ~KNOWN.exists())
ADD_CHUNK = insert(runner_chunks).from_select(["execution", "number", "is_stderr", "content"], NEW_CHUNK)
ADD_ANSWER = insert(runner_answers)


@dataclass(frozen=True, slots=True)
class SqlRunners:
    """The runners in the database; see `RunnerStore`. Every method raises StorageError."""

    database: Database
    now_ms: Callable[[], int]
    new_id: Callable[[], str]

    async def add_key(self, project: str, name: str, secret_hash: bytes, suspended: str | None = None) -> RunnerKey:
        """Add a key. Raises ValueError for an invalid name or an unknown project."""
        key = RunnerKey(self.new_id(), as_id(project), checked_name(name), self.now_ms(), suspended=suspended)
        row = {"id": key.id, "project_id": key.project, "name": key.name, "created_ms": key.created_ms}
        try:
            unknown = dict.fromkeys(("runner_version", "python_version", "django_version"), "")
            new = insert(runner_keys).values(**row, **unknown, suspended=suspended, secret_hash=secret_hash)
            await self.database.write(changes(new))
        except IntegrityError:
            raise ValueError(NO_PROJECT) from None
        return key

    async def key_by_secret(self, secret_hash: bytes) -> RunnerKey | None:
        """The key with this secret, also one that has expired; None if its project was deleted."""
        found = await self.database.read_short(KEY, secret_hash=secret_hash)
        return _key(found[0]) if found else None

    async def keys(self, projects: Collection[str]) -> Sequence[RunnerKey]:
        """The keys of some projects, the oldest first."""
        if len(projects) == 1:  # that of a command, or of a runner
            return list(map(_key, await self.database.read_short(OF_PROJECT, project=next(iter(projects)))))
        query = select(runner_keys).where(runner_keys.c.project_id.in_(sorted(projects))).order_by(runner_keys.c.id)
        return list(map(_key, await self.database.read(rows(query))))

    async def projects_with_keys(self) -> Collection[str]:
        """The projects that have keys."""
        found = await self.database.read(rows(select(runner_keys.c.project_id).distinct()))
        return frozenset(row.project_id for row in found)

    async def key(self, id: str) -> RunnerKey | None:
        """The key with this id."""
        found = await self.database.read_short(BY_ID, id=as_id(id))
        return _key(found[0]) if found else None

    async def end_key(self, id: str, at_ms: int) -> bool:
        """Let a key be valid until then, but no longer than it was; False if there is none."""
        earlier = runner_keys.c.expires_ms < at_ms
        until = case((earlier, runner_keys.c.expires_ms), else_=at_ms)
        ended = update(runner_keys).where(runner_keys.c.id == as_id(id)).values(expires_ms=until)
        return await self.database.write(changes(ended)) == 1

    async def suspend(self, id: str, reason: str | None) -> bool:
        """Suspend a runner for a reason, or resume it; False if there is none."""
        text = None if reason is None else storable(reason)
        changed = update(runner_keys).where(runner_keys.c.id == as_id(id)).values(suspended=text)
        return await self.database.write(changes(changed)) == 1

    async def seen(self, id: str, versions: RunnerVersions) -> None:
        """Record a heartbeat."""
        texts = {name: storable(text)[:LONGEST_VERSION] for name, text in asdict(versions).items()}
        row = {"key": as_id(id), "now": self.now_ms(), **texts}
        await self.database.write_short(lambda connection: connection.execute(SEEN, row).rowcount)

    async def set_commands(self, project: str, commands: CommandList) -> None:
        """Store the commands of a project."""
        text = storable(json.dumps([asdict(command) for command in commands.commands]))
        await self.database.write(partial(_set_commands, project=as_id(project), text=text, hash=commands.hash))

    async def commands(self, project: str) -> CommandList | None:
        """The commands of a project; None if no runner has reported any."""
        found = await self.database.read_short(COMMANDS, project=as_id(project))
        if not found:
            return None
        return CommandList(tuple(ManagementCommand(**each) for each in json.loads(found[0].commands)), found[0].hash)

    async def commands_hash(self, project: str) -> str:
        """The hash of the commands of a project; empty if there are none."""
        found = await self.database.read_short(COMMANDS_HASH, project=as_id(project))
        return str(found[0].hash) if found else ""

    async def caller(self, secret_hash: bytes, nonce: str) -> Caller | None:
        """Who sends a request, also with a key that has expired; None if there is no such key."""
        for row in await self.database.read_short(CALLER, secret_hash=secret_hash, nonce=nonce):
            answered = row.digest is not None
            return Caller(_key(row), StoredAnswer(bytes(row.digest), row.status, row.body) if answered else None)
        return None

    async def remember(self, key: str, nonce: str, answer: StoredAnswer) -> None:
        """Store an answer; the first one stays."""
        row = self._answer_row(Reply(key, nonce, answer))
        with suppress(IntegrityError):
            await self.database.write_short(lambda connection: connection.execute(ADD_ANSWER, row).rowcount)

    def _answer_row(self, reply: Reply) -> dict[str, Any]:
        row = {"key_id": reply.key, "nonce": reply.nonce, "created_ms": self.now_ms()}
        return {**row, "digest": reply.answer.digest, "status": reply.answer.status, "body": reply.answer.body}

    async def begin(self, execution: str, key: str, nonce: str, *, muted: bool, timeout_ms: int) -> bool:
        """Have an execution that waits started by a request. False if another request has started it."""
        now = self.now_ms()
        run = {
            "key_id": key,
            "nonce": nonce,
            "begun_ms": now,
            "heard_ms": now,
            "timeout_ms": timeout_ms,
            "muted": muted,
        }
        try:
            new = insert(runner_runs).values(execution=execution, **run, stop=int(StopLevel.RUN), closed=False)
            await self.database.write(changes(new))
        except IntegrityError:
            same = (runner_runs.c.key_id == key) & (runner_runs.c.nonce == nonce)
            stale = runner_runs.c.begun_ms < now - BEGINNING
            taken = update(runner_runs).where(runner_runs.c.execution == execution, or_(same, stale)).values(**run)
            return await self.database.write(changes(taken)) == 1
        return True

    async def abandon(self, execution: str, nonce: str) -> None:
        """What this request has begun was not started."""
        begun = (runner_runs.c.execution == execution) & (runner_runs.c.nonce == nonce)
        await self.database.write(changes(delete(runner_runs).where(begun)))

    async def run(self, execution: str) -> Run | None:
        """An execution that a runner has started."""
        found = await self.database.read_short(RUN, id=as_id(execution))
        return _run(found[0]) if found else None

    async def heard(self, run: Run) -> None:
        """A runner has called about an execution, which was read just now. To be called often: few calls write."""
        now = self.now_ms()
        if not 0 <= now - run.heard_ms < HEARD_EVERY:
            row = {"id": run.execution, "now": now}
            await self.database.write_short(lambda connection: connection.execute(HEAR, row).rowcount)

    async def add_chunk(self, execution: str, chunk: Chunk, reply: Reply | None = None) -> Added:
        """Store a piece of output, and what its request is answered if the execution runs."""
        answer = self._answer_row(reply) if reply else None
        add = partial(_add_chunk, execution=as_id(execution), chunk=chunk, answer=answer, now=self.now_ms())
        try:
            added = await self.database.write_short(add)
        except IntegrityError:  # the same request was answered, or another server has added it, at the same time
            return await self.add_chunk(execution, chunk) if reply else Added.KNOWN
        if added is None:
            return Added.LATE if await self.run(execution) else Added.UNKNOWN
        return added

    async def chunks(self, execution: str, begin: int, skipped: Collection[int], limit: int) -> Sequence[Chunk]:
        """Up to `limit` chunks numbered from `begin` on, or among those that were skipped."""
        values = {"id": execution, "begin": begin, "limit": limit}
        if skipped:
            found = await self.database.read(rows(NEXT_AND_SKIPPED, **values, skipped=sorted(skipped)))
        else:
            found = await self.database.read_short(NEXT_CHUNKS, **values)
        return [Chunk(row.number, row.is_stderr, row.content) for row in found]

    async def ask_to_stop(self, execution: str, level: StopLevel, *, mute: bool = False) -> None:
        """Have a runner stop a command; a level that was higher stays."""
        higher = case((runner_runs.c.stop > int(level), runner_runs.c.stop), else_=int(level))
        values = {"stop": higher, **({"muted": True} if mute else {})}
        asked = update(runner_runs).where(runner_runs.c.execution == execution).values(**values)
        await self.database.write(changes(asked))

    async def complete(self, execution: str, end: RunEnd) -> bool:
        """Store how an execution ended; False if that is known already."""
        row = {"id": as_id(execution), "status": end.status, "code": end.exit_code, "now": self.now_ms()}
        return await self.database.write_short(lambda connection: connection.execute(END, row).rowcount) == 1

    async def close_run(self, execution: str) -> None:
        """The end of an execution is about to be in the history: delete its chunks."""
        await self.database.write(partial(_close, execution=execution))

    async def forget(self) -> None:
        """Delete answers and runs that are too old to be asked for."""
        now = self.now_ms()
        answers = delete(runner_answers).where(runner_answers.c.created_ms < now - ANSWERS_KEPT)
        await self.database.write(changes(answers), LONG_PATIENCE)
        old = runner_runs.c.begun_ms < now - RUNS_KEPT
        ended = select(runner_runs.c.execution).where(old)
        await self.database.write(
            changes(delete(runner_chunks).where(runner_chunks.c.execution.in_(ended))), LONG_PATIENCE
        )
        await self.database.write(changes(delete(runner_runs).where(old)), LONG_PATIENCE)


def _set_commands(connection: Connection, project: str, text: str, hash: str) -> None:
    values = {"commands": text, "hash": hash}
    if not connection.execute(
        update(runner_commands).where(runner_commands.c.project_id == project).values(**values)
    ).rowcount:
        connection.execute(insert(runner_commands).values(project_id=project, **values))


def _add_chunk(
    connection: Connection | BareConnection, execution: str, chunk: Chunk, answer: dict[str, Any] | None, now: int
) -> Added | None:
    """None if the execution does not run."""
    if not connection.execute(HEAR_OPEN, {"id": execution, "now": now}).rowcount:
        return None
    if answer:
        connection.execute(ADD_ANSWER, answer)
    row = {"id": execution, "place": chunk.number, "error": chunk.is_stderr, "text": storable(chunk.text)}
    return Added.NEW if connection.execute(ADD_CHUNK, row).rowcount else Added.KNOWN


def _close(connection: Connection, execution: str) -> None:
    connection.execute(update(runner_runs).where(runner_runs.c.execution == execution).values(closed=True))
    connection.execute(delete(runner_chunks).where(runner_chunks.c.execution == execution))


def _key(row: Any) -> RunnerKey:
    return RunnerKey(
        id=row.id,
        project=row.project_id,
        name=row.name,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        suspended=row.suspended,
        seen_ms=row.seen_ms,
        versions=RunnerVersions(row.runner_version, row.python_version, row.django_version),
    )


def _run(row: Any) -> Run:
    return Run(
        execution=row.execution,
        key=row.key_id,
        nonce=row.nonce,
        begun_ms=row.begun_ms,
        heard_ms=row.heard_ms,
        timeout_ms=row.timeout_ms,
        muted=row.muted,
        stop=StopLevel(row.stop),
        end=None if row.end_status is None else RunEnd(row.end_status, row.exit_code),
        closed=row.closed,
    )
