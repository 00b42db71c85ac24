"""The programs of one step of a line, as an executor runs them."""

from dataclasses import field
from typing import Protocol

from backend.core.dataclasses import dataclass
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Actor, Outcome
from backend.core.language.parser import Invocation
from backend.core.policy.egress import Egress
from backend.core.recording.writer import RecordingWriter

NO_ONE = Actor("", "")


@dataclass(slots=True)
class Capture:
    """Where output goes that is no output of the line: at most `limit` bytes of it are kept."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    overflowed: bool = False

    def add(self, data: bytes) -> None:
        """Keep what there is room for."""
        room = self.limit - len(self.data)
        self.data += data[:room]
        self.overflowed = self.overflowed or len(data) > room


class Input(Protocol):
    """A standard input that programs share: what one of them has read, the next one does not get."""

    def fileno(self) -> int: ...

    def read_line(self, limit: int) -> bytes:
        """Up to and with the next line break, or as many bytes; less at the end of the input. Raises OSError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One step of a line as it runs: its programs, its folder, its timeout in seconds, its output limit in bytes.

    `root` is the workspace, which contains `cwd`; `home` the folder for what tools store, `actor` who runs it; with
    `stdin` the first program reads what the client sends, with `input` what is in that; with `pipefail` it fails if any of its programs does. `network` is
    the machine's network, or listed hosts alone. With `captured` its standard output goes there; with `leaves_state` its program
    reports what the line leaves.
    """

    execution: str
    invocations: tuple[Invocation, ...]
    root: str
    cwd: str
    timeout: float
    output_limit: int
    stdin: bool = False
    network: bool | Egress = False
    pipefail: bool = False
    home: str = ""
    actor: Actor = NO_ONE
    captured: Capture | None = None
    input: Input | None = None
    leaves_state: bool = False

    @property
    def argv(self) -> tuple[str, ...]:
        """The words of the first program."""
        return self.invocations[0].argv


class PipelineRunner(Protocol):
    """Runs one pipeline to its end."""

    def opened(self, source: bytes | str, root: str, cwd: str) -> Input:
        """These bytes, or a file below `root` named from `cwd`, as an input. Raises OSError."""
        ...

    async def run(self, pipeline: Pipeline, output: RecordingWriter, instructions: Instructions) -> Outcome: ...
