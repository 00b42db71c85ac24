"""A Django project `shop` with a runner in it, which tests start."""

from collections.abc import Mapping
from pathlib import Path

SETTINGS = """\
from pathlib import Path
from {package} import DEFAULT_ALLOWED_COMMANDS
BASE_DIR = Path(__file__).parent
SECRET_KEY = "canary-django-secret"
INSTALLED_APPS = ["{package}", "shop"]
DATABASES = {{"default": {{"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}}}
{prefix}_HEARTBEAT_INTERVAL = 5
{prefix}_ALLOWED_COMMANDS = DEFAULT_ALLOWED_COMMANDS + {commands}
"""
MANAGE = """\
import os, sys
if sys.argv[1:3] == ["act", "once"]:  # many of them run: without Django
    with open(sys.argv[3], "a") as runs:
        runs.write("one\\n")
    sys.exit()
from django.core.management import execute_from_command_line
os.environ["DJANGO_SETTINGS_MODULE"] = "config"
execute_from_command_line(sys.argv)
"""


def configure(folder: Path, package: str, prefix: str, commands: tuple[str, ...], **settings: object) -> None:
    """Write the settings: those of the runner begin with `prefix`, `commands` may run too, `settings` are added."""
    lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
    text = SETTINGS.format(package=package, prefix=prefix, commands=commands)
    (folder / "config.py").write_text(text + "".join(lines))


def write_project(folder: Path, commands: Mapping[str, str]) -> None:
    """Write manage.py and the management commands of the app `shop`."""
    place = folder / "shop/management/commands"
    place.mkdir(parents=True)
    for package in ("shop", "shop/management", "shop/management/commands"):
        (folder / package / "__init__.py").touch()
    (folder / "manage.py").write_text(MANAGE)
    for name, text in commands.items():
        (place / f"{name}.py").write_text(text)
