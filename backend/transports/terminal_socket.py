"""The terminal socket: frames are passed to the protocol, its actions are performed by the execution service.

It is ASGI middleware in front of the routes, because the direct writer needs the server's own `send`, which
every router wraps. The socket is read at all times, so a disconnect, a cancel or a pong is seen while commands run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from contextlib import suppress
from typing import Any, assert_never

from backend.application.executions import ExecutionService
from backend.application.submission import Existing
from backend.core.client_address import SHOWN
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.low_priority import low_priority
from backend.core.execution.refusals import unavailable, unknown
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import OWN
from backend.core.identity import Principal
from backend.core.recording.messages import Message, Waking
from backend.transports.frame_pace import FramePace, shared_pace
from backend.transports.frames import AsgiSend, BlockWriter, SharedFrames, abort, block_writer, has_left
from backend.transports.plain_lines import PlainLines
from backend.transports.security import Rejections, Seat, Security, headers_of
from backend.transports.terminal_protocol import (
    CLOSE_TRY_LATER,
    CLOSE_UNAUTHORISED,
    Action,
    Actions,
    Close,
    Follow,
    Identify,
    Instruct,
    Reject,
    Say,
    Submit,
    TerminalProtocol,
    Unfollow,
    Welcome,
    made_room,
    refusal,
)
from backend.transports.turns import LONG_BLOCK

PATH = "/ws/terminal"
RECHECK_EVERY = 4.0  # seconds between two checks whether the token of an open socket is still valid; see SharedHolders
QUIET = 0.001  # seconds without a frame in which the other connections had their turn
AUTH_TIMEOUT = 5.0  # seconds for the first message of a client that must authenticate
TELL_TIMEOUT = 1.0  # seconds for a message to a client that may not read: the checks of the socket wait no longer
WAKING_TIME = 10.0  # seconds after startup in which the service reports that it has just started
BATCH, LINES = "gatepost.v1.batch", "gatepost.v1.json"

AsgiReceive = Callable[[], Awaitable[MutableMapping[str, Any]]]
AsgiApp = Callable[[MutableMapping[str, Any], AsgiReceive, AsgiSend], Awaitable[None]]


class ClientGone(Exception):
    """The socket is closed."""


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """What the socket reports about the service. `uptime` is in seconds; `connected` counts sockets; `warn` logs."""

    name: str
    version: str
    uptime: Callable[[], float]
    connected: Callable[[int], None]
    warn: Callable[[str], None]


class TerminalSocket:
    """ASGI middleware that answers WS /ws/terminal. `left` is called for the visitor of each connection that has ended."""

    def __init__(
        self,
        app: AsgiApp,
        *,
        executions: ExecutionService,
        security: Security,
        rejections: Rejections,
        info: ServiceInfo,
        left: Callable[[Principal], None],
    ) -> None:
        self.app = app
        self.left = left
        self.executions = executions
        self.security = security
        self.rejections = rejections
        self.info = info
        self.pace = shared_pace()
        self.frames = SharedFrames()

    async def __call__(self, scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] != "websocket" or scope["path"].removeprefix(scope.get("root_path", "")) != PATH:
            await self.app(scope, receive, send)
            return
        address = self.security.address(scope)
        if foreign := self.security.check_origin(scope):
            origin = ", ".join(headers_of(scope, b"origin"))[:SHOWN]
            self.info.warn(f"{foreign.reason} {foreign.hint}")  # a browser hides the response from its page
            await self.rejections.record(
                "unknown", address, path=PATH, status=403, rule=foreign.rule, **({"origin": origin} if origin else {})
            )
            await _deny(scope, receive, send, 403, foreign)
        elif crowded := self.security.refuse_connection(scope, address):
            await _deny(scope, receive, send, 429, crowded)
        else:
            await self._serve(scope, receive, send, address)

    async def _serve(self, scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend, address: str) -> None:
        subprotocol = next((name for name in scope["subprotocols"] if name in {BATCH, LINES}), None)
        page = bool(headers_of(scope, b"origin"))
        visitor = self.security.visitor(scope)
        protocol = TerminalProtocol(visitor, self.info.name, self.info.version, resumes=page and not subprotocol)
        connection = TerminalConnection(self, protocol, receive, send, subprotocol)
        self.info.connected(1)
        try:
            await receive()
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
            with suppress(ClientGone):
                await connection.run(self.security.bearer(scope))
        finally:
            self.security.connections.leave(address, connection.seat)
            self.left(visitor)
            self.info.connected(-1)


async def _deny(
    scope: MutableMapping[str, Any], receive: AsgiReceive, send: AsgiSend, status: int, decision: Decision
) -> None:
    """Refuse the handshake, with a body where the server can send one."""
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": decision.rule})
        return
    headers = [(b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": refusal(decision).message.encode()})


class PlainWriter:
    """Writes what a client without a subprotocol shows: see `plain_lines`."""

    def __init__(self, writer: BlockWriter, begin: Callable[[Coroutine[Any, Any, None]], object]) -> None:
        self._writer = writer
        self._begin = begin
        self._lines = PlainLines()
        self._now = asyncio.get_running_loop().time
        self._turn = asyncio.Lock()
        self._holds = False  # a task waits for what is held back: idle connections have none

    async def write(self, block: bytes) -> bool:
        async with self._turn:
            return await self._pass_on(self._lines.feed(block, self._now()))

    async def _write_late(self) -> None:
        """Write what has been held back for long enough, until nothing is."""
        while (due := self._lines.due) is not None:
            await asyncio.sleep(max(0.0, due - self._now()))
            async with self._turn:
                await self._writer.write(self._lines.expire(self._now()))
        self._holds = False

    async def _pass_on(self, ready: bytes) -> bool:
        if self._lines.due is not None and not self._holds:
            self._holds = True
            self._begin(self._write_late())
        return await self._writer.write(ready)


class TerminalConnection:
    """One connected client: performs what its protocol asks for."""

    def __init__(
        self,
        socket: TerminalSocket,
        protocol: TerminalProtocol,
        receive: AsgiReceive,
        send: AsgiSend,
        subprotocol: str | None,
    ) -> None:
        self.executions, self.security = socket.executions, socket.security
        self.rejections, self.info = socket.rejections, socket.info
        self.protocol = protocol
        self.seat = Seat.LOGS_IN
        self._receive, self._send = receive, send
        self._pace = FramePace(socket.pace)
        writer = block_writer(send, batches=subprotocol == BATCH, shared=socket.frames)
        self._writer: BlockWriter = writer if subprotocol else PlainWriter(writer, self._begin)
        self._following: dict[str, asyncio.Task[Any]] = {}
        self._attached: set[str] = set()  # those of them that this client has not started itself
        self._tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._now = loop.time
        self._active = self._now()  # when it last asked for a command or for output

    @property
    def principal(self) -> Principal:
        return self.protocol.principal

    async def run(self, bearer: str | None) -> None:
        """Serve the client until it disconnects. Raises ClientGone."""
        try:
            await self._authenticate(bearer)
            if not self._closed.done():
                self._begin(self._recheck())
                await self._converse()
        except StorageError as error:
            await self._perform([refusal(unavailable(error)), Close(CLOSE_TRY_LATER, "storage.unavailable")])
        finally:
            await self._leave()

    async def _authenticate(self, bearer: str | None) -> None:
        """Identify the client by its header or, if a token is still required, by a message in AUTH_TIMEOUT."""
        known = await self._identify(bearer)
        await self._perform(self.protocol.identified(known, may_try=bearer is None))
        if not self.protocol.awaits_token:
            return
        try:
            async with asyncio.timeout(AUTH_TIMEOUT):
                while self.protocol.awaits_token and await self._take_frame():
                    pass
        except TimeoutError:
            await self._perform(self.protocol.identified(await self._identify(None)))
        if self.protocol.awaits_token:
            raise ClientGone

    async def _identify(self, token: str | None) -> Principal | Decision:
        """The principal of a token, once there is a seat for it."""
        known = await self.security.identify(token, self.principal)
        seat = known if isinstance(known, Decision) else self.security.take_seat(self.seat, known)
        if isinstance(seat, Decision):
            return seat
        self.seat = seat
        return known

    async def _converse(self) -> None:
        """Process frames until the client disconnects or the socket is closed; later frames are not processed."""
        taking = asyncio.create_task(self._take_frames())
        try:
            await asyncio.wait({taking, self._closed}, return_when=asyncio.FIRST_COMPLETED)
            if taking.done():
                taking.result()
        finally:
            taking.cancel()

    async def _take_frames(self) -> None:
        while await self._take_frame() and not self._closed.done():
            pass

    async def _take_frame(self) -> bool:
        """Process one frame; False if the client has disconnected."""
        begun = self._now()
        event = await self._receive()
        if event["type"] == "websocket.disconnect":
            return False
        await self._keep_pace(self._now(), self._now() - begun)
        await self._perform(self.protocol.receive(event.get("text")))
        return True

    async def _keep_pace(self, now: float, idle: float) -> None:
        """Leave the loop to the other connections, a client in haste for longer. Raises ClientGone for a flood."""
        wait = self._pace.wait(now, idle)
        if wait is None:
            abort(self._send)
            await self._act(Reject("limits.frames"))
            raise ClientGone
        if wait or idle < QUIET:
            await asyncio.sleep(wait)
        if wait and has_left(self._send):
            raise ClientGone

    async def _perform(self, actions: Actions) -> None:
        for action in actions:
            await self._act(action)

    async def _act(self, action: Action) -> None:
        match action:
            case Say(message):
                await self._say(message)
            case Reject(rule):
                await self.rejections.record(self.principal.name, self.principal.address, path=PATH, rule=rule)
            case Identify(token):
                await self._perform(self.protocol.identified(await self._identify(token)))
            case Welcome():
                await self._welcome()
            case Submit(in_turn=True):
                self._begin(self._run_in_turn(action))
            case Submit():
                await self._perform(await self._submit(action))
            case Follow(execution, started=started):
                if not started:
                    self._attached.add(execution)
                self._following[execution] = self._begin(self._follow(action))
            case Unfollow(execution):
                self._unfollow(execution)
            case Instruct(execution, instruction):
                result = await self.executions.instruct(self.principal, execution, instruction)
                await self._perform(self.protocol.instructed(action, result))
            case Close(code, reason):
                await self._close(code, reason)
            case _:
                assert_never(action)

    async def _welcome(self) -> None:
        if self.info.uptime() < WAKING_TIME and not self.protocol.ready:
            await self._say(Waking(message="Waking up"))
        target = await self.executions.target(self.principal, OWN)
        if isinstance(target, Decision):
            await self._act(Reject(target.rule))
            code = CLOSE_UNAUTHORISED if target.rule == "target.unknown" else CLOSE_TRY_LATER
            await self._perform([refusal(target), Close(code, target.rule)])
            raise ClientGone
        await self._perform(self.protocol.welcomed(target.profile.name))

    async def _run_in_turn(self, action: Submit) -> None:
        """Start a command and follow it, in one task."""
        for each in await self._submit(action):
            if isinstance(each, Follow) and (task := asyncio.current_task()):
                self._following[each.execution] = task
                await self._follow(each)
            else:
                await self._act(each)

    async def _submit(self, action: Submit) -> Actions:
        self._active = self._now()
        submitted = await self.executions.submit(self.principal, action.spec)
        match submitted:
            case Refused(decision=decision):
                answer: str | Decision = decision
            case Execution(id=id) | Waiting(id=id) | Existing(id=id):
                answer = id
            case _:
                assert_never(submitted)
        return self.protocol.submitted(action, answer, queued=isinstance(submitted, Waiting))

    async def _follow(self, action: Follow) -> None:
        id, after_seq = action.execution, action.after_seq
        if action.started:
            problem = await self.executions.follow_started(id, after_seq, self._deliver)
        else:
            problem = await self.executions.follow(self.principal, id, after_seq, self._deliver)
        self._following.pop(id, None)
        self._attached.discard(id)
        await self._perform(self.protocol.followed(id, problem))

    async def _deliver(self, block: bytes) -> None:
        if len(block) > LONG_BLOCK:
            await low_priority().turn()  # a fast stream lets the other sockets go first
        if not await self._writer.write(block):
            raise ClientGone

    def _unfollow(self, execution: str) -> None:
        self._attached.discard(execution)
        if task := self._following.pop(execution, None):
            task.cancel()
        self._begin(self._perform_quietly(self.protocol.followed(execution, None)))

    async def _recheck(self) -> None:
        """Close the session soon after its token expires or is revoked, or its user is disabled.

        Executions that its user may no longer view, because it left a project, are no longer sent. Those that it has
        started here are: their output answers its own requests.
        """
        while not self._closed.done():
            await asyncio.sleep(RECHECK_EVERY)
            if not await self.executions.still_allowed(self.principal):
                await self._perform_quietly(self.protocol.expired())
                return
            if self._following:
                self._active = self._now()
            elif self.security.is_idle(self.seat, self._now() - self._active):
                self.seat = self.security.connections.give_up(self.seat)
                await self._perform_quietly(made_room())
                return
            for execution in list(self._attached):
                if not await self.executions.still_allowed(self.principal, execution):
                    await self._perform_quietly(self.protocol.forbidden(execution, unknown(execution)))

    async def _perform_quietly(self, actions: Actions) -> None:
        """Perform actions that a client which does not read must not delay."""
        for action in actions:
            with suppress(TimeoutError):
                async with asyncio.timeout(TELL_TIMEOUT):
                    await self._act(action)

    async def _say(self, message: Message) -> None:
        if not await self._writer.write(message.encode()):
            raise ClientGone

    async def _close(self, code: int, reason: str) -> None:
        try:
            with suppress(OSError):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        finally:
            if not self._closed.done():
                self._closed.set_result(None)

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task that ends with the connection."""

        async def guarded() -> None:
            try:
                await work
            except ClientGone:
                pass
            finally:
                self._tasks.discard(task)

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        return task

    async def _leave(self) -> None:
        """Stop following; running executions wait for a viewer."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
