"""A Django project `shop` with our runner in it, and what is asked of it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.django_project import configure, write_project
from tests.serving import ROOT, wait_until

BOUND = 60.0  # seconds for what takes a start of Django

# What the tests have it do: say something, fail, count, wait for a file, print until there is one, leave processes behind.
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
    def tick(self, file):
        with file.with_suffix(".printed").open("ab", 0) as printed:  # as many bytes as lines
            while not file.exists():
                self.stdout.write(f"line {printed.tell()}")
                printed.write(b".")
                time.sleep(0.02)
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
        write_project(self.folder, {"act": ACT})
        self.configure(**settings)

    def configure(self, **settings: Any) -> None:
        """Write the settings."""
        own = {"GATEPOST_STATE_DIR": str(self.folder / "state"), **settings}
        configure(self.folder, "gatepost_django", "GATEPOST", ("act",), **own)

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
