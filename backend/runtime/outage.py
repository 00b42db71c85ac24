"""What fails for a while: logged once, and when it is over."""

import structlog

from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError, reason_of


@dataclass(slots=True)
class Outage:
    """Logs the first of several consecutive errors, and when they are over."""

    what: str
    _lasting: bool = False

    def report(self, error: OSError | StorageError) -> None:
        """It failed."""
        if not self._lasting:
            structlog.get_logger().error(self.what, reason=reason_of(error))
        self._lasting = True

    def over(self) -> None:
        """It worked."""
        if self._lasting:
            structlog.get_logger().info("over: " + self.what)
        self._lasting = False
