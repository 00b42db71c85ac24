"""What a verb cannot do is said in one line."""

import sys
from collections.abc import Callable

from backend.core.errors import GatepostError, reason_of
from backend.core.policy.profile import ProfileError
from backend.runtime.settings import SettingsError

EXIT_USAGE = 2


def said(work: Callable[[], int]) -> int:
    """The exit code of some work; what keeps it from being done is printed."""
    try:
        return work()
    except (SettingsError, ProfileError, GatepostError) as error:
        print(f"gatepost: {error}", file=sys.stderr)
    except OSError as error:  # of a file that no other place expects to fail: the disk is full, or a folder is gone
        where = f"{error.filename}: " if error.filename else ""
        print(f"gatepost: {where}{reason_of(error)}", file=sys.stderr)
    return EXIT_USAGE
