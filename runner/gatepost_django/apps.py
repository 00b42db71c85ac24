"""The app of the runner."""

from django.apps import AppConfig
from django.core.checks import register


class GatepostConfig(AppConfig):  # type: ignore[misc]
    """Adds the command `gatepost` and the checks of its settings."""

    name = "gatepost_django"
    verbose_name = "Gatepost runner"

    def ready(self) -> None:
        """Register the checks."""
        from gatepost_django.checks import check_settings

        register(check_settings, "gatepost")
