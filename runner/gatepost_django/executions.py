"""Executions of this runner: claimed, judged, run, and sent to the server with all that they print."""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gatepost_django.client import Client, Refused, Server
from gatepost_django.commands import Commands, Rejected, judged
from gatepost_django.delivery import PAUSES, Delivery
from gatepost_django.masking import Masks
from gatepost_django.output import Output, Stream
from gatepost_django.process import start
from gatepost_django.protocol import End, Offer
from gatepost_django.run import Run
from gatepost_django.spool import Spool, Text, left_behind
from gatepost_django.standing import Denied, Standing

log = logging.getLogger("gatepost_django")

ASK_EVERY = 2.0  # seconds between two questions whether a command is to be stopped
FULL_AGAIN = 5.0  # seconds between attempts to write to a disk that is full
HIDDEN = "(metadata-only mode, no output captured)\n"
NOT_BEGUN = "The runner was stopped before it began this command: it did not run.\n"
KILLED = "The runner was killed while this command ran, and the command with it.\n"
FULL = "The disk of the runner is full: the command was killed, since its output could not be stored.\n"


@dataclass(frozen=True)
class Place:
    """Where commands run, and which. `lock` stays open until the last of their processes has ended."""

    project: Path
    spool: Path
    lock: int
    commands: Commands
    known: Collection[str]
    metadata_only: Collection[str]
    secrets: Collection[str]
    command_line: Callable[[list[str]], list[str]]
    environment: Mapping[str, str]


@dataclass
class Executions:
    """What this runner runs. `changed` is called when that has changed."""

    place: Place
    server: Server
    standing: Standing
    stopping: threading.Event
    ended: threading.Event
    changed: Callable[[], None]
    active: dict[str, Offer] = field(default_factory=dict)
    running: dict[str, Run] = field(default_factory=dict)
    delivering: dict[str, Spool] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, offer: Offer, done: Callable[[bool], None]) -> bool:
        """Claim and run it in a thread of its own; False if that is so already, or the runner stops.

        `done` is called with whether it was claimed, when its command has ended.
        """
        with self.lock:
            if self.stopping.is_set() or offer.id in self.active or offer.id in self.delivering:
                return False
            self.active[offer.id] = offer
        threading.Thread(target=self._perform, args=(offer, done), daemon=True).start()
        return True

    def recover(self) -> None:
        """Send what an earlier runner has left."""
        for spool in left_behind(self.place.spool):
            self.delivering[spool.id] = spool
            threading.Thread(target=self._recover, args=(spool,), daemon=True).start()

    def stop_all(self) -> None:
        """Kill all commands."""
        with self.lock:
            running = list(self.running.values())
        for run in running:
            run.stop("cancelled", kill=True)

    def _perform(self, offer: Offer, done: Callable[[bool], None]) -> None:
        claimed = False
        try:
            if claimed := (spool := self._claim(offer)) is not None:
                assert spool
                self._deliver(spool)
                log.info("Running %s (execution %s).", offer.command, offer.id)
                end = self._run(offer, spool)
                self._store(spool, end)
                log.info("%s has ended: %s, exit code %d.", offer.command, end.status, end.exit_code)
        finally:
            with self.lock:
                del self.active[offer.id]
            done(claimed)
            self.changed()

    def _claim(self, offer: Offer) -> Spool | None:
        """The spool of an execution that this runner got; None if another one did."""
        spool, nonce = Spool(self.place.spool / f"{offer.id}.jsonl"), str(uuid.uuid4())
        try:
            spool.claim(nonce, offer.command)
        except OSError as error:
            log.error("No execution is claimed, since its output could not be stored: %s", error)
            return None
        return spool if self._start(spool, nonce, self.server.client()) else None

    def _start(self, spool: Spool, nonce: str, client: Client) -> bool:
        """Whether the server has accepted the claim; asks until it has answered, or the runner stops."""
        for attempt in range(1_000_000):
            reply = client.ask("POST", f"executions/{spool.id}/start/", nonce=nonce)
            if isinstance(reply, Mapping):
                spool.confirm()
                return True
            if isinstance(reply, Refused) and not (reply.is_about_the_key and attempt):
                if reply.is_about_the_key:
                    self.standing.set(Denied(reply.detail))
                spool.delete()
                return False
            if self.stopping.is_set():
                break  # the next runner in this folder asks again
            self.ended.wait(PAUSES[min(attempt, len(PAUSES) - 1)])
        return False

    def _run(self, offer: Offer, spool: Spool) -> End:
        """Run a command that was claimed, if the rules of the project allow it."""
        place = self.place
        words = judged(place.commands, place.known, offer.command, offer.arguments, place.project)
        if isinstance(words, Rejected):
            log.warning("Rejected %s (execution %s): %s", offer.command, offer.id, words.reason)
            return self._not_run(spool, f"Rejected by the runner: {words.reason}\n")
        hidden = offer.metadata_only or offer.command in place.metadata_only
        try:
            if hidden:
                for is_stderr in (False, True):
                    spool.add(Text(HIDDEN, is_stderr, time.time()))
            line = place.command_line(words)
            process = start(line, place.project, place.environment, place.lock, read=not hidden)
        except OSError as error:
            return self._not_run(spool, f"The command cannot be started: {error.strerror}.\n")
        output = Output((self._stream(), self._stream()), spool.add)
        return self._follow(Run(process, output, offer.timeout, lambda: spool.is_full), spool)

    def _stream(self) -> Stream:
        return Stream(Masks(self.place.secrets))

    def _not_run(self, spool: Spool, why: str) -> End:
        self._store(spool, Text(why, True, time.time()))
        return End(-1, "failed")

    def _follow(self, run: Run, spool: Spool) -> End:
        over = threading.Event()
        with self.lock:
            self.running[spool.id] = run
        self.changed()
        threading.Thread(target=self._watch, args=(run, spool.id, over), daemon=True).start()
        try:
            return run.follow()
        except OSError as error:
            log.error("The output of execution %s cannot be stored: %s", spool.id, error)
            return self._not_run(spool, FULL)
        finally:
            over.set()
            with self.lock:
                del self.running[spool.id]

    def _watch(self, run: Run, execution: str, over: threading.Event) -> None:
        """Ask the server whether the command is to be stopped, until it has ended."""
        client = self.server.client()
        while not over.wait(ASK_EVERY):
            if not self.standing.is_accepted(0):
                continue
            match client.ask("GET", f"executions/{execution}/cancel-status/"):
                case {"force_kill": True}:
                    run.stop("cancelled", kill=True)
                case {"cancel_requested": True}:
                    run.stop("cancelled")

    def _store(self, spool: Spool, record: Text | End) -> None:
        """Add a record, once there is room for it on the disk."""
        while not self.ended.is_set():
            try:
                return spool.add(record)
            except OSError as error:
                log.error("%s cannot be written: %s", spool.path, error)
            self.ended.wait(FULL_AGAIN)
        return None

    def _deliver(self, spool: Spool) -> None:
        with self.lock:
            self.delivering[spool.id] = spool
        threading.Thread(target=self._send, args=(spool,), daemon=True).start()

    def _send(self, spool: Spool) -> None:
        if Delivery(self.standing, self.ended).deliver(spool, self.server.client()):
            with self.lock:
                del self.delivering[spool.id]
            self.changed()

    def _recover(self, spool: Spool) -> None:
        """Send what is left of an execution; one that has no end ended with its runner."""
        records = list(spool.records())
        begun = len(records) > 1
        if not records:
            spool.delete()
        elif begun or self._start(spool, str(records[0].get("claim")), self.server.client()):
            if "exit_code" not in records[-1]:
                self._store(spool, Text(KILLED if begun else NOT_BEGUN, True, time.time()))
                self._store(spool, End(-9 if begun else -1, "failed"))
            return self._send(spool)
        with self.lock:
            del self.delivering[spool.id]
        return None
