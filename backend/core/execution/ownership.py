"""Which server runs an execution, and how long it may do so without a heartbeat. Pure: times are passed in.

A server that runs an execution holds its lease and extends it at every heartbeat. Once a lease has run out, any server
may record the execution as lost; the first recorded end remains, so that a server which comes back changes nothing.
"""

from dataclasses import field

from backend.core.dataclasses import dataclass

# Seconds that an execution belongs to its owner without a heartbeat. Five heartbeats: a database that fails over, or a
# machine that is short of memory for some seconds costs no execution. It is also how long a client waits to learn that a
# server is gone. Leases are compared across servers, so their clocks have to agree to within LEASE - HEARTBEAT.
LEASE = 15.0
# Seconds between two heartbeats. One statement for all executions of a server, so it costs little to be early.
HEARTBEAT = 3.0

LEASE_MS = int(LEASE * 1000)
RELEASED = 0  # the end of a lease whose owner is known to be dead


def lease_until(now_ms: int) -> int:
    """The end of a lease that is taken or extended now; in Unix milliseconds, like `now_ms`."""
    return now_ms + LEASE_MS


@dataclass(slots=True)
class Contact:
    """How long this server has reached the database without interruption.

    While it could not, other servers could not extend their leases either, so an expired lease proves nothing until
    they have had the duration of one lease to come back.
    """

    _since_ms: int | None = None
    _last_ms: int = 0

    def reached(self, now_ms: int) -> None:
        """The database has answered."""
        if self._since_ms is None or not 0 <= now_ms - self._last_ms <= LEASE_MS:
            self._since_ms = now_ms
        self._last_ms = now_ms

    def missed(self) -> None:
        """The database has not answered."""
        self._since_ms = None

    def judged_until(self, now_ms: int) -> int:
        """The time up to which an expired lease proves that its owner is gone."""
        if self._since_ms is None or not 0 <= now_ms - self._last_ms <= LEASE_MS:
            return RELEASED
        return now_ms if now_ms - self._since_ms >= LEASE_MS else RELEASED


@dataclass(slots=True)
class Holdings:
    """The executions that are recorded as running here, and those of them whose end is being written."""

    _running: set[str] = field(default_factory=set)
    _ending: set[str] = field(default_factory=set)

    @property
    def ids(self) -> frozenset[str]:
        """The executions whose leases must be extended."""
        return frozenset(self._running)

    def add(self, execution: str) -> None:
        """The execution is recorded as running here."""
        self._running.add(execution)

    def ending(self, execution: str) -> None:
        """The end of the execution is about to be written."""
        self._ending.add(execution)

    def remove(self, execution: str) -> None:
        """The end of the execution is recorded, or it never began."""
        self._running.discard(execution)
        self._ending.discard(execution)

    def lost(self, asked: frozenset[str], extended: frozenset[str]) -> frozenset[str]:
        """The executions in `asked` whose lease could not be extended; they are no longer held.

        One whose end is being written is not among them: it may have been written before the lease was extended.
        """
        gone = (asked - extended) & self._running - self._ending
        self._running -= gone
        return gone
