"""The messages of the protocol: one tagged union of client messages, one of server messages.

Unknown fields of a client message are ignored, so that newer clients work with older servers. Output messages are written
in bulk by `backend.core.recording.writer`; `Output` and `OutputBatch` here are their schema, for clients and tests.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter

ExecutionId = Annotated[str, Field(pattern=r"^[0-9A-HJKMNP-TV-Z]{26}$")]
ClientId = Annotated[str, Field(max_length=64)]
TIMEOUT_BOUND = 1e9  # seconds of any command; the limits of a target are far below


class Message(BaseModel):
    """One JSON object on the wire. Each kind is built when it is first made, which saves a start 1 ms each."""

    model_config = ConfigDict(extra="ignore", frozen=True, defer_build=True)

    def encode(self) -> bytes:
        """UTF-8 JSON without the fields that have no value."""
        return self.model_dump_json(exclude_none=True).encode()


class Command(Message):
    """The original message: a command without standard input; those of a connection run one after another."""

    type: Literal["command"] = "command"
    command: str


class Run(Message):
    """Run a command concurrently with others, with standard input open. `timeout` is in seconds."""

    type: Literal["run"]
    command: str
    cwd: str = Field(default=".", max_length=1024)
    timeout: float | None = Field(default=None, gt=0, le=TIMEOUT_BOUND)
    dry_run: bool = False
    project: ExecutionId | None = None
    target: str | None = None
    id: ClientId | None = None


class Directed(Message):
    """A message about one execution; without one named, the newest that the connection follows."""

    type: str
    execution: ExecutionId | None = None


class Cancel(Directed):
    """Stop an execution."""

    type: Literal["cancel"]


class Stdin(Directed):
    """Text for the standard input of an execution."""

    type: Literal["stdin"]
    data: str


class StdinClose(Directed):
    """End of the standard input."""

    type: Literal["stdin_close"]


class SendSignal(Directed):
    """A signal for every process of an execution."""

    type: Literal["signal"]
    signal: Literal["HUP", "INT", "QUIT", "TERM", "KILL", "USR1", "USR2"]


class ResizeTerminal(Directed):
    """The size of the client's terminal, for an execution that has one."""

    type: Literal["resize"]
    columns: int = Field(ge=1, le=10_000)
    rows: int = Field(ge=1, le=10_000)


class Attach(Message):
    """View an execution from the message after `after_seq` on."""

    type: Literal["attach"]
    execution: ExecutionId
    after_seq: int = Field(default=0, ge=0)


class Auth(Message):
    """The access token."""

    type: Literal["auth"]
    token: str


class Ping(Message):
    """Request a pong."""

    type: Literal["ping"]
    id: ClientId | None = None


def _client_tag(value: Any) -> str:
    tag = value.get("type", "command") if isinstance(value, dict) else getattr(value, "type", "")
    return tag if isinstance(tag, str) else ""


ClientMessage = (
    Annotated[Command, Tag("command")]
    | Annotated[Run, Tag("run")]
    | Annotated[Cancel, Tag("cancel")]
    | Annotated[Stdin, Tag("stdin")]
    | Annotated[StdinClose, Tag("stdin_close")]
    | Annotated[SendSignal, Tag("signal")]
    | Annotated[ResizeTerminal, Tag("resize")]
    | Annotated[Attach, Tag("attach")]
    | Annotated[Auth, Tag("auth")]
    | Annotated[Ping, Tag("ping")]
)
CLIENT_MESSAGE: TypeAdapter[ClientMessage] = TypeAdapter(Annotated[ClientMessage, Discriminator(_client_tag)])


class Waking(Message):
    """The service has just started."""

    type: Literal["waking"] = "waking"
    message: str


class Ready(Message):
    """Commands are accepted."""

    type: Literal["ready"] = "ready"
    message: str
    service: str
    version: str
    profile: str
    user: str | None = None


class Idle(Message):
    """Nothing runs for this connection yet: a page that waits for the end of a command has lost it with another."""

    type: Literal["complete"] = "complete"


class Refused(Message):
    """Why nothing ran. `retry_after` is in seconds."""

    type: Literal["error"] = "error"
    message: str
    rule: str
    reason: str | None = None
    hint: str | None = None
    risk: str | None = None
    command: str | None = None
    id: str | None = None
    retry_after: float | None = None


class Queued(Message):
    """The command was allowed and waits until its target is reached; `started` follows."""

    type: Literal["queued"] = "queued"
    execution: str
    message: str
    id: str | None = None


class Pong(Message):
    """The answer to a ping."""

    type: Literal["pong"] = "pong"
    id: str | None = None


class ExecutionMessage(Message):
    """A message of one execution; the recorder sets these three fields."""

    type: str
    execution: str = ""
    seq: int = 0
    ms: int = 0

    def numbered(self, execution: str, seq: int, ms: int) -> bytes:
        """UTF-8 JSON with these values in the place of its own. A copy of the message takes three times as long."""
        place = b'"execution":"%b","seq":%d,"ms":%d'
        own = place % (self.execution.encode(), self.seq, self.ms)
        return self.encode().replace(own, place % (execution.encode(), seq, ms), 1)  # they follow the type


class Started(ExecutionMessage):
    """The command was allowed. `time` is UTC, ISO 8601; `timeout` in seconds."""

    type: Literal["started"] = "started"
    command: str
    argv: tuple[str, ...]
    risk: str
    rule: str
    cwd: str
    time: str
    timeout: float
    dry_run: bool
    commands: tuple[tuple[str, ...], ...] | None = None
    metadata_only: bool | None = None
    id: str | None = None


class Output(ExecutionMessage):
    """One line of output; with `partial` it continues in the next message of its stream.

    For a client without a subprotocol standard error is `stdout` too, and `stream` says so.
    """

    type: Literal["stdout", "stderr"]
    line: str
    partial: bool | None = None
    stream: Literal["stderr"] | None = None


class OutputBatch(ExecutionMessage):
    """Lines of output; `seq` is the number of the first."""

    type: Literal["stdout", "stderr"]
    lines: tuple[str, ...]
    partial: bool | None = None


class Truncated(ExecutionMessage):
    """The output limit was reached."""

    type: Literal["truncated"] = "truncated"
    limit_bytes: int
    message: str


class Problem(ExecutionMessage):
    """An error within an execution; `complete` follows."""

    type: Literal["error"] = "error"
    message: str
    rule: str


class Complete(ExecutionMessage):
    """The end of an execution. `background` are the ids of those that it has started; the last fields are the figures of `Usage`."""

    type: Literal["complete"] = "complete"
    status: str
    exit_code: int | None
    signal: str | None
    duration_ms: int
    timed_out: bool
    truncated: bool
    stdout_bytes: int
    stderr_bytes: int
    cpu_ms: int = 0
    peak_memory_bytes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    protection: str | None = None
    dry_run: bool | None = None
    background: tuple[str, ...] | None = None

    def encode(self) -> bytes:
        """UTF-8 JSON. `exit_code`, `signal` and `protection` are always present, null where there is none."""
        return self.model_dump_json(
            exclude={each for each in ("dry_run", "background") if not getattr(self, each)}
        ).encode()


def _server_tag(value: Any) -> str:
    """Distinguishes messages that share a `type`."""
    match value:
        case {"type": "error"}:
            return "problem" if "execution" in value else "refused"
        case {"type": "complete"}:
            return "complete" if "execution" in value else "idle"
        case {"type": "stdout" | "stderr"}:
            return "batch" if "lines" in value else "output"
        case {"type": str(tag)}:
            return tag
        case _:
            return ""


ServerMessage = (
    Annotated[Waking, Tag("waking")]
    | Annotated[Idle, Tag("idle")]
    | Annotated[Ready, Tag("ready")]
    | Annotated[Refused, Tag("refused")]
    | Annotated[Queued, Tag("queued")]
    | Annotated[Pong, Tag("pong")]
    | Annotated[Started, Tag("started")]
    | Annotated[Output, Tag("output")]
    | Annotated[OutputBatch, Tag("batch")]
    | Annotated[Truncated, Tag("truncated")]
    | Annotated[Problem, Tag("problem")]
    | Annotated[Complete, Tag("complete")]
)
SERVER_MESSAGE: TypeAdapter[ServerMessage] = TypeAdapter(
    Annotated[ServerMessage, Discriminator(_server_tag)],
    config=ConfigDict(defer_build=True),  # only clients read these
)
