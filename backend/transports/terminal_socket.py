"""The terminal socket: what a client says is put to the gateway, what an execution records is sent on.

It stands in front of the routes, as ASGI middleware, because the direct writer needs the server's own `send`, which
every router wraps. The socket is read at all times, so a disconnect, a cancel or a pong is seen while commands run.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, assert_never

from pydantic import ValidationError

from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.gateway import Execution, Gateway, Refused
from backend.core.execution.model import Request, Stop
from backend.core.identity import Permission, Principal
from backend.core.ports import Directory
from backend.core.recording.messages import (
    CLIENT_MESSAGE,
    Attach,
    Auth,
    Cancel,
    ClientMessage,
    Command,
    Message,
    Ping,
    Pong,
    Ready,
    Run,
    Stdin,
    StdinClose,
    Waking,
)
from backend.core.recording.messages import Refused as RefusedMessage
from backend.transports.frames import AsgiSend, block_writer
from backend.transports.security import Door, Rejections
from backend.transports.starting import Wish, find_target

PATH = "/ws/terminal"
FRAME_LIMIT = 64 * 1024  # bytes
WAITING_LIMIT = 16  # commands that wait for their turn on one connection
FAST_BLOCK = 4096  # bytes; smaller blocks are not worth another turn of the loop
WATCH_LIMIT = 8  # executions that one connection follows at once
RECHECK_EVERY = 5.0  # seconds between two looks whether the token of a live socket is still good
AUTH_TIMEOUT = 5.0  # seconds for the first message of a client that must prove itself
TELL_TIMEOUT = 1.0  # seconds for a word to a client that may not read: what guards the socket waits no longer
WAKING_TIME = 10.0  # seconds after its start in which the service says that it has just woken
CLOSE_TOO_BIG, CLOSE_TRY_LATER, CLOSE_UNAUTHORISED = 1009, 1013, 4001
BATCH, LINES = "gatepost.v1.batch", "gatepost.v1.json"

AsgiReceive = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiApp = Callable[[MutableMapping[str, Any], AsgiReceive, AsgiSend], Awaitable[None]]


class ClientGone(Exception):
    """The socket is closed."""


@dataclass(frozen=True, slots=True)
class Service:
    """What the socket tells about the service. `uptime` is in seconds."""

    name: str
    version: str
    uptime: Callable[[], float]
    new_id: Callable[[], str]
    connected: Callable[[int], None]


class TerminalSocket:
    """ASGI middleware that answers WS /ws/terminal."""

    def __init__(
        self,
        app: AsgiApp,
        *,
        gateway: Gateway,
        door: Door,
        directory: Directory,
        rejections: Rejections,
        service: Service,
    ) -> None:
        self.app = app
        self.gateway = gateway
        self.door = door
        self.directory = directory
        self.rejections = rejections
        self.service = service

    async def __call__(self, scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] != "websocket" or scope["path"].removeprefix(scope.get("root_path", "")) != PATH:
            await self.app(scope, receive, send)
            return
        address = self.door.address(scope)
        if not self.door.origin_allowed(scope):
            await self.rejections.note("unknown", address, path=PATH, status=403, rule="origin.foreign")
            await _deny(scope, receive, send, 403, "origin.foreign", "Pages of this origin may not connect.")
        elif not self.door.connections.enter(address):
            await _deny(scope, receive, send, 429, "limits.connections", "Too many connections; close one.")
        else:
            await self._serve(scope, receive, send, address)

    async def _serve(self, scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend, address: str) -> None:
        self.service.connected(1)
        try:
            await receive()
            subprotocol = next((name for name in scope["subprotocols"] if name in {BATCH, LINES}), None)
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
            visitor = Principal(f"visitor:{self.service.new_id()}", address)
            session = Session(self, visitor, receive, send, batches=subprotocol == BATCH)
            with suppress(ClientGone):
                await session.run(self.door.bearer(scope))
        finally:
            self.door.connections.leave(address)
            self.service.connected(-1)


async def _deny(
    scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend, status: int, rule: str, reason: str
) -> None:
    """Refuse the handshake, with a body where the server can send one."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": rule})
        return
    headers = [(b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    body = RefusedMessage(message=f"❌ {reason}", rule=rule).encode()
    await send({"type": "websocket.http.response.body", "body": body})


class Session:
    """One connected client."""

    def __init__(
        self, socket: TerminalSocket, visitor: Principal, receive: AsgiReceive, send: AsgiSend, *, batches: bool
    ) -> None:
        self.gateway, self.door = socket.gateway, socket.door
        self.directory, self.service, self.rejections = socket.directory, socket.service, socket.rejections
        self.principal = visitor
        self._receive = receive
        self._send = send
        self._writer = block_writer(send, batches=batches)
        self._following: dict[str, asyncio.Task[None]] = {}
        self._waiting: deque[str] = deque()
        self._turn: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self, bearer: str | None) -> None:
        """Serve the client until it goes. Raises ClientGone."""
        try:
            if not await self._authenticate(bearer):
                return
            if self.service.uptime() < WAKING_TIME:
                await self._say(Waking(message="Waking up"))
            await self._welcome()
            await self._converse()
        except StorageError as error:
            await self._refuse(_unavailable(error))
            await self._close(CLOSE_TRY_LATER, "storage.unavailable")
        finally:
            await self._leave()

    async def _converse(self) -> None:
        """Take messages until the client goes, or may stay no longer; then nothing it sends counts any more."""
        taking = asyncio.create_task(self._take_all())
        try:
            await asyncio.wait({taking, self._ended}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                taking.result()
        finally:
            taking.cancel()
        if self._ended.done():
            await self._dismiss()

    async def _dismiss(self) -> None:
        """Close the socket of somebody whose token ended."""
        await self._leave()
        await self._tell(Decision.deny("auth.ended", "Your token is not good any more.", "Log in again."))
        with suppress(TimeoutError):
            async with asyncio.timeout(TELL_TIMEOUT):
                await self._close(CLOSE_UNAUTHORISED, "auth.ended")

    async def _take_all(self) -> None:
        while message := await self._read():
            if not await self._take(message):
                break

    async def _authenticate(self, bearer: str | None) -> bool:
        """Find out who it is: by the header, else, where one is wanted, by the first message within AUTH_TIMEOUT."""
        known = await self.door.identify(bearer, self.principal)
        if isinstance(known, Decision) and bearer is None:
            await self._refuse(known)
            try:
                first = await asyncio.wait_for(self._read(), AUTH_TIMEOUT)
            except TimeoutError:
                first = None
            if isinstance(first, Auth):
                known = await self.door.identify(first.token, self.principal)
        return await self._become(known)

    async def _become(self, known: Principal | Decision) -> bool:
        """Go on as whoever it is; close the socket of somebody who is nobody."""
        if isinstance(known, Decision):
            await self._rejected(known.rule)
            await self._refuse(known)
            await self._close(CLOSE_UNAUTHORISED, known.rule)
            return False
        self.principal = known
        if known.user:
            self._checking = asyncio.create_task(self._check())
        return True

    async def _rejected(self, rule: str) -> None:
        await self.rejections.note(self.principal.name, self.principal.address, path=PATH, rule=rule)

    async def _check(self) -> None:
        """End the session soon after its token is revoked, its user disabled, its time over.

        What it may not watch any more, for somebody left a project, is not sent any more.
        """
        with suppress(ClientGone):
            while not self._ended.done():
                await asyncio.sleep(RECHECK_EVERY)
                with suppress(StorageError):
                    if await self.door.authenticator.is_valid(self.principal):
                        await self._unwatch()
                    else:
                        self._ended.set_result(None)

    async def _unwatch(self) -> None:
        for execution, task in list(self._following.items()):
            if not await self._may_watch(execution):
                task.cancel()
                await self._tell(_unknown(execution))

    async def _tell(self, decision: Decision) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(TELL_TIMEOUT):
                await self._refuse(decision)

    async def _welcome(self) -> None:
        target = await self.directory.target(self.principal, None)
        if target is None:
            raise StorageError("The place of this account is not there.")
        await self._say(
            Ready(
                message=f"✅ Connected to {self.service.name}. Type help to see what is allowed.",
                service=self.service.name,
                version=self.service.version,
                profile=target.profile.name,
                user=self.principal.user.name if self.principal.user else None,
            )
        )

    async def _read(self) -> ClientMessage | None:
        """The next message that can be understood; None when the socket is closed or must be."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return None
            text = event.get("text")
            if text is None:
                await self._rejected("frame.invalid")
                await self._refuse(_invalid("a text frame is wanted, this one is binary"))
            elif len(text) > FRAME_LIMIT or len(text.encode()) > FRAME_LIMIT:
                await self._rejected("limits.frame")
                await self._close(CLOSE_TOO_BIG, "limits.frame")
                return None
            else:
                try:
                    return CLIENT_MESSAGE.validate_json(text)
                except ValidationError as error:
                    await self._rejected("frame.invalid")
                    await self._refuse(_invalid(_first_problem(error)))

    async def _take(self, message: ClientMessage) -> bool:
        """Do what a message says; False when the socket was closed for it."""
        match message:
            case Command():
                await self._take_in_turn(message.command)
            case Run():
                await self._run(message)
            case Cancel():
                await self._cancel(message)
            case Stdin() | StdinClose():
                await self._feed(message)
            case Attach():
                await self._attach(message)
            case Auth():
                return await self._take_auth(message)
            case Ping():
                await self._say(Pong(id=message.id))
            case _:
                assert_never(message)
        return True

    async def _take_in_turn(self, line: str) -> None:
        if not line.strip():
            return
        if len(self._waiting) >= WAITING_LIMIT:
            reason = f"{WAITING_LIMIT} commands of this connection wait already."
            await self._refuse(Decision.deny("limits.queue", reason, "Wait for `complete`."), line)
            return
        self._waiting.append(line)
        if self._turn is None or self._turn.done():
            self._turn = asyncio.create_task(self._work_off())

    async def _work_off(self) -> None:
        with suppress(ClientGone):
            while self._waiting:
                line = self._waiting.popleft()
                if execution := await self._submit(None, line):
                    await self._following[execution.id]

    async def _run(self, message: Run) -> None:
        if message.command.strip():
            await self._submit(message.project, message.command, message)

    async def _submit(self, project: str | None, line: str, run: Run | None = None) -> Execution | None:
        wish = Wish(self.principal, project, line, run.cwd if run else ".")
        try:
            target = await find_target(self.gateway, self.directory, wish)
        except StorageError as error:
            await self._refuse(_unavailable(error), line, run.id if run else None)
            return None
        if isinstance(target, Refused):
            await self._refuse(target.decision, line, run.id if run else None)
            return None
        request = Request(self.principal, target, line)
        if run:
            request = replace(request, cwd=run.cwd, timeout=run.timeout, dry_run=run.dry_run, stdin=True, id=run.id)
        match await self.gateway.submit(request):
            case Refused(decision=decision):
                await self._refuse(decision, request.command, request.id)
                return None
            case Execution() as execution:
                self._watch(execution.id, 0)
                return execution

    def _watch(self, execution: str, after_seq: int) -> None:
        task = asyncio.create_task(self._follow(execution, after_seq))
        self._following[execution] = task
        task.add_done_callback(lambda _: self._following.pop(execution, None))

    async def _follow(self, execution: str, after_seq: int) -> None:
        with suppress(ClientGone):
            try:
                if not await self.gateway.follow(execution, after_seq, self._deliver):
                    await self._refuse(_unknown(execution))
            except OSError as error:
                reason = f"The recording of {execution} cannot be read: {error.strerror}."
                await self._refuse(Decision.deny("recording.unavailable", reason, "Try again in a moment."))

    async def _deliver(self, block: bytes) -> None:
        if not await self._writer.write(block):
            raise ClientGone
        if len(block) > FAST_BLOCK:
            # A fast stream must leave the loop to the other sockets between two blocks.
            await asyncio.sleep(0)

    async def _attach(self, message: Attach) -> None:
        if message.execution in self._following:
            reason = "This connection watches that execution already."
            await self._refuse(Decision.deny("attach.twice", reason, "Go on reading."))
        elif len(self._following) >= WATCH_LIMIT:
            reason = f"This connection watches {WATCH_LIMIT} executions already."
            await self._refuse(Decision.deny("limits.watching", reason, "Wait for one to end, or connect once more."))
        elif await self._may_watch(message.execution):
            self._watch(message.execution, message.after_seq)
        else:
            await self._refuse(_unknown(message.execution))

    async def _may_watch(self, execution: str) -> bool:
        return await self.directory.may_watch(self.principal, execution)

    async def _cancel(self, message: Cancel) -> None:
        if execution := await self._touch(message):
            execution.control.stop(Stop.CANCELLED, self.principal.name)

    async def _feed(self, message: Stdin | StdinClose) -> None:
        execution = await self._touch(message)
        if execution is None:
            return
        if isinstance(message, StdinClose):
            execution.control.stdin.close()
        elif execution.control.stdin.closed:
            reason = "The standard input of this command is closed."
            await self._refuse(Decision.deny("stdin.closed", reason, "Start it with `run` to have it open."))
        elif not execution.control.stdin.put(message.data.encode()):
            reason = "The command does not read its input, and no more of it is kept."
            await self._refuse(Decision.deny("stdin.full", reason, "Wait until it reads, or cancel it."))

    async def _touch(self, message: Cancel | Stdin | StdinClose) -> Execution | None:
        """A running execution that this connection watches and may touch: the one named, else the newest."""
        if not self.principal.may(Permission.EXECUTE):
            reason = "You may look at this execution, but not touch it."
            await self._refuse(Decision.deny("role.forbidden", reason))
            return None
        mine = [execution for key, execution in self.gateway.live.items() if key in self._following]
        found = next((each for each in reversed(mine) if message.execution in {None, each.id}), None)
        if found is None or not await self._may_watch(found.id):
            await self._refuse(_nothing_runs(message.type))
            return None
        return found

    async def _take_auth(self, message: Auth) -> bool:
        """A visitor who shows a token goes on as its account, in that account's own place."""
        known = None if self.principal.user else await self.door.identify(message.token, self.principal)
        if known is None or known is self.principal:
            await self._refuse(Decision.deny("auth.unneeded", "You are known already.", "Go on."))
            return True
        if not await self._become(known):
            return False
        await self._welcome()
        return True

    async def _refuse(self, decision: Decision, command: str | None = None, id: str | None = None) -> None:
        words = " ".join(filter(None, (decision.reason, decision.hint)))
        await self._say(
            RefusedMessage(
                message=f"❌ {words} [{decision.rule}]",
                rule=decision.rule,
                reason=decision.reason,
                hint=decision.hint or None,
                risk=decision.risk,
                command=command,
                id=id,
                retry_after=round(decision.retry_after, 1) or None,
            )
        )

    async def _say(self, message: Message) -> None:
        if not await self._writer.write(message.encode()):
            raise ClientGone

    async def _close(self, code: int, reason: str) -> None:
        with suppress(OSError):
            await self._send({"type": "websocket.close", "code": code, "reason": reason})

    async def _leave(self) -> None:
        """Stop watching; what runs waits for somebody to attach."""
        tasks = [*self._following.values(), *filter(None, (self._turn, self._checking))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _invalid(what: str) -> Decision:
    return Decision.deny(
        "frame.invalid", f"The frame cannot be understood: {what}.", 'Send for example {"command":"help"}.'
    )


def _unavailable(error: StorageError) -> Decision:
    return Decision.deny("storage.unavailable", str(error), "Try again in a moment.", retry_after=5.0)


def _unknown(execution: str) -> Decision:
    reason = f"There is no recording of the execution {execution}; it may have been deleted for its age."
    return Decision.deny("execution.unknown", reason)


def _nothing_runs(what: str) -> Decision:
    return Decision.deny("execution.not_running", f"No such command runs here, so there is nothing to {what}.")


def _first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, without repeating what was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"][1:]))
    if first["type"] == "union_tag_invalid":
        return "its type is not known"
    return f"{place}: {first['msg']}" if place else str(first["msg"])
