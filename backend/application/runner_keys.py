"""The keys of runners: created, rotated with an overlap, revoked at once; their runners suspended and resumed.

Each change is recorded in the audit. Methods raise StorageError.
"""

from collections.abc import Callable

from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.django.ports import RunnerKey, RunnerKeys
from backend.core.ports import ActorLike, AuditLog


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key and its secret, which is known only now."""

    key: RunnerKey
    secret: str


@dataclass(frozen=True, slots=True)
class KeyAdministration:
    """Changes keys for an `actor`. Only the hash of a secret is stored."""

    store: RunnerKeys
    audit: AuditLog
    new_secret: Callable[[], str]
    secret_hash: Callable[[str], bytes]
    now_ms: Callable[[], int]

    async def create(self, actor: ActorLike, project: str, name: str) -> NewKey:
        """A new key for a runner of a project. Raises ValueError for an invalid name."""
        made = await self._add(project, name)
        await self._record(Kind.RUNNER_KEY_CREATED, actor, made.key)
        return made

    async def rotate(self, actor: ActorLike, key: RunnerKey, overlap: float) -> NewKey:
        """A new key for the same runner; the old one is valid for so many seconds more."""
        made = await self._add(key.project, key.name, key.suspended)
        await self.store.end_key(key.id, self.now_ms() + int(overlap * 1000))
        await self._record(Kind.RUNNER_KEY_ROTATED, actor, key, new_key=made.key.id, overlap_seconds=int(overlap))
        return made

    async def revoke(self, actor: ActorLike, key: RunnerKey) -> None:
        """End a key now."""
        await self.store.end_key(key.id, self.now_ms())
        await self._record(Kind.RUNNER_KEY_REVOKED, actor, key)

    async def suspend(self, actor: ActorLike, key: RunnerKey, reason: str) -> None:
        """Give a runner no further executions; what it runs goes on."""
        await self.store.suspend(key.id, reason)
        await self._record(Kind.RUNNER_SUSPENDED, actor, key, reason=reason)

    async def resume(self, actor: ActorLike, key: RunnerKey) -> None:
        """Give a runner executions again."""
        await self.store.suspend(key.id, None)
        await self._record(Kind.RUNNER_RESUMED, actor, key)

    async def _add(self, project: str, name: str, suspended: str | None = None) -> NewKey:
        secret = self.new_secret()
        return NewKey(await self.store.add_key(project, name, self.secret_hash(secret), suspended), secret)

    async def _record(self, kind: Kind, actor: ActorLike, key: RunnerKey, **more: str | int) -> None:
        fields = {"key": key.id, "name": key.name, "project": key.project, **more}
        await self.audit.record(kind, actor.name, actor.address, fields)
