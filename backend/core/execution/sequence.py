"""Runs the steps of a line one after another: what `&&`, `||`, `;`, `!`, compounds, substitutions and builtins mean."""

import asyncio
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import field
from functools import partial
from typing import Protocol

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import RecordingError, StorageError
from backend.core.execution.background import BackgroundExecutions, JobControl
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Actor, Job, Outcome, Status, StopReason, unrecorded
from backend.core.execution.pipeline import Capture, Input, Pipeline, PipelineRunner
from backend.core.execution.progress import NOTHING_YET, Progress, denied, exited, stopped, unaudited
from backend.core.language.fields import Fields
from backend.core.language.lexer import PROCESS_NAME, hidden_character
from backend.core.language.parser import ExpandedRedirect, Invocation, no_background, parse
from backend.core.language.tree import (
    Background,
    Call,
    Case,
    Compound,
    Fed,
    For,
    Function,
    Group,
    If,
    Parameter,
    Piped,
    Script,
    Step,
    Trap,
    While,
    substitutions,
    words_of,
)
from backend.core.language.words import VALUE_LIMIT
from backend.core.policy.admit import (
    NESTING_LIMIT,
    PolicyTarget,
    Verdict,
    assigned,
    choose,
    enter_call,
    judge_step,
    judge_words,
    place_redirects,
    resolved,
    too_deep,
)
from backend.core.policy.egress import Egress
from backend.core.policy.files import TEMPORARY, folder_of
from backend.core.policy.line_state import (
    Activate,
    Await,
    Cancel,
    Define,
    Effect,
    Enter,
    Exit,
    Leave,
    Read,
    Return,
    Shift,
    ShowStarted,
    Source,
    normal,
)
from backend.core.policy.profile import Profile
from backend.core.recording.lines import encode_lines
from backend.core.recording.writer import RecordingWriter

PIPED_LIMIT = 1 << 20  # bytes that a group may pipe into a command: what a pipe can be made to hold


class StepLog(Protocol):
    """Records what a later step runs."""

    async def step(self, execution: str, actor: Actor, argvs: tuple[tuple[str, ...], ...], decision: Decision) -> None:
        """Record a step that is about to run with words other than those judged first. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Sequence:
    """Runs lines that were judged against `target`; `runner` runs their pipelines. With `egress` the network of the target
    is a list of hosts; `background` starts what runs in the background, where that can be."""

    target: PolicyTarget
    runner: PipelineRunner
    log: StepLog
    mask: Callable[[str], str]
    clock: Callable[[], float]
    egress: Egress | None = None
    background: BackgroundExecutions | None = None

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Run a line to its end. The outcome is that of the last step that ran, with the output of all."""
        progress = Progress(NOTHING_YET, job.plan.start)
        line = _Line(self, job, output, instructions, self.clock() + job.timeout, progress)
        await line.steps(job.plan.script.steps, tested=False)
        await line.trapped()
        await line.remove_files()
        return replace(progress.outcome, left=progress.state, background=tuple(progress.started))


@dataclass(frozen=True, slots=True)
class _Line:
    """A line that runs, until `end` at most. `ran` counts its steps; `captured` is where the output of a substitution goes."""

    sequence: Sequence
    job: Job
    output: RecordingWriter
    instructions: Instructions
    end: float
    progress: Progress
    ran: list[int] = field(default_factory=lambda: [0])
    captured: Capture | None = None
    input: Input | None = None

    async def steps(self, steps: tuple[Step, ...], *, tested: bool) -> None:
        """Run steps one after another. With `set -e` a failure ends the line, unless it is `tested` by what follows."""
        progress = self.progress
        for number, step in enumerate(steps):
            if progress.over:
                return
            if number and progress.skips(step.join):
                continue
            if progress.begun and self.sequence.clock() >= self.end:
                self.instructions.stop(StopReason.TIMED_OUT)
            if progress.begun and self.instructions.reason:
                progress.outcome, progress.ended = stopped(self.instructions.reason, progress.outcome), True
                return
            follows = steps[number + 1].join if number + 1 < len(steps) else ""
            is_tested = tested or step.negated or follows in {"&&", "||"}
            await self._step(step, tested=is_tested)
            if progress.state.errexit and progress.failed and not is_tested:
                progress.ended = True

    async def trapped(self) -> None:
        """Run what `trap` names for the end, which leaves the exit code as it is."""
        progress, code = self.progress, self.progress.outcome.exit_code
        steps = progress.state.trap
        if not steps:
            return
        progress.state = replace(progress.state, trap=())
        if progress.outcome.problem or self.instructions.reason or code is None:
            return
        ended, progress.ended = progress.ended, False
        await self.steps(steps, tested=True)
        if not progress.ended:
            progress.conclude(code)
            progress.ended = ended

    async def _step(self, step: Step, *, tested: bool) -> None:
        step = resolved(step, self.progress.state)
        if step.redirects:
            await self._redirected(step, tested=tested)
        elif step.compound and self.progress.depth == NESTING_LIMIT:
            self.progress.add(denied(too_deep()))
        elif step.compound:
            self.progress.depth += 1
            await self._compound(step.compound, tested=tested)
            self.progress.depth -= 1
        else:
            await self._commands(step, tested=tested)
        if step.negated and not self.progress.over and not self.instructions.reason:
            self.progress.negate()

    async def _compound(self, compound: Compound, *, tested: bool) -> None:
        match compound:
            case Group():
                await self._group(compound, tested=tested)
            case If():
                await self._if(compound, tested=tested)
            case Case():
                await self._case(compound, tested=tested)
            case While():
                await self._while(compound, tested=tested)
            case For():
                await self._for(compound, tested=tested)
            case Piped():
                await self._piped(compound, tested=tested)
            case Fed():
                await self._fed(compound, tested=tested)
            case Background():
                await self._background(compound)
            case Call():
                await self._call(compound, tested=tested)
            case Function(name=name, body=body):
                self.progress.begun = True
                self.progress.state = self.progress.state.declaring(name, body)
                self.progress.conclude(0)
            case Trap(steps=steps, silent=silent):
                self.progress.begun = True
                self.progress.state = replace(self.progress.state, trap=steps)
                if not silent:
                    self.progress.conclude(0)

    async def _call(self, call: Call, *, tested: bool) -> None:
        """Run the steps of a function."""
        progress = self.progress
        texts = await self._substituted(substitutions(call.words), tested=tested)
        if progress.over:
            return
        before, filled = progress.state, call.filled(iter(texts))
        begun = await asyncio.to_thread(enter_call, filled, self.sequence.target, before)
        if isinstance(begun, Decision):
            progress.add(denied(begun))
            return
        progress.state = begun
        await self.steps(call.body, tested=tested)
        progress.state = progress.state.returned(before)
        if isinstance(progress.leaving, Return):
            progress.leaving = None

    async def _background(self, compound: Background) -> None:
        """Start an execution of its own, and show its number and id as a shell does."""
        progress, executions = self.progress, self.sequence.background
        self._count_step()
        if progress.ended:
            return
        progress.begun = True
        started = await executions.start(self.job, compound.line, progress.state) if executions else no_background()
        if isinstance(started, Decision):
            progress.add(denied(started))
            return
        progress.state = progress.state.starting(started)
        progress.started.append(started)
        number = [*progress.state.background][-1]
        with self._recorded():
            self._say(f"[{number}] {started}")
            progress.conclude(0)

    def _say(self, message: str) -> None:
        """Show a message of the line itself."""
        said = self.output.say("stderr", message)
        before = self.progress.outcome
        self.progress.outcome = replace(before, stderr_bytes=before.stderr_bytes + said)

    def _write(self, text: str) -> None:
        """Write the output of a builtin."""
        data = text.encode()
        if self.captured:
            self.captured.add(data)
        elif data:
            self.output.lines("stdout", encode_lines(data))
        before = self.progress.outcome
        self.progress.outcome = replace(before, stdout_bytes=before.stdout_bytes + len(data))

    def _recorded(self) -> "_Recorded":
        """End the line where its output cannot be recorded."""
        return _Recorded(self)

    def end_unrecorded(self, error: RecordingError) -> None:
        """Nothing else of the line runs."""
        self.instructions.stop(unrecorded(error))
        self.progress.outcome = stopped(unrecorded(error), self.progress.outcome)
        self.progress.ended = True

    async def _redirected(self, step: Step, *, tested: bool) -> None:
        texts = await self._substituted(step.substitutions, tested=tested)
        if self.progress.over:
            return
        filled, state = replace(step, negated=False).filled(iter(texts)), self.progress.state
        placed = await asyncio.to_thread(place_redirects, filled, self.sequence.target, state)
        if isinstance(placed, Decision):
            self.progress.add(denied(placed))
        else:
            await self._step(placed, tested=tested)

    async def _fed(self, fed: Fed, *, tested: bool) -> None:
        source = fed.source
        given = source.target.text.encode() if source.operator == "<<" else source.target.text
        with self._opened(given) as line:
            if line:
                await line.steps(fed.steps, tested=tested)

    @contextmanager
    def _opened(self, source: bytes | str) -> "Iterator[_Line | None]":
        """The line with an input of its own; None where that cannot be opened, which fails as in a shell."""
        files, cwd = self.sequence.target.files, self.progress.state.cwd
        root = folder_of(cwd / source, files.root, files.home) if isinstance(source, str) else files.root
        try:
            opened = self.sequence.runner.opened(source, str(root), str(cwd))
        except OSError as error:
            with self._recorded():
                self._say(f"{error.filename or 'input'}: {error.strerror}")
                self.progress.conclude(1)
            yield None
            return
        try:
            yield replace(self, input=opened)
        finally:
            opened.close()

    async def _piped(self, piped: Piped, *, tested: bool) -> None:
        """Each stage runs in a subshell, on what the one before has written."""
        last, code = len(piped.stages) - 1, 0
        data: bytes | None = None
        before = self.progress.state.status
        for number, stage in enumerate(piped.stages):
            self.progress.state = replace(self.progress.state, status=before)  # they begin at once in a shell
            written = Capture(PIPED_LIMIT) if number < last else self.captured
            with nullcontext(self) if data is None else self._opened(data) as line:
                if line:
                    await replace(line, captured=written)._subshell((stage,), tested=tested)
            if number == last or self.progress.ended:
                break
            assert written
            if written.overflowed:
                self.progress.add(denied(_too_much_piped()))
                return
            data, code = bytes(written.data), self.progress.state.status or code
        pipefail = self.sequence.target.profile.pipefail or self.progress.state.pipefail
        if pipefail and code and not self.progress.failed and not self.progress.ended:
            self.progress.conclude(code)

    async def _if(self, compound: If, *, tested: bool) -> None:
        progress = self.progress
        for branch in compound.branches:
            await self.steps(branch.condition, tested=True)
            if progress.over:
                return
            if not progress.failed:
                await self.steps(branch.steps, tested=tested)
                return
        if not compound.otherwise:
            progress.conclude(0)
        await self.steps(compound.otherwise, tested=tested)

    async def _case(self, compound: Case, *, tested: bool) -> None:
        progress = self.progress
        texts = await self._substituted(substitutions(words_of(compound)), tested=tested)
        if progress.over:
            return
        filled, target = compound.filled(iter(texts)), self.sequence.target
        chosen = await asyncio.to_thread(choose, filled, target, progress.state)
        if isinstance(chosen, Decision):
            progress.add(denied(chosen))
            return
        if not chosen:
            progress.conclude(0)
        await self.steps(chosen, tested=tested)

    async def _while(self, loop: While, *, tested: bool) -> None:
        progress, code = self.progress, 0
        while True:
            await self.steps(loop.repeated.condition, tested=True)
            if progress.over or progress.failed is not loop.until:
                break
            await self.steps(loop.repeated.steps, tested=tested)
            code = progress.state.status
            if progress.left_loop():
                return
            await self.steps(loop.after, tested=True)
            if progress.over:
                return
        if not progress.left_loop():
            progress.conclude(code)

    async def _for(self, loop: For, *, tested: bool) -> None:
        progress = self.progress
        texts = await self._substituted(substitutions(loop.words), tested=tested)
        if progress.over:
            return
        filled = iter(texts)
        words = tuple(each.filled(filled) for each in loop.words)
        expanded = await asyncio.to_thread(judge_words, words, self.sequence.target, progress.state)
        if isinstance(expanded, Decision):
            progress.add(denied(expanded))
            return
        if not expanded:
            progress.conclude(0)
        for word in expanded:
            before = progress.state.status
            await self.steps((assigned((loop.name, word)),), tested=True)
            if progress.over:
                return
            progress.conclude(before)
            await self.steps(loop.body, tested=tested)
            if progress.left_loop():
                return

    async def _substituted(self, parameters: Iterable[Parameter], *, tested: bool) -> list[str]:
        """The output of each substitution, unless one of them ends the line."""
        texts: list[str] = []
        for parameter in parameters:
            is_file = parameter.name == PROCESS_NAME
            number = len(texts)
            text = await (self._file(parameter, number) if is_file else self._output(parameter, tested=tested))
            if isinstance(text, Decision):
                self.progress.add(denied(text))
            if isinstance(text, Decision) or self.progress.ended:
                break
            texts.append(text)
        return texts

    async def _output(self, parameter: Parameter, *, tested: bool) -> str | Decision:
        """What a substitution writes, without the line breaks at its end."""
        captured = Capture(VALUE_LIMIT)
        await replace(self, captured=captured)._subshell(parameter.steps, tested=tested)
        return _text(captured)

    async def _file(self, parameter: Parameter, number: int) -> str | Decision:
        """The name of a file with what a `<( )` writes. It is the same in each round of a loop, and removed at the end of the line."""
        progress, status = self.progress, self.progress.state.status
        captured = Capture(PIPED_LIMIT)
        progress.depth += 1
        await replace(self, captured=captured)._subshell(parameter.steps, tested=True)
        progress.depth -= 1
        if progress.ended or captured.overflowed:
            return _too_much_piped() if captured.overflowed else ""
        folder = self.sequence.target.files.root / TEMPORARY
        name = str(folder / f".{self.job.execution}-{progress.depth}-{number}")
        progress.files.add(name)
        with self._opened(bytes(captured.data)) as line:
            if line:
                await line._run(Invocation(("cat",), redirects=(ExpandedRedirect(">", 1, name),)))
        progress.conclude(status)
        return name

    async def remove_files(self) -> None:
        """Remove the files of `<( )`."""
        if self.progress.files and not self.instructions.reason:
            await self._run(Invocation(("rm", "-f", *sorted(self.progress.files))))

    async def _group(self, group: Group, *, tested: bool) -> None:
        if group.subshell:
            await self._subshell(group.steps, tested=tested)
        else:
            await self.steps(group.steps, tested=tested)

    async def _subshell(self, steps: tuple[Step, ...], *, tested: bool) -> None:
        """A subshell leaves the state as it was, and `exit` ends only the subshell."""
        progress, before = self.progress, self.progress.state
        progress.state = replace(before, trap=())
        await self.steps(steps, tested=tested)
        await self.trapped()
        progress.leaving = None if isinstance(progress.leaving, Return) else progress.leaving
        progress.state = replace(before, status=progress.state.status)
        progress.ended = bool(progress.outcome.problem or self.instructions.reason)

    async def _commands(self, step: Step, *, tested: bool) -> None:
        progress, plan = self.progress, self.job.plan
        substitutions = tuple(step.substitutions)
        is_first = not progress.begun and step is plan.script.steps[0] and not substitutions
        texts = await self._substituted(substitutions, tested=tested)
        self._count_step()
        if progress.ended:
            return
        try:
            verdict = plan.verdicts[0] if is_first else await self._verdict(step.filled(iter(texts)))
        except StorageError as error:
            progress.add(unaudited(error))
            return
        progress.begun = True
        if isinstance(verdict, Decision):
            progress.add(denied(verdict))
            return
        with self._recorded():
            self._trace(verdict)
            await self._perform(verdict, progress.state.status if texts else 0)

    def _trace(self, verdict: Verdict) -> None:
        """Show what is about to run, where `set -x` asks for it."""
        for invocation in verdict.invocations if self.progress.state.xtrace else ():
            self._say(self.sequence.mask(f"+ {shlex.join(invocation.argv)}"))

    def _count_step(self) -> None:
        self.ran[0] += 1
        profile = self.sequence.target.profile
        if self.ran[0] > profile.max_steps and not self.progress.ended:
            self.progress.add(denied(_too_many_steps(profile)))

    async def _perform(self, verdict: Verdict, substituted: int) -> None:
        """Run a step. An assignment ends as the last substitution in it did."""
        if verdict.is_builtin:
            await self._change(verdict.effect, substituted)
        else:
            pipeline = self._pipeline(verdict.invocations, leaves_state=verdict.is_line)
            self.progress.add(await self.sequence.runner.run(pipeline, self.output, self.instructions))

    async def _verdict(self, step: Step) -> Verdict | Decision:
        """The verdict on a step now; words other than those judged first are recorded before they run."""
        sequence = self.sequence
        # In a thread, since links and globs can take a while.
        verdict = await asyncio.to_thread(judge_step, step, sequence.target, self.progress.state)
        if isinstance(verdict, Verdict) and not set(verdict.invocations) <= self.job.plan.invocations:
            argvs = tuple(tuple(map(sequence.mask, each.argv)) for each in verdict.invocations)
            await sequence.log.step(self.job.execution, self.job.actor, argvs, verdict.decision)
        return verdict

    async def _run(self, invocation: Invocation) -> None:
        """Run a program that does what a form of the line stands for, without a say in its end."""
        pipeline = replace(self._pipeline((invocation,)), stdin=False)
        await self.sequence.runner.run(pipeline, self.output, self.instructions)

    def _pipeline(self, invocations: tuple[Invocation, ...], *, leaves_state: bool = False) -> Pipeline:
        job, target, progress = self.job, self.sequence.target, self.progress
        spent = progress.outcome.stdout_bytes + progress.outcome.stderr_bytes
        return Pipeline(
            execution=job.execution,
            invocations=invocations,
            root=str(target.files.root),
            cwd=str(progress.state.cwd),
            timeout=max(self.end - self.sequence.clock(), 0),
            output_limit=max(job.output_limit - spent, 0),
            stdin=job.stdin,
            network=self.sequence.egress or target.network,
            pipefail=target.profile.pipefail or progress.state.pipefail,
            home=target.files.variables["HOME"],
            actor=job.actor,
            captured=self.captured,
            input=self.input,
            leaves_state=leaves_state,
        )

    async def _change(self, effect: Effect | None, substituted: int) -> None:
        """Run a builtin. `cd` fails like a program, so that `cd x && y` behaves as in a shell."""
        progress = self.progress
        if isinstance(effect, Cancel | Await | ShowStarted):
            await self._control(effect)
            return
        if isinstance(effect, Read):
            await self._read(effect)
            return
        if isinstance(effect, Source):
            await self._source(effect)
            return
        if isinstance(effect, Shift) and effect.count > len(progress.state.positional or ()):
            progress.add(exited(1))
            return
        if isinstance(effect, Enter) and effect.folder == str(self.sequence.target.files.root / TEMPORARY):
            await self._run(Invocation(("mkdir", "-p", effect.folder)))  # /tmp is always there
        if isinstance(effect, Exit):
            progress.add(exited(effect.status))
            progress.ended = True
        elif isinstance(effect, Enter) and not self._is_folder(effect.folder):
            said = self.output.say("stderr", f"cd: {effect.folder}: No such folder") if effect.reports else 0
            progress.add(Outcome(Status.FAILED, 1, stderr_bytes=said))
        elif isinstance(effect, Activate) and not self._is_environment(effect):
            said = self.output.say("stderr", f"{effect.folder}/bin/activate: No such file")
            progress.add(Outcome(Status.FAILED, 1, stderr_bytes=said))
        else:
            code = effect.status if isinstance(effect, Return) else substituted if isinstance(effect, Define) else 0
            progress.add(exited(code))
            progress.state = progress.state.after(effect)
            progress.leaving = effect if isinstance(effect, Leave | Return) else None
            if isinstance(effect, Enter) and effect.shown:
                self._write(f"{progress.state.cwd}\n")

    async def _read(self, effect: Read) -> None:
        """Read a line into variables, which are judged as those of a loop. It fails at the end of the input."""
        progress, fields = self.progress, Fields(effect.separators, effect.raw)
        if self.input is None and self.job.stdin:
            progress.add(denied(_no_shared_input()))
            return
        length = 0
        while not fields.complete and self.input:
            data = await asyncio.to_thread(self.input.read_line, VALUE_LIMIT)
            length += len(data)
            text = _decoded(data, "A line of the input", VALUE_LIMIT, longer=length >= VALUE_LIMIT)
            if isinstance(text, Decision):
                progress.add(denied(text))
                return
            fields.add(text)
        values = zip(effect.names, fields.split(len(effect.names)), strict=True)
        try:
            verdict = await self._verdict(assigned(*values))
        except StorageError as error:
            progress.add(unaudited(error))
            return
        if isinstance(verdict, Decision):
            progress.add(denied(verdict))
            return
        await self._change(verdict.effect, 0)
        progress.conclude(0 if fields.ended_by_break else 1)

    async def _source(self, effect: Source) -> None:
        """Set the variables that a file names: each of its lines is judged as one of the line."""
        progress = self.progress
        with self._opened(effect.file) as line:
            if line is None:
                return
            assert line.input
            data = b"".join(iter(partial(line.input.read_line, VALUE_LIMIT), b""))
        text = _decoded(data, effect.file, VALUE_LIMIT, longer=len(data) > VALUE_LIMIT)
        profile = self.sequence.target.profile
        parsed = text if isinstance(text, Decision) else parse(text, profile.operators, assignments=True)
        if isinstance(parsed, Decision) or not parsed.only_assigns:
            progress.add(denied(_not_variables(effect.file, parsed)))
            return
        progress.conclude(0)
        await self.steps(parsed.steps, tested=True)

    async def _control(self, effect: Cancel | Await | ShowStarted) -> None:
        """Run a builtin about what runs in the background."""
        progress, executions = self.progress, self.sequence.background
        if executions is None:
            progress.add(denied(no_background()))
            return
        control = JobControl(executions, self.job, self._say)
        try:
            match effect:
                case Cancel():
                    progress.conclude(await control.kill(effect, progress.state))
                case ShowStarted():
                    self._write(await control.jobs(progress.state))
                    progress.conclude(0)
                case Await():
                    seconds = max(self.end - self.sequence.clock(), 0)
                    code = await control.wait(effect, progress.state, self.instructions, seconds)
                    progress.conclude(code or 0)
        except StorageError as error:
            progress.add(unaudited(error))
        if reason := self.instructions.reason:
            progress.outcome, progress.ended = stopped(reason, progress.outcome), True

    def _is_environment(self, effect: Activate) -> bool:
        return self._is_folder(str(self.sequence.target.files.root / effect.folder / "bin"))

    def _is_folder(self, folder: str) -> bool:
        entered = self.sequence.target.files.for_line().enter(str(normal(self.progress.state.cwd / folder)))
        return not isinstance(entered, Decision)


class _Recorded:
    """A context that ends a line where its output cannot be recorded; as a generator it would take five times as long."""

    __slots__ = ("_line",)

    def __init__(self, line: _Line) -> None:
        self._line = line

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if isinstance(error, RecordingError):
            self._line.end_unrecorded(error)
            return True
        return False


def _text(captured: Capture) -> str | Decision:
    text = _decoded(bytes(captured.data), "The output of a $( )", captured.limit, longer=captured.overflowed)
    return text if isinstance(text, Decision) else text.rstrip("\n")


def _decoded(data: bytes, what: str, limit: int, *, longer: bool) -> str | Decision:
    """Text that may become words of a command."""
    if longer:
        return Decision.deny("limits.expansion", f"{what} has more than {limit} bytes.", "Keep it in a file instead.")
    text = data.decode("utf-8", "surrogateescape")
    if hidden := hidden_character(text):
        reason = f"{what} cannot be part of a command: {hidden.reason.replace('The line', 'it')}"
        return replace(hidden, reason=reason, hint="Keep it in a file instead.")
    return text


def _not_variables(file: str, parsed: Script | Decision) -> Decision:
    why = parsed.reason if isinstance(parsed, Decision) else "it has other lines than NAME=value."
    return Decision.deny("syntax.source", f"{file} cannot be read: {why}", "bash FILE runs a file of commands.")


def _too_much_piped() -> Decision:
    reason = f"A group of commands has piped more than {PIPED_LIMIT} bytes."
    return Decision.deny("limits.expansion", reason, "Pipe each command in it, or write to a file.")


def _too_many_steps(profile: Profile) -> Decision:
    reason = f"The line has run {profile.max_steps} steps, as many as the profile {profile.name} lets a line run."
    return Decision.deny(
        "limits.steps", reason, "Repeat less in one line, or let a program do it: awk, xargs, a script."
    )


def _no_shared_input() -> Decision:
    reason = "read takes a line from a pipe, a file or a here-document, not from the standard input of the whole line."
    return Decision.deny("syntax.builtin", reason, "cat | while read -r LINE; do echo $LINE; done")
