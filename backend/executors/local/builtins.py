"""The commands that Gatepost answers by itself, in the same way as any other: judged, recorded, followed."""

from collections.abc import Callable, Mapping

from backend.core.dataclasses import dataclass
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Outcome, Status
from backend.core.execution.pipeline import Input, Pipeline, PipelineRunner
from backend.core.policy.profile import Profile
from backend.core.recording.lines import encode_lines
from backend.core.recording.writer import RecordingWriter

CLEAR = "CLEAR_SCREEN"  # the line on which the first browser client clears its screen


@dataclass(frozen=True, slots=True)
class Builtins:
    """Answers the commands in `texts` where they run alone, and hands every other to `otherwise`."""

    texts: Mapping[str, Callable[[Profile], str]]
    profile: Profile
    otherwise: PipelineRunner

    def opened(self, source: bytes | str, root: str, cwd: str) -> Input:
        """An input that programs share. Raises OSError."""
        return self.otherwise.opened(source, root, cwd)

    async def run(self, pipeline: Pipeline, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Write the text as standard output. Nothing reads standard input meanwhile, or afterwards."""
        text = self.texts.get(pipeline.argv[0])
        if text is None or len(pipeline.invocations) > 1 or pipeline.invocations[0].redirects:
            return await self.otherwise.run(pipeline, output, instructions)
        instructions.stdin.close()
        data = f"{text(self.profile)}\n".encode()
        if pipeline.captured:
            pipeline.captured.add(data)
        else:
            output.lines("stdout", encode_lines(data))
        return Outcome(Status.SUCCEEDED, 0, stdout_bytes=len(data))


def _shell_help(profile: Profile) -> str:
    lines = [
        f"{profile.name}: {profile.summary}",
        "",
        f"Lines are run by {profile.shell}. {profile.allowed}",
        "",
        "Blocked:",
    ]
    width = max(map(len, profile.blocked_programs), default=0)
    return "\n".join([*lines, *(f"  {name:<{width}}  {why}" for name, why in sorted(profile.blocked_programs.items()))])


def help_text(profile: Profile) -> str:
    """What a profile allows, for a person."""
    if profile.shell:
        return _shell_help(profile)
    width = max((len(name) for name in profile.programs), default=0)
    lines = [f"{profile.name}: {profile.summary}", "", "Commands:"]
    lines += [f"  {name:<{width}}  {program.summary}" for name, program in sorted(profile.programs.items())]
    lines += [
        "",
        "Files are named relative to the workspace; * ? [ ] expand in it.",
        "Quote what should be taken as it is: echo 'a;b'",
    ]
    if profile.operators:
        lines.append(f"Between commands and files: {' '.join(sorted(profile.operators))}")
    return "\n".join(lines)
