"""The arguments of a management command, read from what `--help` prints. What cannot be read is left out."""

import re
from collections.abc import Iterator

from backend.core.dataclasses import dataclass

HEADING = re.compile(r"(positional arguments|options|optional arguments|[A-Za-z][^:\n]{0,60}):")
ENTRY = re.compile(r" {2}(\S.*?)(?: {2,}(\S.*))?")
BRACKETS = re.compile(r"\[[^\[\]]*\]|\([^()]*\)")
USUAL = frozenset(  # of every command
    [
        "-h",
        "--help",
        "--version",
        "-v",
        "--verbosity",
        "--settings",
        "--pythonpath",
        "--traceback",
        "--no-color",
        "--force-color",
        "--skip-checks",
    ]
)
DEEPEST = 8  # brackets in brackets that are read
LONGEST = 64 * 1024  # characters that are read
LONGEST_SUMMARY = 300  # characters


@dataclass(frozen=True, slots=True)
class HelpField:
    """An argument. `flag` is its option, empty for one that is known by its position; with `many` it takes several words."""

    name: str
    flag: str
    takes_value: bool
    required: bool
    choices: tuple[str, ...]
    help: str
    many: bool = False


def summary_of(text: str) -> str:
    """What the command is for: the first paragraph that is neither the usage nor a list of arguments."""
    for paragraph in re.split(r"\n\s*\n", text[:LONGEST].strip()):
        first = paragraph.partition("\n")[0]
        if not paragraph.lower().startswith("usage:") and not HEADING.fullmatch(first):
            return " ".join(paragraph.split())[:LONGEST_SUMMARY]
    return ""


def fields_of(text: str) -> tuple[HelpField, ...]:
    """The arguments that the command has in addition to those of every command, as far as its help can be read."""
    usage, entries = " ".join(_usage(text[:LONGEST])), _entries(text[:LONGEST])
    needed = _needed(usage)
    found = (_field(section, head, help, usage, needed) for section, head, help in entries)
    return tuple(field for field in found if field and field.flag not in USUAL)


def _usage(text: str) -> Iterator[str]:
    """The lines of the usage, which end at an empty one."""
    for line in text.splitlines():
        if not line.strip():
            return
        yield line.strip()


def _needed(usage: str) -> frozenset[str]:
    """The words that no line is without: neither optional, `[-a]`, nor one of several, `(-a | -b)`."""
    for _ in range(DEEPEST):
        usage = BRACKETS.sub(" ", usage)
    return frozenset(usage.split())


def _entries(text: str) -> Iterator[tuple[str, str, str]]:
    """The section, the head and the help of each argument. Help may follow on lines that are indented further."""
    section, head, help = "", "", list[str]()
    for line in text.splitlines():
        if found := HEADING.fullmatch(line):
            if head:
                yield section, head, " ".join(help)
            section, head, help = found[1], "", []
        elif section and (entry := ENTRY.fullmatch(line)) and not line.startswith("   "):
            if head:
                yield section, head, " ".join(help)
            head, help = entry[1], [entry[2]] if entry[2] else []
        elif head and line.startswith("   "):
            help.append(line.strip())
    if head:
        yield section, head, " ".join(help)


def _field(section: str, head: str, help: str, usage: str, needed: frozenset[str]) -> HelpField | None:
    """The field of an entry: `-n N, --name N`, `-n, --name N`, `--flag, --no-flag`, `{a,b}`, `app_label`."""
    choices = tuple(found[1].split(",")) if (found := re.search(r"\{([^{}\s]+)\}", head)) else ()
    if not head.startswith("-"):
        if section != "positional arguments":
            return None
        name = head.split()[0].strip("{}")
        many = f"{head.split()[0]} ..." in usage
        required = head.split()[0] in needed
        return HelpField("argument" if choices else name, "", True, required, choices, help, many)
    options = re.findall(r"(?:^|, )(-{1,2}[A-Za-z0-9][\w-]*)", head)
    if not options:
        return None
    flag = next((each for each in options if each.startswith("--")), options[0])
    required = not needed.isdisjoint(options)
    takes_value = re.search(rf"{re.escape(options[-1])}[ =\[]", f"{head} ".rstrip() + "") is not None
    return HelpField(flag.lstrip("-"), flag, takes_value, required, choices, help, "..." in head)
