"""`manage.py check`: whether the settings of the runner are right."""

from typing import Any

from django.core.checks import CheckMessage, Error, Warning

from gatepost_django.configuration import NAMES, Wrong, foreign_names, wrong_settings
from gatepost_django.project import all_settings


def check_settings(app_configs: object, **_: Any) -> list[CheckMessage]:
    """What is wrong, each with a hint, and settings that have the names of another runner."""
    settings = all_settings()
    found = [Error(each.message, hint=each.hint, id=_id(each)) for each in wrong_settings(settings)]
    if names := foreign_names(settings):
        text = f"Settings have the names of another runner: {', '.join(names)}."
        hint = "They are used. Rename them to GATEPOST_... when nothing else reads them."
        found.append(Warning(text, hint=hint, id="gatepost.W001"))
    return found


def _id(wrong: Wrong) -> str:
    return f"gatepost.E{NAMES.index(wrong.setting.partition('_')[2]) + 1:03}"
