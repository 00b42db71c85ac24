"""The servers of these tests."""

from tests.application.servers import servers

__all__ = ["servers"]
