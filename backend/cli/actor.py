"""Who uses the command line."""

import os
import pwd


def actor() -> str:
    """Who runs this, as the audit names it; not what the environment says."""
    try:
        return f"cli:{pwd.getpwuid(os.getuid()).pw_name}"
    except KeyError:
        return f"cli:{os.getuid()}"
