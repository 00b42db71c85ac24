"""`manage.py gatepost start|stop|restart|status`: the runner of this project."""

import argparse
import json
import time
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser

from gatepost_django import background, logs, reload
from gatepost_django.configuration import find
from gatepost_django.project import all_settings, find_project
from gatepost_django.state import Folder, StateError, folder_of


class Command(BaseCommand):  # type: ignore[misc]
    """The runner of this project, in the foreground or in the background."""

    help = "Run management commands for a Gatepost server. Without a verb: the status of the runner."
    requires_system_checks = ()  # a runner is also stopped when the project is broken

    def add_arguments(self, parser: CommandParser) -> None:
        """One parser for each verb."""
        verbs = parser.add_subparsers(dest="verb", metavar="start | stop | restart | status")
        start = verbs.add_parser("start", help="Start it")
        stop = verbs.add_parser("stop", help="Claim nothing more, and stop when what runs has ended")
        restart = verbs.add_parser("restart", help="Stop it, and start it again")
        status = verbs.add_parser("status", help="Whether it runs, what it runs, and what the server says")
        for each in (start, stop, restart, status):
            each.add_argument("--name", default="default", help="One of several runners of this project")
        for each in (start, restart):
            each.add_argument("-d", "--detach", action="store_true", help="Run in the background")
            each.add_argument("--no-reload", action="store_true", help="With DEBUG: do not restart when code changes")
            each.add_argument("--in-background", action="store_true", help=argparse.SUPPRESS)
            each.add_argument("-v", "--verbosity", type=int, choices=range(4), default=argparse.SUPPRESS)
        for each in (stop, restart):
            each.add_argument("--force", action="store_true", help="Kill what runs")
        status.add_argument("--json", action="store_true", help="Print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do what the verb says."""
        try:
            folder = self._folder(options.get("name", "default"))
            match options["verb"]:
                case "start":
                    self._start(folder, options)
                case "stop":
                    self._stop(folder, force=options["force"])
                case "restart":
                    self._stop(folder, force=options["force"])
                    self._start(folder, options)
                case _:
                    self._status(folder, as_json=options.get("json", False))
        except StateError as error:
            raise CommandError(str(error)) from None

    def _folder(self, name: str) -> Folder:
        found = find(all_settings(), "STATE_DIR")
        return folder_of(find_project(), name, str(found.value) if found and found.value else None)

    def _start(self, folder: Folder, options: dict[str, Any]) -> None:
        from gatepost_django.runner import AlreadyRunning, Runner

        try:
            runner = Runner.from_settings(options["name"])
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from None
        folder.prepare()
        if options["detach"]:
            pid = background.start(runner.project, folder, options["name"], options["verbosity"])
            server = _server(folder.reported(pid))
            self.stdout.write(f"The runner has started (pid {pid}), {server}. Its log is {folder.log}.")
            return
        logs.set_up(folder.log, options["verbosity"], to_terminal=not options["in_background"])
        changed = settings.DEBUG and not options["no_reload"] and reload.watch(runner.stop)
        try:
            runner.run()
        except AlreadyRunning:
            pid = (folder.holder() or {}).get("pid", "unknown")
            text = f"It runs already (pid {pid}). Stop it with `gatepost stop`, or start another one with --name NAME."
            raise CommandError(text) from None
        if changed and changed.is_set():
            reload.again()

    def _stop(self, folder: Folder, *, force: bool) -> None:
        holder = folder.holder()
        if holder is None:
            self.stdout.write("The runner does not run.")
            return
        if force:
            background.kill(folder, holder)
        else:
            background.stop(folder, holder, self._waiting)
        self.stdout.write("The runner has stopped.")

    def _waiting(self, folder: Folder) -> None:
        running = ", ".join(each["command"] for each in _status_of(folder).get("running", ()))
        if running:
            self.stdout.write(f"Waiting for {running}. `gatepost stop --force` kills what runs.")

    def _status(self, folder: Folder, *, as_json: bool) -> None:
        status = _status_of(folder)
        if as_json:
            self.stdout.write(json.dumps(status, indent=2))
            return
        self.stdout.write(f"Runner: {status['status']}")
        if status["status"] == "stopped":
            return
        self.stdout.write(f"Pid: {status['pid']}, for {int(status['uptime_seconds'])} s")
        self.stdout.write(f"Server: {_server(status)}")
        for each in status.get("running", ()):
            self.stdout.write(f"Runs: {each['command']} ({each['id']})")
        if waiting := status.get("waiting_to_be_sent"):
            self.stdout.write(f"Executions whose output is being sent: {waiting}")


def _status_of(folder: Folder) -> dict[str, Any]:
    holder = folder.holder()
    if holder is None:
        return {"status": "stopped"}
    started = float(holder.get("started", time.time()))
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started))
    known = {"pid": holder.get("pid"), "started_at": text, "uptime_seconds": max(time.time() - started, 0.0)}
    return {"status": "running", **known, **folder.reported(holder.get("pid"))}


def _server(report: Mapping[str, Any]) -> str:
    """How a runner stands with its server, in words."""
    words = {"active": "accepted by the server", "suspended": "suspended", "denied": "not accepted by the server"}
    reason = f": {report['reason']}".rstrip(".") if report.get("reason") else ""
    return words.get(str(report.get("server")), "not connected") + reason
