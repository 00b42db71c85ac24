"""The terminal socket: what a client says is put to the gateway, what an execution records is sent on.

It stands in front of the routes, as ASGI middleware, because the direct writer needs the server's own `send`, which
every router wraps. The socket is read at all times, so a disconnect, a cancel or a pong is seen while commands run.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, assert_never

from pydantic import ValidationError

from backend.core.decisions import Decision
from backend.core.executions import Request, Stop
from backend.core.gateway import Execution, Gateway, Refused
from backend.core.identity import Principal
from backend.core.messages import (
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
from backend.core.messages import Refused as RefusedMessage
from backend.transports.door import Door
from backend.transports.frames import AsgiSend, block_writer

PATH = "/ws/terminal"
FRAME_LIMIT = 64 * 1024  # bytes
WAITING_LIMIT = 16  # commands that wait for their turn on one connection
FAST_BLOCK = 4096  # bytes; smaller blocks are not worth another turn of the loop
WATCH_LIMIT = 8  # executions that one connection follows at once
AUTH_TIMEOUT = 5.0  # seconds for the first message of a client that must prove itself
WAKING_TIME = 10.0  # seconds after its start in which the service says that it has just woken
CLOSE_TOO_BIG, CLOSE_UNAUTHORISED = 1009, 4001
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

    def __init__(self, app: AsgiApp, *, gateway: Gateway, door: Door, service: Service) -> None:
        self.app = app
        self.gateway = gateway
        self.door = door
        self.service = service

    async def __call__(self, scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] != "websocket" or scope["path"].removeprefix(scope.get("root_path", "")) != PATH:
            await self.app(scope, receive, send)
            return
        address = self.door.address(scope)
        if not self.door.origin_allowed(scope):
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
            principal = Principal(f"visitor:{self.service.new_id()}", address)
            session = Session(
                self.gateway, self.door, self.service, principal, receive, send, batches=subprotocol == BATCH
            )
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
        self,
        gateway: Gateway,
        door: Door,
        service: Service,
        principal: Principal,
        receive: AsgiReceive,
        send: AsgiSend,
        *,
        batches: bool,
    ) -> None:
        self.gateway = gateway
        self.door = door
        self.service = service
        self.principal = principal
        self._receive = receive
        self._send = send
        self._writer = block_writer(send, batches=batches)
        self._following: dict[str, asyncio.Task[None]] = {}
        self._waiting: deque[str] = deque()
        self._turn: asyncio.Task[None] | None = None

    async def run(self, bearer: str | None) -> None:
        """Serve the client until it goes. Raises ClientGone."""
        if not await self._authenticate(bearer):
            return
        if self.service.uptime() < WAKING_TIME:
            await self._say(Waking(message="Waking up"))
        await self._say(
            Ready(
                message=f"✅ Connected to {self.service.name}. Type help to see what is allowed.",
                service=self.service.name,
                version=self.service.version,
                profile=self.gateway.profile.name,
            )
        )
        try:
            while message := await self._read():
                await self._take(message)
        finally:
            await self._leave()

    async def _authenticate(self, bearer: str | None) -> bool:
        """Ask for the token where one is set: the header, else the first message within AUTH_TIMEOUT."""
        address = self.principal.address
        if (refusal := await self.door.check_token(bearer, address)) is None:
            return True
        if bearer is None:
            await self._refuse(refusal)
            try:
                first = await asyncio.wait_for(self._read(), AUTH_TIMEOUT)
            except TimeoutError:
                first = None
            token = first.token if isinstance(first, Auth) else None
            if (refusal := await self.door.check_token(token, address)) is None:
                return True
        await self._refuse(refusal)
        await self._close(CLOSE_UNAUTHORISED, refusal.rule)
        return False

    async def _read(self) -> ClientMessage | None:
        """The next message that can be understood; None when the socket is closed or must be."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                return None
            text = event.get("text")
            if text is None:
                await self._refuse(_invalid("a text frame is wanted, this one is binary"))
            elif len(text) > FRAME_LIMIT or len(text.encode()) > FRAME_LIMIT:
                await self._close(CLOSE_TOO_BIG, "limits.frame")
                return None
            else:
                try:
                    return CLIENT_MESSAGE.validate_json(text)
                except ValidationError as error:
                    await self._refuse(_invalid(_first_problem(error)))

    async def _take(self, message: ClientMessage) -> None:
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
                await self._refuse_auth()
            case Ping():
                await self._say(Pong(id=message.id))
            case _:
                assert_never(message)

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
                if execution := await self._submit(Request(self.principal, line)):
                    await self._following[execution.id]

    async def _run(self, message: Run) -> None:
        if not message.command.strip():
            return
        await self._submit(
            Request(
                self.principal,
                message.command,
                cwd=message.cwd,
                timeout=message.timeout,
                dry_run=message.dry_run,
                stdin=True,
                id=message.id,
            )
        )

    async def _submit(self, request: Request) -> Execution | None:
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
        else:
            self._watch(message.execution, message.after_seq)

    async def _cancel(self, message: Cancel) -> None:
        if execution := self._find(message.execution):
            execution.control.stop(Stop.CANCELLED)
        else:
            await self._refuse(_nothing_runs("cancel"))

    async def _feed(self, message: Stdin | StdinClose) -> None:
        execution = self._find(message.execution)
        if execution is None:
            await self._refuse(_nothing_runs(message.type))
        elif isinstance(message, StdinClose):
            execution.control.stdin.close()
        elif execution.control.stdin.closed:
            reason = "The standard input of this command is closed."
            await self._refuse(Decision.deny("stdin.closed", reason, "Start it with `run` to have it open."))
        elif not execution.control.stdin.put(message.data.encode()):
            reason = "The command does not read its input, and no more of it is kept."
            await self._refuse(Decision.deny("stdin.full", reason, "Wait until it reads, or cancel it."))

    def _find(self, id: str | None) -> Execution | None:
        """A running execution that this connection watches: the one named, else the newest."""
        mine = [execution for key, execution in self.gateway.live.items() if key in self._following]
        return next((execution for execution in reversed(mine) if id in {None, execution.id}), None)

    async def _refuse_auth(self) -> None:
        reason = "You are known already." if self.door.token else "This server asks for no token."
        await self._refuse(Decision.deny("auth.unneeded", reason, "Go on."))

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
        tasks = [*self._following.values(), *([self._turn] if self._turn else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _invalid(what: str) -> Decision:
    return Decision.deny(
        "frame.invalid", f"The frame cannot be understood: {what}.", 'Send for example {"command":"help"}.'
    )


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
