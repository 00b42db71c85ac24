"""Parsing a policy from TOML: tables that know their place in the file, and the programs in them."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import field
from enum import StrEnum
from typing import Any, TypeVar

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Risk
from backend.core.policy.program_rules import BUILT_IN_KINDS, ArgumentRole, Option, Program, Quirk, ValueKind

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

SHAPE_KIND = re.compile("<([a-z-]+)>")
PROGRAM_NAME = re.compile(r"\[|[a-z0-9][a-z0-9._-]*")


class ProfileError(ValueError):
    """The profile is invalid; the message names the place in it."""


ADDED_TO = ("programs", "kinds", "extra", "risks")  # tables of a profile that add to those of the one it extends


def read_toml(text: str) -> dict[str, Any]:
    """The tables of a file. Raises ProfileError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(str(error)) from error


def extended(base: Mapping[str, Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """A profile that extends another one. What it lists, it permits, whatever the other one blocks. Raises ProfileError."""
    own = Table("profile", dict(tables))
    merged = {**base, **tables, **{key: {**base.get(key, {}), **own.table(key).data} for key in ADDED_TO}}
    if "blocked" not in tables:
        listed = {*tables.get("programs", ()), *tables.get("extra", ())}
        blocked = base.get("blocked", {})
        reasons = {name: why for name, why in blocked.get("programs", {}).items() if name not in listed}
        merged["blocked"] = {**blocked, "programs": reasons}
    return merged


@dataclass(slots=True)
class Table:
    """A TOML table that knows its place in the file and which of its keys were read."""

    place: str
    data: dict[str, Any]
    read: set[str] = field(default_factory=set)

    def _get(self, key: str, kind: type[T], default: T | None) -> T:
        self.read.add(key)
        value = self.data.get(key, default)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ProfileError(f"{self.place}.{key}: expected a {kind.__name__}, found {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, default)

    def truth(self, key: str) -> bool:
        return self._get(key, bool, False)

    def number(self, key: str, default: int | None = None) -> int:
        value = self._get(key, int, default)
        if value < 1:
            raise ProfileError(f"{self.place}.{key}: must be at least 1")
        return value

    def choice(self, key: str, kind: type[E], default: E | None) -> E:
        text = self.text(key, None if default is None else str(default))
        if text not in [str(member) for member in kind]:
            raise ProfileError(f"{self.place}.{key}: must be one of {', '.join(kind)}")
        return kind(text)

    def choices(self, key: str, kind: type[E]) -> frozenset[E]:
        values = self.strings(key)
        if unknown := set(values) - {str(member) for member in kind}:
            raise ProfileError(f"{self.place}.{key}: {sorted(unknown)[0]!r} is not one of {', '.join(kind)}")
        return frozenset(map(kind, values))

    def strings(self, key: str) -> list[str]:
        values = self._get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise ProfileError(f"{self.place}.{key}: expected a list of strings")
        return values

    def table(self, key: str) -> "Table":
        return Table(f"{self.place}.{key}", self._get(key, dict, {}))

    def tables(self) -> Iterator[tuple[str, "Table"]]:
        return ((key, self.table(key)) for key in self.data)

    def tables_of(self, key: str) -> Iterator["Table"]:
        for number, data in enumerate(self._get(key, list, [])):
            if not isinstance(data, dict):
                raise ProfileError(f"{self.place}.{key}[{number}]: expected a table")
            yield Table(f"{self.place}.{key}[{number}]", data)

    def texts(self) -> dict[str, str]:
        return {key: self.text(key) for key in self.data}

    def pattern(self, key: str) -> re.Pattern[str]:
        try:
            return re.compile(self.text(key))
        except re.error as error:
            raise ProfileError(f"{self.place}.{key}: {error}") from error

    def end(self) -> None:
        """Refuse keys that were not read: a misspelt key in a policy must not be ignored."""
        if unknown := set(self.data) - self.read:
            raise ProfileError(f"{self.place}: unknown key {sorted(unknown)[0]!r}")


def read_programs(spec: Table) -> tuple[dict[str, Program], dict[str, Program]]:
    """The programs of a profile, the table `spec`, and its extra ones, by name; one may be `like` an earlier one."""
    known = _Known(_kinds(spec.table("kinds")), spec.choices("quirks", Quirk))
    for name, table in spec.table("programs").tables():
        known.programs[name] = _program(name, table, known)
    extra = {name: _program(name, table, known) for name, table in spec.table("extra").tables()}
    return known.programs, extra


@dataclass(slots=True)
class _Known:
    """What the programs of a profile may refer to: kinds of value, quirks of all programs, earlier programs."""

    kinds: Mapping[str, ValueKind]
    quirks: frozenset[Quirk]
    programs: dict[str, Program] = field(default_factory=dict)


def _kinds(spec: Table) -> dict[str, ValueKind]:
    """The kinds of value that a profile defines, in addition to the built-in ones."""
    kinds = dict(BUILT_IN_KINDS)
    for name in spec.data:
        if name in kinds:
            raise ProfileError(f"{spec.place}.{name}: this kind is built in")
        kinds[name] = _kind(name, spec)
    return kinds


def _kind(name: str, spec: Table) -> ValueKind:
    if isinstance(spec.data[name], str):
        return ValueKind(name, ArgumentRole.TEXT, spec.pattern(name))
    table = spec.table(name)
    kind = ValueKind(name, table.choice("role", ArgumentRole, ArgumentRole.TEXT), table.pattern("pattern"))
    table.end()
    return kind


def _program(name: str, spec: Table, known: _Known) -> Program:
    if not PROGRAM_NAME.fullmatch(name):
        raise ProfileError(f"{spec.place}: not the plain name of a program")
    if "like" in spec.data:
        return _likeness(name, spec, known)
    program = _command(name, spec, known, spec.text("summary"))
    spec.end()
    return program


def _likeness(name: str, spec: Table, known: _Known) -> Program:
    like = known.programs.get(spec.text("like"))
    if like is None:
        raise ProfileError(f"{spec.place}.like: {spec.text('like')!r} is not defined before it")
    program = replace(like, name=name, summary=spec.text("summary", like.summary))
    spec.end()
    return program


def _command(name: str, spec: Table, known: _Known, summary: str) -> Program:
    """A program, or a subcommand: both have the same keys."""
    arguments = spec.text("arguments", "listed")
    if arguments not in {"listed", "any"}:
        raise ProfileError(f"{spec.place}.arguments: must be 'listed' or 'any'")
    program = Program(
        name=name,
        summary=summary,
        usage=spec.text("usage", ""),
        risk=spec.choice("risk", Risk, Risk.SAFE),
        network=spec.truth("network"),
        loopback=spec.truth("loopback"),
        any_arguments=arguments == "any",
        options=_options(spec, known.kinds),
        refused=spec.table("refused").texts(),
        operands=_operand_kind(spec, "operands", known.kinds),
        first=_operand_kind(spec, "first", known.kinds),
        unless=frozenset(spec.strings("unless")),
        quirks=known.quirks | spec.choices("quirks", Quirk),
        shapes=tuple(_shape(spec, shape, known.kinds) for shape in spec.strings("shapes")),
        requires=_requires(spec.table("requires")),
        moderate=frozenset(spec.strings("moderate")),
        online=frozenset(spec.strings("online")),
        watches=frozenset(spec.strings("watches")),
        ends=frozenset(spec.strings("ends")),
        takes_appended=spec.truth("takes_appended"),
        alone=spec.truth("alone"),
        from_input=spec.truth("from_input"),
        spares_root=spec.truth("spares_root"),
        spares_null=spec.truth("spares_null"),
        in_rooms=spec.truth("in_rooms"),
        empties=frozenset(spec.strings("empties")),
        narrows=frozenset(spec.strings("narrows")),
    )
    _check_named(spec, program)
    shared = program.options if spec.truth("shared") else {}
    return replace(program, subcommands=_subcommands(name, spec.table("subcommands"), known, shared))


def _subcommands(name: str, spec: Table, known: _Known, shared: Mapping[str, Option]) -> dict[str, Program]:
    found = {}
    for key, table in spec.tables():
        for word in key.split():
            if "like" in table.data:
                found[word] = _likeness(f"{name} {word}", table, known)
                continue
            command = _command(f"{name} {word}", table, known, "")
            found[word] = replace(command, options={**shared, **command.options})
        table.end()
    return found


def _options(spec: Table, kinds: Mapping[str, ValueKind]) -> dict[str, Option]:
    options = {name: Option() for name in spec.strings("flags")}
    options |= {name: Option(BUILT_IN_KINDS["text"], optional=True) for name in spec.strings("optional")}
    values = spec.table("values")
    for name, kind in values.texts().items():
        if kind.removesuffix("?") not in kinds:
            raise ProfileError(f"{values.place}: {kind!r} is not one of {', '.join(kinds)}")
        options[name] = Option(kinds[kind.removesuffix("?")], optional=kind.endswith("?"))
    return options


def _operand_kind(spec: Table, key: str, kinds: Mapping[str, ValueKind]) -> ValueKind | None:
    name = spec.text(key, "none")
    if name != "none" and name not in kinds:
        raise ProfileError(f"{spec.place}.{key}: must be one of none, {', '.join(kinds)}")
    return kinds.get(name)


def _shape(spec: Table, shape: str, kinds: Mapping[str, ValueKind]) -> re.Pattern[str]:
    """A blank in a shape separates arguments: they are joined by NUL, which none can contain. <NAME> is a kind of value."""

    def pattern(found: re.Match[str]) -> str:
        kind = kinds.get(found[1])
        if kind is None or kind.pattern is None:
            raise ProfileError(f"{spec.place}.shapes: <{found[1]}> is not a kind with a pattern")
        return f"(?:{kind.pattern.pattern})"

    try:
        return re.compile(SHAPE_KIND.sub(pattern, shape.replace(" ", "\0")))
    except re.error as error:
        raise ProfileError(f"{spec.place}.shapes: {error}") from error


def _requires(spec: Table) -> dict[str, frozenset[str]]:
    return {key: frozenset(spec.strings(key)) for key in spec.data}


def _check_named(spec: Table, program: Program) -> None:
    """Refuse rules about options that the program does not have: they are misspelt."""
    for key, names in (
        ("moderate", program.moderate),
        ("online", program.online),
        ("watches", program.watches),
        ("unless", program.unless),
        ("ends", program.ends),
        ("empties", program.empties),
        ("narrows", program.narrows),
        ("requires", set(program.requires) - {"", "operand"}),
    ):
        if unknown := set(names) - set(program.options):
            raise ProfileError(f"{spec.place}.{key}: {sorted(unknown)[0]!r} is not one of its options")
