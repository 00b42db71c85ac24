"""The descriptors of a pipeline: pipes between its programs, the files it is redirected to, pipes to the service."""

import errno
import os
from pathlib import PurePosixPath

from backend.core.dataclasses import dataclass
from backend.core.execution.pipeline import Pipeline
from backend.core.language.parser import Invocation
from backend.core.policy.files import folder_of
from backend.core.recording.writer import RecordingWriter
from backend.executors.local.cage_call import Descriptors, pipe
from backend.executors.local.inputs import held
from backend.executors.local.openat2 import NULL, open_inside

Streams = tuple[int, int, int]
MERGED = {"2>&1": (1, 2), ">&2": (2, 1)}  # which output goes where the other goes


def _folder_of(path: str, pipeline: Pipeline) -> str:
    home = pipeline.home or pipeline.root
    return str(folder_of(PurePosixPath(path), PurePosixPath(pipeline.root), PurePosixPath(home)))


@dataclass(frozen=True, slots=True)
class ParentEnds:
    """Our ends of a pipeline's streams, not blocking; stdin is -1 where there is none."""

    stdin: int
    stdout: int
    stderr: int


class Wiring:
    """The descriptors of a pipeline: pipes between its programs, files it is redirected to, pipes to us.

    The children's ends close with `theirs`, ours with `ours` unless they are kept. A program whose file cannot be opened has
    no streams: as in a shell it does not run, with a message as if it were its own, while the others do.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        theirs: Descriptors,
        ours: Descriptors,
        owner: tuple[int, int] | None,
        recorder: RecordingWriter,
        *,
        full: bool,
    ) -> None:
        self.theirs, self.ours = theirs, ours
        self.owner, self.full = owner, full
        self.said = 0
        stdout, child_stdout = self._pipe_to_us()
        stderr, child_stderr = self._pipe_to_us()
        reading, stdin = self._input(pipeline)
        self.parent_ends = ParentEnds(stdin, stdout, stderr)
        self.stages: list[Streams | None] = []
        last = len(pipeline.invocations) - 1
        for number, invocation in enumerate(pipeline.invocations):
            following, writing = pipe(self.theirs, self.theirs) if number < last else (-1, child_stdout)
            streams = {0: reading, 1: writing, 2: child_stderr}
            try:
                self._redirect(pipeline, invocation, streams)
                self.stages.append((streams[0], streams[1], streams[2]))
            except OSError as error:
                self.said += recorder.say("stderr", f"{error.filename or 'file'}: {error.strerror}")
                self.stages.append(None)
            reading = following

    def _redirect(self, pipeline: Pipeline, invocation: Invocation, streams: dict[int, int]) -> None:
        """Redirections take effect from left to right, as in a shell."""
        for redirect in invocation.redirects:
            if redirect.operator in MERGED:
                source, sink = MERGED[redirect.operator]
                streams[sink] = streams[source]
            elif redirect.operator == "<<":
                streams[0] = self.theirs.add(held(redirect.target.encode()))
            else:
                if self.full and redirect.operator != "<" and redirect.target != NULL:
                    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), redirect.target)
                cwd = os.path.realpath(pipeline.cwd)
                root = _folder_of(os.path.join(cwd, redirect.target), pipeline)
                descriptor = open_inside(root, cwd, redirect.target, redirect.operator, self.owner)
                self.theirs.add(descriptor)
                streams[redirect.descriptor] = descriptor

    def _input(self, pipeline: Pipeline) -> tuple[int, int]:
        if pipeline.input is not None:
            return self.theirs.add(os.dup(pipeline.input.fileno())), -1
        return self._pipe_from_us() if pipeline.stdin else (self._null(), -1)

    def _pipe_to_us(self) -> tuple[int, int]:
        reading, writing = pipe(self.ours, self.theirs)
        os.set_blocking(reading, False)
        return reading, writing

    def _pipe_from_us(self) -> tuple[int, int]:
        reading, writing = pipe(self.theirs, self.ours)
        os.set_blocking(writing, False)
        return reading, writing

    def _null(self) -> int:
        return self.theirs.add(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
