"""What lines of hosts are judged against."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from backend.core.policy.files import Unseen
from backend.core.policy.profile import OFFLINE, Offline, Profile


@dataclass(frozen=True)
class Lines:
    profile: Profile
    files: Unseen = Unseen(PurePosixPath("/"))  # noqa: RUF009 - it has no state
    network: bool = False
    offline: Offline = OFFLINE
