"""A Django project `shop` with our runner in it, and what is asked of it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.serving import ROOT, wait_until

BOUND = 60.0  # seconds for what takes a start of Django

SETTINGS = """\
from pathlib import Path
from gatepost_django import DEFAULT_ALLOWED_COMMANDS
BASE_DIR = Path(__file__).parent
SECRET_KEY = "canary-django-secret"
INSTALLED_APPS = ["gatepost_django", "shop"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
GATEPOST_HEARTBEAT_INTERVAL = 5
GATEPOST_ALLOWED_COMMANDS = DEFAULT_ALLOWED_COMMANDS + ("act",)
GATEPOST_STATE_DIR = BASE_DIR / "state"
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
# What the tests have it do: say something, fail, count, wait for a file, leave processes behind.
ACT = """\
import os, subprocess, sys, time
from pathlib import Path
from django.conf import settings
from django.core.management.base import BaseCommand
class Command(BaseCommand):
    help = "Do what a test says"
    def add_arguments(self, parser):
        parser.add_argument("what")
        parser.add_argument("file", nargs="?", default="")
    def handle(self, *args, what, file, **options):
        getattr(self, what)(Path(file))
    def speak(self, file):
        self.stdout.write("Grüße")
        self.stdout.write("no line end", ending="")
        self.stderr.write("no coffee " + settings.SECRET_KEY)
        self.stdout.write(f"stdin: {sys.stdin.read()!r}")
        sys.exit(3)
    def count(self, file):
        with file.with_suffix(".runs").open("a") as runs:
            runs.write("one\\n")
        for number in range(300):
            self.stdout.write(f"line {number}")
            if number == 150:
                print("half", end="")
                while not file.exists():
                    time.sleep(0.02)
                print("", end="\\n")
    def leave(self, file):
        code = "import os, time; os.setsid(); print('left', flush=True); time.sleep(600)"
        subprocess.Popen([sys.executable, "-S", "-c", code, f"left-by-{file}"])
        time.sleep(600)
"""


@dataclass
class Shop:
    """The project, in a folder. `environment` is added to that of its processes."""

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    started: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def create(self, **settings: Any) -> None:
        """Write its files; `settings` are added to those of the runner."""
        commands = self.folder / "shop/management/commands"
        commands.mkdir(parents=True)
        for place in ("shop", "shop/management", "shop/management/commands"):
            (self.folder / place / "__init__.py").touch()
        self.configure(**settings)
        (self.folder / "manage.py").write_text(MANAGE)
        (commands / "act.py").write_text(ACT)

    def configure(self, **settings: Any) -> None:
        """Write the settings."""
        lines = [f"{name} = {value!r}\n" for name, value in settings.items()]
        (self.folder / "config.py").write_text(SETTINGS + "".join(lines))

    def _line(self, *words: str) -> list[str]:
        return [sys.executable, "manage.py", *words]

    def _environment(self) -> dict[str, str]:
        paths = [*self.environment.get("PYTHONPATH", "").split(), str(ROOT / "runner")]
        return {**os.environ, "HOME": str(self.folder), **self.environment, "PYTHONPATH": ":".join(paths)}

    def manage(self, *words: str, code: int = 0) -> str:
        """What a command of manage.py prints."""
        done = subprocess.run(
            self._line(*words), cwd=self.folder, env=self._environment(), capture_output=True, text=True, timeout=BOUND
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start a runner in the foreground."""
        with (self.folder / "runner.out").open("ab") as log:
            line = self._line("gatepost", "start", *words)
            started = subprocess.Popen(line, cwd=self.folder, env=self._environment(), stdout=log, stderr=log)
        self.started.append(started)
        return started

    def status(self, *words: str) -> Any:
        """What `status --json` prints."""
        return json.loads(self.manage("gatepost", "status", "--json", *words))

    @property
    def log(self) -> str:
        """What the runners have printed."""
        return (self.folder / "runner.out").read_text()

    def logged(self, text: str, times: int = 1) -> None:
        """Wait until a runner has logged a text so many times."""
        wait_until(lambda: self.log.count(text) >= times, f"{text!r} in the log", BOUND)

    def end(self) -> None:
        """Kill the runners that still run; the supervisors of their commands see that."""
        for each in self.started:
            each.kill()
            each.wait()
