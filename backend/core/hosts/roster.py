"""The hosts that an administrator has enrolled, each with labels and a secret of its own, and who may use them."""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import field

from backend.core.dataclasses import dataclass, replace

LABEL_NAME = re.compile(r"[a-z0-9][a-z0-9._/-]{0,62}")
LABEL_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A host. Its secrets follow from the master key and the generation, which no two enrolments of a host share."""

    id: str
    labels: Labels
    generation: int
    revoked: bool = False

    def secret(self, master: bytes) -> str:
        """What its messages are signed with."""
        return self._derived(master, "messages")

    def redis_password(self, master: bytes) -> str:
        """The password of its user of Redis."""
        return self._derived(master, "redis")

    def _derived(self, master: bytes, purpose: str) -> str:
        text = f"{purpose}:{self.id}:{self.generation}"
        return hmac.new(master, text.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Grant:
    """The right to use all hosts that have some labels; without labels, all hosts. `to` is `user:NAME` or `project:ID`."""

    to: str
    labels: Labels


@dataclass(frozen=True, slots=True)
class Roster:
    """All enrolled hosts by their ids; one that was revoked stays, so that it does not come back by itself."""

    hosts: Mapping[str, Enrolled] = field(default_factory=dict)
    grants: tuple[Grant, ...] = ()

    def grant(self, grant: Grant) -> "Roster":
        """Add a grant."""
        return self if grant in self.grants else replace(self, grants=(*self.grants, grant))

    def withdraw(self, grant: Grant) -> "Roster":
        """Remove a grant. Raises KeyError."""
        if grant not in self.grants:
            raise KeyError(grant.to)
        return replace(self, grants=tuple(each for each in self.grants if each != grant))

    def enrolled(self, id: str) -> Enrolled | None:
        """A host that may be used."""
        found = self.hosts.get(id)
        return found if found and not found.revoked else None

    def enroll(self, id: str, labels: Labels) -> "Roster":
        """Enroll a host, with new secrets if it was enrolled before."""
        before = self.hosts.get(id)
        return self._with(Enrolled(id, dict(labels), before.generation + 1 if before else 1))

    def rotate(self, id: str) -> "Roster":
        """Give a host new secrets. Raises KeyError."""
        return self._with(replace(self.hosts[id], generation=self.hosts[id].generation + 1))

    def revoke(self, id: str) -> "Roster":
        """End the use of a host. Raises KeyError."""
        return self._with(replace(self.hosts[id], revoked=True))

    def _with(self, host: Enrolled) -> "Roster":
        return replace(self, hosts={**self.hosts, host.id: host})


def parse_label(text: str) -> tuple[str, str]:
    """`name=value`. Raises ValueError."""
    name, separator, value = text.partition("=")
    if not (separator and LABEL_NAME.fullmatch(name) and LABEL_VALUE.fullmatch(value)):
        raise ValueError(f"{text[:64]!r} is not a label such as env=production")
    return name, value


def matches(labels: Labels, selector: Labels) -> bool:
    """Whether a host has all labels of a selector."""
    return all(labels.get(name) == value for name, value in selector.items())
