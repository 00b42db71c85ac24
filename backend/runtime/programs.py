"""The table of outside programs: those of the file GATEPOST_PROGRAMS, and pyguard of PYGUARD_COMMAND.

[NAME]                        the name that command lines use; a profile or a project must allow it too
command                       the words that are executed; the arguments of the command line follow them
environment                   variables that it gets from the service's environment, where they are set
required                      the same, but without them it is refused (`program.key`)
required_for                  the subcommands that need those; without it every use does
network                       HOST:PORT that it may connect to; without it there is no network
readable                      further folders that it may read
home                          "private": a new one for each command, removed at its end; or "workspace"
"""

import os
import re
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from backend.core.dataclasses import dataclass
from backend.core.policy.profile import MissingVariables
from backend.core.policy.profile_file import PROGRAM_NAME
from backend.executors.local.outside import program_folders
from backend.executors.local.places import BUILTINS
from backend.executors.local.process_spec import Ports
from backend.runtime.settings import Address, Settings, SettingsError, check_variable, data_exposed, pyguard_hosts

MOST = 64  # entries of a list; more ports or folders would not fit the cage


def _network(entry: str) -> str:
    Address.parse(entry)
    return entry


def _folder(path: str) -> str:
    if not os.path.isabs(path):
        raise ValueError(f"{path!r} is not an absolute path")
    return path


def _command(words: tuple[str, ...]) -> tuple[str, ...]:
    if "/" in words[0] and not os.path.isabs(words[0]):
        raise ValueError(f"{words[0]!r} is neither the name of a program nor an absolute path")
    if any("\0" in word for word in words):
        raise ValueError("a NUL character cannot be passed to a program")
    return words


class Program(BaseModel):
    """One program, as it is written in the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_command)]
    environment: Annotated[tuple[Annotated[str, AfterValidator(check_variable)], ...], Field(max_length=MOST)] = ()
    required: Annotated[tuple[Annotated[str, AfterValidator(check_variable)], ...], Field(max_length=MOST)] = ()
    required_for: tuple[str, ...] = ()
    network: Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], Field(max_length=MOST)] = ()
    readable: Annotated[tuple[Annotated[str, AfterValidator(_folder)], ...], Field(max_length=MOST)] = ()
    home: Literal["private", "workspace"] = "private"

    @property
    def ports(self) -> Ports | None:
        """What the kernel is to permit; names of hosts have to be asked for."""
        addresses = [Address.parse(entry) for entry in self.network]
        names = not all(address.is_number for address in addresses)
        return Ports(tuple(sorted({address.port for address in addresses})), names) if addresses else None

    @property
    def folders(self) -> tuple[str, ...]:
        """All that it may read in addition to what every command may."""
        return (*program_folders(self.command), *self.readable)


@dataclass(frozen=True, slots=True)
class OutsidePrograms:
    """The programs by name, with the values of their variables."""

    programs: Mapping[str, Program]
    values: Mapping[str, str]

    def environment(self, name: str) -> dict[str, str]:
        """The variables of a program."""
        program = self.programs[name]
        own = {each: self.values[each] for each in (*program.environment, *program.required) if self.values[each]}
        # Python would search for modules in the current folder, where a user of the workspace can put some.
        return {**own, "PYTHONSAFEPATH": "1"} if "-m" in program.command else own

    @property
    def missing(self) -> dict[str, MissingVariables]:
        """The programs that lack a variable that they need."""
        lacking = {
            name: tuple(each for each in program.required if not self.values[each])
            for name, program in self.programs.items()
        }
        return {
            name: MissingVariables(names, self.programs[name].required_for) for name, names in lacking.items() if names
        }

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values, which are masked."""
        return tuple(filter(None, self.values.values()))


def outside_programs(settings: Settings) -> OutsidePrograms:
    """The table. Raises SettingsError, which names file, program and field."""
    listed = _read(settings.programs) if settings.programs else {}
    if "pyguard" in listed:
        _check_one_pyguard(settings)
    programs = {"pyguard": _pyguard(settings)} | listed
    for name, program in programs.items():
        place = f"GATEPOST_PROGRAMS: {settings.programs}: {name}" if name in listed else "PYGUARD_COMMAND"
        if exposed := data_exposed(settings.data_dir, [(place, folder) for folder in program.folders]):
            raise SettingsError(exposed)
    names = {each for program in programs.values() for each in (*program.environment, *program.required)}
    return OutsidePrograms(programs, {name: settings.variable(name) for name in sorted(names)})


def _pyguard(settings: Settings) -> Program:
    """The entry that PYGUARD_COMMAND and PYGUARD_NETWORK stand for."""
    try:
        return Program(
            command=tuple(shlex.split(settings.pyguard_command)),
            environment=("GROQ_API_KEY",),
            required=("ANTHROPIC_API_KEY",),
            required_for=("fix", "analyze"),
            network=tuple(pyguard_hosts(settings.pyguard_network)),
        )
    except ValidationError as error:
        raise SettingsError(
            "\n".join(f"PYGUARD_COMMAND: {line.partition(': ')[2]}" for line in _lines(error))
        ) from None


def _check_one_pyguard(settings: Settings) -> None:
    for key in ("pyguard_command", "pyguard_network"):
        if getattr(settings, key) != Settings.model_fields[key].default:
            raise SettingsError(f"{key.upper()}: pyguard is in {settings.programs} too; remove one of them")


def _read(path: Path) -> dict[str, Program]:
    place = f"GATEPOST_PROGRAMS: {path}"
    try:
        programs = TypeAdapter(dict[str, Program]).validate_python(tomllib.loads(path.read_text()))
    except OSError as error:
        raise SettingsError(f"{place}: {error.strerror}") from error
    except ValidationError as error:
        raise SettingsError("\n".join(f"{place}: {line}" for line in _lines(error))) from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise SettingsError(f"{place}: {error}") from error
    for name in programs:
        if not PROGRAM_NAME.fullmatch(name):
            raise SettingsError(f"{place}: {name}: this is not the plain name of a program")
        if name in BUILTINS:
            raise SettingsError(f"{place}: {name}: Gatepost answers this command itself")
    return programs


def _lines(error: ValidationError) -> list[str]:
    """What is wrong, each with its program and field; without the values, one of which may be a misplaced key."""
    found = [(".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")) for item in error.errors()]
    return [f"{place}: {re.sub('(?i)tuple', 'list', message)}" for place, message in found]
