"""The runner: it reports that it is alive, claims executions, runs them, and reports what they print and how they end.

Each of these has threads of its own, so that none waits for another: a server that is slow or away delays no heartbeat and
no command. An execution is claimed when a slot for it is free, never before, so a runner that stops has nothing to give back.
"""

import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import django
from django.core.exceptions import ImproperlyConfigured
from django.core.management import get_commands

from gatepost_django import project
from gatepost_django.client import Server
from gatepost_django.configuration import Configuration, Wrong, foreign_names, read_configuration
from gatepost_django.discovery import discover
from gatepost_django.executions import Executions, Place
from gatepost_django.heartbeats import Heartbeats
from gatepost_django.masking import secrets_of
from gatepost_django.polling import Polling
from gatepost_django.standing import Active, Away, Denied, Standing, Suspended
from gatepost_django.state import Folder, StateError, folder_of
from gatepost_django.version import VERSION

log = logging.getLogger("gatepost_django")

LAST_SENT = 5.0  # seconds in which a runner that stops sends what waits; the rest is sent by the next one
STOP, NOW, AGAIN, CHANGED = b"S", b"N", b"A", b"."  # what its threads and signals ask of the main one
SIGNALS = {signal.SIGTERM: STOP, signal.SIGINT: AGAIN, signal.SIGQUIT: NOW}


class AlreadyRunning(Exception):
    """Another runner has the state folder."""


@dataclass
class Runner:
    """A runner of the project. `name` is for projects that have several on one machine."""

    configuration: Configuration
    project: Path
    folder: Folder
    asked: tuple[int, int] = field(default_factory=os.pipe)
    stopping: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    standing: Standing = field(default_factory=Standing)

    @classmethod
    def from_settings(cls, name: str = "default") -> "Runner":
        """The runner of this project. Raises ImproperlyConfigured, with what is wrong and what to do about it."""
        settings = project.all_settings()
        configuration = read_configuration(settings)
        if not isinstance(configuration, Configuration):
            raise ImproperlyConfigured(described(configuration))
        if names := foreign_names(settings):
            log.warning("Read under the names of another runner: %s. Rename them to GATEPOST_....", ", ".join(names))
        folder = project.find_project()
        try:
            return cls(configuration, folder, folder_of(folder, name, configuration.state_dir))
        except StateError as error:
            raise ImproperlyConfigured(str(error)) from None

    def is_command_allowed(self, name: str) -> tuple[bool, str]:
        """Whether a command may run, and why not."""
        return self.configuration.commands.is_command_allowed(name)

    def get_disallowed_commands(self) -> frozenset[str]:
        """The commands that never run in blocklist mode."""
        return frozenset(self.configuration.commands.disallowed)

    def run_once(self) -> bool:
        """One heartbeat, and the list of commands if the server asks for it; whether the server has accepted the runner."""
        beats = self._heartbeats(self._server())
        state = beats.beat(beats.server.client())
        return isinstance(state, Active | Suspended)

    def run(self) -> None:
        """Run until `stop`, or until a signal. Raises AlreadyRunning, or StateError where its folder cannot be used."""
        self.folder.prepare()
        if (lock := self.folder.lock()) is None:
            raise AlreadyRunning
        try:
            self._work(lock)
        finally:
            os.close(lock)

    def stop(self, *, now: bool = False) -> None:
        """Claim nothing more, and return from `run` when what runs has ended; `now` kills it. From any thread."""
        os.write(self.asked[1], NOW if now else STOP)

    def _work(self, lock: int) -> None:
        server = self._server()
        executions = self._executions(server, lock)
        polling = Polling(server, self.standing, executions, self.stopping)
        log.info("Runner of %s, version %s, for %s.", self.project, VERSION, self.configuration.server_url)
        self._report(executions)
        with self._signals():
            executions.recover()
            for each in (self._heartbeats(server).run, polling.run):
                threading.Thread(target=each, daemon=True).start()
            self._wait(executions)
            self._send_last(executions)
        self.ended.set()
        self.standing.end()
        log.info("The runner has stopped.")

    def _wait(self, executions: Executions) -> None:
        """Until it is asked to stop, and nothing runs any more."""
        while not (self.stopping.is_set() and not executions.active):
            word = os.read(self.asked[0], 1)
            if word == NOW or (word == AGAIN and self.stopping.is_set()):
                self._stop(executions)
                executions.stop_all()
            elif word in {STOP, AGAIN}:
                self._stop(executions)
            self._report(executions)

    def _stop(self, executions: Executions) -> None:
        if not self.stopping.is_set():
            self.stopping.set()
            running = ", ".join(each.command for each in list(executions.active.values()))
            log.info("Stopping%s.", f"; waiting for {running}" if running else "")

    def _send_last(self, executions: Executions) -> None:
        deadline = time.monotonic() + LAST_SENT
        while executions.delivering and time.monotonic() < deadline:
            time.sleep(0.02)
        if executions.delivering:
            log.warning("The output of %d executions waits for the next runner.", len(executions.delivering))

    def _report(self, executions: Executions) -> None:
        state = self.standing.state
        running = [{"id": each.id, "command": each.command} for each in list(executions.active.values())]
        self.folder.report(
            {
                "server": type(state).__name__.lower(),
                "reason": state.reason if isinstance(state, Away | Denied | Suspended) else "",
                "stopping": self.stopping.is_set(),
                "running": running,
                "waiting_to_be_sent": len(executions.delivering),
            }
        )

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Stop on signals, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _: FrameType | None) -> None:
            os.write(self.asked[1], SIGNALS[signal.Signals(number)])

        before = {number: signal.signal(number, ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _server(self) -> Server:
        given = self.configuration
        pause = self.ended.wait
        return Server(given.server_url, given.api_key, given.request_timeout, given.max_retries, pause)

    def _heartbeats(self, server: Server) -> Heartbeats:
        versions = {
            "runner_version": VERSION,
            "python_version": platform.python_version(),
            "django_version": django.get_version(),
        }
        commands = discover(self.configuration.commands)
        interval = self.configuration.heartbeat_interval
        return Heartbeats(server, self.standing, versions, commands, interval, self.ended, self._changed)

    def _executions(self, server: Server, lock: int) -> Executions:
        place = Place(
            project=self.project,
            spool=self.folder.spool,
            lock=lock,
            commands=self.configuration.commands,
            known=frozenset(get_commands()),
            metadata_only=self.configuration.metadata_only,
            secrets=secrets_of(project.all_settings()) | secrets_of(os.environ),
            command_line=lambda words: project.command_line(self.project, *words),
            environment=project.environment(),
        )
        return Executions(place, server, self.standing, self.stopping, self.ended, self._changed)

    def _changed(self) -> None:
        os.write(self.asked[1], CHANGED)


def described(wrong: list[Wrong]) -> str:
    """What is wrong with settings, a line for each."""
    return "\n".join(f"{each.message} {each.hint}" for each in wrong)
