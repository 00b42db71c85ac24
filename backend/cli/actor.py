"""The user of the command line."""

import os
import pwd


def actor() -> str:
    """The user who runs this, as the audit names it; independent of the environment."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"cli:{os.getuid()}"
