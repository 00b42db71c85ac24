"""Runners of Django projects in memory."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import field

from backend.core.dataclasses import dataclass, replace
from backend.core.django.commands import CommandList
from backend.core.django.ports import Added, Caller, Reply, RunnerKey, RunnerVersions, StoredAnswer
from backend.core.django.runs import Chunk, Run, RunEnd, StopLevel
from backend.core.ports import Projects
from backend.storage.identities import checked_name
from backend.storage.runners import ANSWERS_KEPT, BEGINNING, LONGEST_VERSION, NO_PROJECT, RUNS_KEPT


@dataclass(frozen=True, slots=True)
class MemoryRunners:
    """The runners of all servers that share `projects`; see `RunnerStore`."""

    projects: Projects
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    _keys: dict[str, RunnerKey] = field(default_factory=dict)
    _secrets: dict[bytes, str] = field(default_factory=dict)
    _commands: dict[str, CommandList] = field(default_factory=dict)
    _answers: dict[tuple[str, str], tuple[int, StoredAnswer]] = field(default_factory=dict)
    _runs: dict[str, Run] = field(default_factory=dict)
    _chunks: dict[str, dict[int, Chunk]] = field(default_factory=dict)

    async def add_key(self, project: str, name: str, secret_hash: bytes, suspended: str | None = None) -> RunnerKey:
        """Add a key. Raises ValueError for an invalid name or an unknown project."""
        name = checked_name(name)
        if await self.projects.get(project) is None:
            raise ValueError(NO_PROJECT)
        key = RunnerKey(self.new_id(), project, name, self.now_ms(), suspended=suspended)
        self._keys[key.id] = key
        self._secrets[secret_hash] = key.id
        return key

    async def key_by_secret(self, secret_hash: bytes) -> RunnerKey | None:
        """The key with this secret, also one that has expired; None if its project was deleted."""
        found = self._keys.get(self._secrets.get(secret_hash, ""))
        return found if found and await self.projects.get(found.project) else None

    async def keys(self, projects: Collection[str]) -> Sequence[RunnerKey]:
        """The keys of some projects, the oldest first."""
        return sorted((key for key in self._keys.values() if key.project in projects), key=lambda key: key.id)

    async def projects_with_keys(self) -> Collection[str]:
        """The projects that have keys."""
        return frozenset(key.project for key in self._keys.values())

    async def key(self, id: str) -> RunnerKey | None:
        """The key with this id."""
        return self._keys.get(id)

    async def end_key(self, id: str, at_ms: int) -> bool:
        """Let a key be valid until then, but no longer than it was; False if there is none."""
        key = self._keys.get(id)
        if key:
            self._keys[id] = replace(key, expires_ms=min(at_ms, at_ms if key.expires_ms is None else key.expires_ms))
        return key is not None

    async def suspend(self, id: str, reason: str | None) -> bool:
        """Suspend a runner for a reason, or resume it; False if there is none."""
        key = self._keys.get(id)
        if key:
            self._keys[id] = replace(key, suspended=reason)
        return key is not None

    async def seen(self, id: str, versions: RunnerVersions) -> None:
        """Record a heartbeat."""
        texts = (text[:LONGEST_VERSION] for text in (versions.runner, versions.python, versions.django))
        self._keys[id] = replace(self._keys[id], seen_ms=self.now_ms(), versions=RunnerVersions(*texts))

    async def set_commands(self, project: str, commands: CommandList) -> None:
        """Store the commands of a project."""
        self._commands[project] = commands

    async def commands(self, project: str) -> CommandList | None:
        """The commands of a project; None if no runner has reported any."""
        return self._commands.get(project)

    async def commands_hash(self, project: str) -> str:
        """The hash of the commands of a project; empty if there are none."""
        found = self._commands.get(project)
        return found.hash if found else ""

    async def caller(self, secret_hash: bytes, nonce: str) -> Caller | None:
        """Who sends a request, also with a key that has expired; None if there is no such key."""
        if (key := await self.key_by_secret(secret_hash)) is None:
            return None
        found = self._answers.get((key.id, nonce))
        return Caller(key, found[1] if found else None)

    async def remember(self, key: str, nonce: str, answer: StoredAnswer) -> None:
        """Store an answer; the first one stays."""
        self._answers.setdefault((key, nonce), (self.now_ms(), answer))

    async def begin(self, execution: str, key: str, nonce: str, *, muted: bool, timeout_ms: int) -> bool:
        """Have an execution that waits started by a request. False if another request has started it."""
        now, found = self.now_ms(), self._runs.get(execution)
        if found and (found.key, found.nonce) != (key, nonce) and found.begun_ms >= now - BEGINNING:
            return False
        self._runs[execution] = Run(execution, key, nonce, now, now, timeout_ms, muted)
        return True

    async def abandon(self, execution: str, nonce: str) -> None:
        """What this request has begun was not started."""
        found = self._runs.get(execution)
        if found and found.nonce == nonce:
            del self._runs[execution]

    async def run(self, execution: str) -> Run | None:
        """An execution that a runner has started."""
        return self._runs.get(execution)

    async def heard(self, run: Run) -> None:
        """A runner has called about an execution, which was read just now."""
        if found := self._runs.get(run.execution):
            self._runs[run.execution] = replace(found, heard_ms=self.now_ms())

    async def add_chunk(self, execution: str, chunk: Chunk, reply: Reply | None = None) -> Added:
        """Store a piece of output, and what its request is answered if the execution runs."""
        run = self._runs.get(execution)
        if run is None or run.closed:
            return Added.LATE if run else Added.UNKNOWN
        await self.heard(run)
        if reply:
            await self.remember(reply.key, reply.nonce, reply.answer)
        chunks = self._chunks.setdefault(execution, {})
        if chunk.number in chunks:
            return Added.KNOWN
        chunks[chunk.number] = replace(chunk, text="") if run.muted else chunk
        return Added.NEW

    async def chunks(self, execution: str, begin: int, skipped: Collection[int], limit: int) -> Sequence[Chunk]:
        """Up to `limit` chunks numbered from `begin` on, or among those that were skipped."""
        found = self._chunks.get(execution, {})
        numbers = sorted(number for number in found if number >= begin or number in skipped)
        return [found[number] for number in numbers[:limit]]

    async def ask_to_stop(self, execution: str, level: StopLevel, *, mute: bool = False) -> None:
        """Have a runner stop a command; a level that was higher stays."""
        if found := self._runs.get(execution):
            self._runs[execution] = replace(found, stop=max(found.stop, level), muted=found.muted or mute)

    async def complete(self, execution: str, end: RunEnd) -> bool:
        """Store how an execution ended; False if that is known already."""
        found = self._runs.get(execution)
        if found is None or found.end:
            return False
        self._runs[execution] = replace(found, end=end, heard_ms=self.now_ms())
        return True

    async def close_run(self, execution: str) -> None:
        """The end of an execution is about to be in the history: delete its chunks."""
        self._chunks.pop(execution, None)
        if found := self._runs.get(execution):
            self._runs[execution] = replace(found, closed=True)

    async def forget(self) -> None:
        """Delete answers and runs that are too old to be asked for."""
        now = self.now_ms()
        for place, (created_ms, _) in list(self._answers.items()):
            if created_ms < now - ANSWERS_KEPT:
                del self._answers[place]
        for execution, run in list(self._runs.items()):
            if run.begun_ms < now - RUNS_KEPT:
                del self._runs[execution]
                self._chunks.pop(execution, None)
