"""One terminal connection without I/O: frames and results come in, actions come out.

    receive(frame) -> actions          what the client sent
    identified, welcomed, submitted, followed, instructed -> actions    the result of an action

The shell in `terminal_socket` performs the actions and reports their results.
"""

from dataclasses import field
from typing import assert_never

from pydantic import ValidationError

from backend.application.submission import CommandSpec
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.model import (
    CloseInput,
    Delivery,
    Instruction,
    Resize,
    Signal,
    SignalName,
    Stop,
    StopReason,
    Write,
)
from backend.core.execution.refusals import nothing_runs, undelivered
from backend.core.execution.sessions import Session
from backend.core.execution.targets import OWN, addressed, target_ref
from backend.core.identity import Principal
from backend.core.recording import messages
from backend.core.recording.messages import CLIENT_MESSAGE, ClientMessage, Message

FRAME_LIMIT = 64 * 1024  # bytes
WAITING_LIMIT = 16  # commands that wait for their turn on one connection
WATCH_LIMIT = 8  # executions that one connection follows at once
ENDED_LIMIT = 64  # ended executions that a late cancel is recognised for
CLOSE_TOO_BIG, CLOSE_TRY_LATER, CLOSE_UNAUTHORISED = 1009, 1013, 4001
HAND_OVER = "Go on."


@dataclass(frozen=True, slots=True)
class Say:
    """Send a message."""

    message: Message


@dataclass(frozen=True, slots=True)
class Reject:
    """Record in the audit that a frame or a token was refused by `rule`."""

    rule: str


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket; nothing follows."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Identify:
    """Identify the principal of a token, then report `identified`."""

    token: str | None


@dataclass(frozen=True, slots=True)
class Welcome:
    """Find the target of the client's commands, then report `welcomed`."""


@dataclass(frozen=True, slots=True)
class Submit:
    """Start a command, then report `submitted`."""

    spec: CommandSpec
    in_turn: bool = False


@dataclass(frozen=True, slots=True)
class Follow:
    """Send what an execution has recorded after `after_seq`, live, then report `followed`.

    The output of one that this client has `started` is the answer to its own request.
    """

    execution: str
    after_seq: int = 0
    started: bool = False


@dataclass(frozen=True, slots=True)
class Unfollow:
    """Stop sending what an execution records."""

    execution: str


@dataclass(frozen=True, slots=True)
class Instruct:
    """Deliver an instruction to an execution, then report `instructed`."""

    execution: str
    instruction: Instruction


Action = Say | Reject | Close | Identify | Welcome | Submit | Follow | Unfollow | Instruct
Actions = list[Action]


@dataclass(slots=True)
class TerminalProtocol:
    """The state of one connection. `service` and `version` are what `ready` reports.

    A page without a subprotocol may still wait for the end of a command of an earlier connection, with its input
    disabled, and cannot attach to it; so it is sent a `complete` first. With `resumes` the client is such a page.
    """

    principal: Principal
    service: str
    version: str
    resumes: bool = False
    awaits_token: bool = False
    is_over: bool = False  # the token has expired
    ready: bool = False
    following: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    busy: bool = False  # a command of the queue runs, or is about to
    turn: str = ""  # the execution that the queue waits for
    ended: list[str] = field(default_factory=list)
    session: Session = field(default_factory=Session)  # of its commands

    def receive(self, text: str | None) -> Actions:
        """A frame: its text, None for a binary one."""
        if self.is_over:
            return []
        if text is None:
            return self._invalid("expected a text frame, got binary")
        if len(text) > FRAME_LIMIT or len(text.encode("utf-8", "surrogatepass")) > FRAME_LIMIT:
            return [Reject("limits.frame"), Close(CLOSE_TOO_BIG, "limits.frame")]
        try:
            message = CLIENT_MESSAGE.validate_json(text)
        except ValidationError as error:
            return self._invalid(_first_problem(error))
        return self._awaited_token(message) if self.awaits_token else self._take(message)

    def _invalid(self, what: str) -> Actions:
        hint = 'Send for example {"command":"help"}.'
        decision = Decision.deny("frame.invalid", f"The frame cannot be understood: {what}.", hint)
        return [Reject("frame.invalid"), refusal(decision)]

    def _awaited_token(self, message: ClientMessage) -> Actions:
        self.awaits_token = False
        return [Identify(message.token if isinstance(message, messages.Auth) else None)]

    def _take(self, message: ClientMessage) -> Actions:
        match message:
            case messages.Command():
                return self._enqueue(message.command)
            case messages.Run():
                return self._run(message)
            case messages.Attach():
                return self._attach(message)
            case messages.Auth():
                return [Identify(message.token)] if self.principal.user is None else self._unneeded()
            case messages.Ping():
                return [Say(messages.Pong(id=message.id))]
            case messages.Cancel():
                return self._instruct(message, Stop(StopReason.CANCELLED, self.principal.name))
            case messages.Stdin():
                return self._instruct(message, Write(message.data.encode("utf-8", "replace")))
            case messages.StdinClose():
                return self._instruct(message, CloseInput())
            case messages.SendSignal():
                return self._instruct(message, Signal(SignalName(message.signal)))
            case messages.ResizeTerminal():
                return self._instruct(message, Resize(message.columns, message.rows))
            case _:
                assert_never(message)

    def _unneeded(self) -> Actions:
        reason = "A token was sent on a connection that is already authenticated."
        return [refusal(Decision.deny("auth.unneeded", reason, HAND_OVER))]

    def _enqueue(self, line: str) -> Actions:
        if not line.strip():
            return []
        if len(self.waiting) >= WAITING_LIMIT:
            reason = f"{WAITING_LIMIT} commands of this connection are waiting."
            return [refusal(Decision.deny("limits.queue", reason, "Wait for `complete`."), line)]
        self.waiting.append(line)
        return self._next()

    def _next(self) -> Actions:
        """Start the next command of the queue unless one runs."""
        if self.busy or not self.waiting:
            return []
        self.busy = True
        return [Submit(CommandSpec(self.waiting.pop(0), session=self.session), in_turn=True)]

    def _run(self, message: messages.Run) -> Actions:
        if not message.command.strip():
            return []
        line, target = addressed(message.command, OWN)
        try:
            target = target_ref(message.project, message.target) if target == OWN else target
        except ValueError as error:
            return self._invalid(str(error))
        spec = CommandSpec(
            line,
            target,
            cwd=message.cwd,
            timeout=message.timeout,
            dry_run=message.dry_run,
            stdin=True,
            client_ref=message.id,
            session=self.session,
        )
        return [Submit(spec)]

    def _attach(self, message: messages.Attach) -> Actions:
        if message.execution in self.following:
            reason = "This connection already follows that execution."
            return [refusal(Decision.deny("attach.twice", reason, "Keep reading."))]
        if len(self.following) >= WATCH_LIMIT:
            reason = f"This connection already follows {WATCH_LIMIT} executions."
            return [
                refusal(Decision.deny("limits.watching", reason, "Wait for one to end, or open another connection."))
            ]
        self.following.append(message.execution)
        return [Follow(message.execution, message.after_seq)]

    def _instruct(self, message: messages.Directed, instruction: Instruction) -> Actions:
        """An instruction for the execution that is named, else for the newest that this connection follows."""
        named = message.execution or (self.following[-1] if self.following else "")
        if named in self.following:
            return [Instruct(named, instruction)]
        late = named in self.ended if named else bool(self.ended)
        if isinstance(instruction, Stop) and late:
            return []  # the client has been sent the end, or is about to read it
        return [refusal(nothing_runs(message.type))]

    def identified(self, known: Principal | Decision, *, may_try: bool = False) -> Actions:
        """The principal of the token. A client without one `may_try` once more, in its first message."""
        if isinstance(known, Principal):
            if self.ready and known is self.principal:
                return self._unneeded()
            self.principal, self.awaits_token = known, False
            return [Welcome()]
        if may_try:
            self.awaits_token = True
            return [refusal(known)]
        code = CLOSE_TRY_LATER if known.rule == "limits.connections" else CLOSE_UNAUTHORISED
        return [Reject(known.rule), refusal(known), Close(code, known.rule)]

    def welcomed(self, profile: str) -> Actions:
        """The profile that judges the client's commands."""
        idle: Actions = [Say(messages.Idle())] if self.resumes and not self.ready else []
        self.ready = True
        return [
            *idle,
            Say(
                messages.Ready(
                    message=f"Connected to {self.service}. Type help to see what is allowed.",
                    service=self.service,
                    version=self.version,
                    profile=profile,
                    user=self.principal.user.name if self.principal.user else None,
                )
            ),
        ]

    def submitted(self, submit: Submit, answer: str | Decision, *, queued: bool = False) -> Actions:
        """The execution that a command became, or why it was refused. One that is `queued` starts later."""
        if isinstance(answer, Decision):
            refused: Actions = [refusal(answer, submit.spec.command, submit.spec.client_ref)]
            if submit.in_turn:
                self.busy = False
                refused += self._next()
            return refused
        if submit.in_turn:
            self.turn = answer
        self.following.append(answer)
        text = "Queued: it starts as soon as its target takes it."
        said = [Say(messages.Queued(execution=answer, message=text, id=submit.spec.client_ref))] if queued else []
        return [*said, Follow(answer, started=True)]

    def followed(self, execution: str, problem: Decision | None) -> Actions:
        """All of the recording was sent, or why it cannot be."""
        if execution in self.following:
            self.following.remove(execution)
        if problem is None:
            self.ended = [*self.ended[1 - ENDED_LIMIT :], execution]
        actions: Actions = [refusal(problem)] if problem else []
        if execution == self.turn:
            self.turn, self.busy = "", False
            actions += self._next()
        return actions

    def instructed(self, instruct: Instruct, result: Delivery | Decision) -> Actions:
        """The result of an instruction."""
        if isinstance(result, Decision):
            return [refusal(result)]
        problem = undelivered(instruct.instruction, result, instruct.execution)
        return [refusal(problem)] if problem else []

    def forbidden(self, execution: str, problem: Decision) -> Actions:
        """The execution no longer exists for this client."""
        return [Unfollow(execution), refusal(problem)]

    def expired(self) -> Actions:
        """The token is no longer valid; nothing that the client sends from here on is processed."""
        reason = "Your token has expired or been revoked."
        gone: Actions = [Unfollow(execution) for execution in self.following]
        self.following.clear()
        self.waiting.clear()
        self.is_over = True
        decision = Decision.deny("auth.ended", reason, "Log in again.")
        return [*gone, refusal(decision), Close(CLOSE_UNAUTHORISED, "auth.ended")]


def made_room() -> Actions:
    """The end of a visitor that was idle while others need its place."""
    reason = "This connection was idle, and other visitors need its place."
    decision = Decision.deny("limits.idle", reason, "Connect again to go on.")
    return [refusal(decision), Close(CLOSE_TRY_LATER, "limits.idle")]


def refusal(decision: Decision, command: str | None = None, id: str | None = None) -> Say:
    """A decision as a message."""
    words = " ".join(filter(None, (decision.reason, decision.hint)))
    return Say(
        messages.Refused(
            message=f"{words} [{decision.rule}]",
            rule=decision.rule,
            reason=decision.reason,
            hint=decision.hint or None,
            risk=decision.risk,
            command=command,
            id=id,
            retry_after=round(decision.retry_after, 1) or None,
        )
    )


def _first_problem(error: ValidationError) -> str:
    """The first thing that is wrong, without repeating what was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"][1:]))
    if first["type"] == "union_tag_invalid":
        return "its type is unknown"
    return f"{place}: {first['msg']}" if place else str(first["msg"])
