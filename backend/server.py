"""The application for a server: `uvicorn backend.server:app`, or `create_app(settings)`."""

from typing import Any

from backend.runtime import wiring
from backend.runtime.wiring import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> Any:
    """Make `app` when a server asks for it, so that importing this module reads no settings."""
    return wiring.__getattr__(name)
