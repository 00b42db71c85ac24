"""The application for a server: `uvicorn backend.server:app`, or `create_app(settings)`.

`cd backend && uvicorn server:app`, the way of earlier instructions, finds it too.
"""

import sys
from pathlib import Path
from typing import Any

if __name__ == "server":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.runtime import wiring
from backend.runtime.wiring import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Make `app` when a server asks for it, so that importing this module reads no settings."""
    return wiring.__getattr__(name)
