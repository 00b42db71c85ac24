"""The user of commands where the service is root, and the folders that this user must own."""

import os
import pwd
import re
import stat
from pathlib import Path

from backend.core.errors import GatepostError

STATUS = Path("/proc/self/status")
# To give workspaces to their users, to see what commands made there, to start and end commands.
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7}


class OwnerError(GatepostError):
    """Commands cannot run as the configured user."""


def find_owner(name: str) -> tuple[int, int] | None:
    """The uid and gid of a user, by name or number; None where the service is not root and cannot change its user.

    Raises OwnerError for a user that does not exist, and for root.
    """
    if os.geteuid() != 0:
        return None
    number = int(name) if name.isascii() and name.isdecimal() and int(name) < 1 << 31 else None
    try:
        found = pwd.getpwnam(name) if number is None else pwd.getpwuid(number)
        owner = (found.pw_uid, found.pw_gid)
    except KeyError:
        if number is None:
            raise OwnerError(f"there is no user {name}") from None
        owner = (number, number)
    if owner[0] == 0:
        raise OwnerError("commands never run as root")
    if lacking := _lacking_capabilities():
        hint = "add them (docker run --cap-add), or start the service as another user"
        raise OwnerError(f"as root the service needs the capabilities {', '.join(lacking)}; {hint}")
    return owner


def _lacking_capabilities() -> list[str]:
    """Those of root that a container may have taken from this process; none where the kernel does not say."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", STATUS.read_text(), re.M) if STATUS.exists() else None
    effective = int(found[1], 16) if found else -1
    return [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]


def give_folder(folder: Path, owner: tuple[int, int] | None) -> None:
    """Change the owner of a folder, not of its content."""
    if owner and folder.stat().st_uid != owner[0]:
        os.chown(folder, *owner)


def closed_parent(folder: Path, owner: tuple[int, int] | None) -> Path | None:
    """The first folder above `folder` that the owner may not search; None where `folder` can be reached."""
    if owner is None:
        return None
    for parent in reversed(folder.absolute().parents):
        if not parent.exists():
            break  # it will be created, accessible
        info = parent.stat()
        passes = stat.S_IXUSR if info.st_uid == owner[0] else stat.S_IXGRP if info.st_gid == owner[1] else stat.S_IXOTH
        if not info.st_mode & passes:
            return parent
    return None
