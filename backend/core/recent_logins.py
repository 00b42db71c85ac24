"""Where accounts have logged in before: what strangers try must not keep them waiting."""

from dataclasses import field

from backend.core.dataclasses import dataclass

MOST = 10_000  # accounts with an address, about 2 MB


@dataclass(slots=True)
class RecentLogins:
    """The addresses from which each account has logged in to this server process, the latest `most` of them."""

    most: int = MOST
    _pairs: dict[tuple[str, str], None] = field(default_factory=dict)

    def add(self, name: str, address: str) -> None:
        """The account has logged in from the address."""
        self._pairs.pop((name, address), None)
        self._pairs[name, address] = None
        if len(self._pairs) > self.most:
            del self._pairs[next(iter(self._pairs))]

    def include(self, name: str, address: str) -> bool:
        """Whether the account has logged in from the address."""
        return (name, address) in self._pairs
