"""The lexer: a command line split into words and operators.

What is accepted means the same as in a POSIX shell. What a shell would expand, and every operator that the caller does
not permit, is refused with advice to quote it. Globs are left as they are; the workspace expands them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from backend.core.decisions import Decision

BLANKS = " \t"
GLOB_STARTS = frozenset("*?[")
GLOB_CHARACTERS = GLOB_STARTS | frozenset("]!^-")

OPERATORS = {
    ";": "chains commands",
    "&": "chains commands or sends one to the background",
    "|": "pipes one command into another",
    "<": "redirects input",
    ">": "redirects output",
    "(": "opens a subshell",
    ")": "closes a subshell",
}

# Bidirectional controls, separators and invisible characters make a line look different from what it does.
HIDDEN = re.compile(
    "[\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SURROGATE = re.compile("[\ud800-\udfff]")
# Joiners are part of emoji and of several scripts, but between ASCII letters they only disguise text.
STRAY_JOINER = re.compile("(?:^|[\x00-\x7f])[\u200c\u200d]")
EXPANSION = re.compile(r"[A-Za-z0-9_{(\[@*#?$!-]")  # $[ is arithmetic in some shells
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
ASSIGNED_TILDE = re.compile(
    r"[A-Za-z_][A-Za-z0-9_]*(\[.*\])?\+?=(.*:)?$"
)  # what a word has before a ~ that is expanded
MERGE = re.compile(r"2>&1(?![^ \t\n;&|<>()])")
UNLIKE_BRACKET = re.compile(r"\[(\^|!?[^]\s]*\[[:.=])")
# In order: where two match, the longer one is meant.
KNOWN_OPERATORS = ("&&", "||", ">>", ";", "|", ">", "<")
MERGE_OPERATOR = "2>&1"


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quote removal. `active` are the positions of glob characters in `text` that were not quoted."""

    text: str
    active: frozenset[int] = frozenset()

    @property
    def is_glob(self) -> bool:
        return any(self.text[position] in GLOB_STARTS for position in self.active)


@dataclass(frozen=True, slots=True)
class Assignment:
    """`NAME=value` in front of a program."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator as written, including `2>&1`. `descriptor` is the number before a redirection; `position` counts from 1."""

    text: str
    position: int
    descriptor: int | None = None


Token = Word | Assignment | Operator


class _Refused(Exception):
    def __init__(self, decision: Decision) -> None:
        self.decision = decision


def tokens(line: str, operators: frozenset[str], *, assignments: bool) -> list[Token] | Decision:
    """Split `line`, or return what in it is refused and where (characters, from 1)."""
    if hidden := hidden_character(line):
        return hidden
    try:
        return list(_Lexer(line, operators, assignments=assignments).tokens())
    except _Refused as refused:
        return refused.decision


def hidden_character(line: str) -> Decision | None:
    """Refuse characters that a person cannot see in a line; TAB and LF are judged by the lexer."""
    for pattern, name in (
        (SURROGATE, "a lone surrogate"),
        (CONTROL, "a control character"),
        (HIDDEN, "an invisible or direction-changing character"),
        (STRAY_JOINER, "an invisible joiner"),
    ):
        if found := pattern.search(line):
            code = ord(found.group()[-1])
            return Decision.deny(
                "syntax.character",
                f"The line contains {name}, U+{code:04X}, at position {found.end()}.",
                "Remove it and type the line again.",
            )
    return None


class _Lexer:
    """One pass over the line, a token at a time."""

    def __init__(self, line: str, operators: frozenset[str], *, assignments: bool) -> None:
        self.line = line
        self.operators = operators
        self.assignments = assignments
        self.at = 0
        self.text: list[str] = []
        self.active: set[int] = set()
        self.assigning = False
        self._start = 0  # of this word
        self._braced = ""  # what of a brace expansion this word has: {} or {},
        self._is_target = False

    def tokens(self) -> Iterator[Token]:
        """Assignments come only before the program: the first word of a command ends them."""
        before_program = True
        while self._skip_blanks():
            token = (
                self._operator()
                if self._at_operator()
                else self._word(assignable=before_program and not self._is_target)
            )
            if isinstance(token, Operator):
                before_program = before_program or token.text in {"&&", "||", ";", "|"}
            elif isinstance(token, Word) and not self._is_target:
                before_program = False
            self._is_target = isinstance(token, Operator) and token.text in {">", ">>", "<"}
            yield token

    def _skip_blanks(self) -> bool:
        while self.at < len(self.line) and self.line[self.at] in BLANKS:
            self.at += 1
        return self.at < len(self.line)

    def _at_operator(self) -> bool:
        """Whether an operator begins here, possibly with the number of a descriptor."""
        digits = len(self.line) - self.at - len(self.line[self.at :].lstrip("0123456789"))
        following = self.line[self.at + digits : self.at + digits + 1]
        return following in {"<", ">"} if digits else following in OPERATORS

    def _operator(self) -> Operator:
        start = self.at
        if MERGE_OPERATOR in self.operators and MERGE.match(self.line, start):
            self.at += len(MERGE_OPERATOR)
            return Operator(MERGE_OPERATOR, start + 1)
        while self.line[self.at].isdigit():
            self.at += 1
        number = self.line[start : self.at]
        text = next((known for known in KNOWN_OPERATORS if self.line.startswith(known, self.at)), "")
        if text not in self.operators:
            self._refuse("syntax.operator", f"{self.line[self.at]} {OPERATORS[self.line[self.at]]}")
        after = self.line[self.at + len(text) : self.at + len(text) + 1]
        if (text[0] in "<>" and after and after in "<>&|(") or number not in {"", "1", "2"} or (number and text == "<"):
            hint = "Use < file, > file, >> file, 2> file or 2>&1."
            self._refuse("syntax.redirect", "This kind of redirection is not supported", hint)
        self.at += len(text)
        return Operator(text, start + 1, int(number) if number else None)

    def _word(self, *, assignable: bool) -> Word | Assignment:
        self.text, self.active, self._braced, self._start = [], set(), "", self.at
        name = ASSIGNMENT.match(self.line, self.at) if assignable and self.assignments else None
        self.assigning = name is not None
        if name:
            self.at = name.end()
        else:
            self._check_start()
        while self.at < len(self.line) and self.line[self.at] not in BLANKS and self.line[self.at] not in OPERATORS:
            self._piece(self.line[self.at])
        if name:
            return Assignment(name[1], "".join(self.text))
        return Word("".join(self.text), frozenset(self.active))

    def _check_start(self) -> None:
        match self.line[self.at]:
            case "~":
                self._refuse("syntax.tilde", "~ is expanded to a home folder")
            case "#":
                self._refuse("syntax.comment", "# starts a comment")
            case _:
                pass

    def _piece(self, char: str) -> None:
        match char:
            case "'":
                self._single_quoted()
            case '"':
                self._double_quoted()
            case "\\":
                self._escaped()
            case "$" if self._expands() or self._starts_quote():
                self._refuse("syntax.expansion", "$ starts a variable or a substitution")
            case "`":
                self._refuse("syntax.substitution", "` starts a command substitution")
            case "{":
                self._brace()
            case "\n":
                self._refuse("syntax.newline", "A line break ends a command", "Send one command per line.")
            case "~" if self.assigning or ASSIGNED_TILDE.match(self.line[self._start : self.at]):
                self._refuse("syntax.tilde", "~ is expanded to a home folder")
            case _:
                self._bare(char)

    def _bare(self, char: str) -> None:
        if char == "[" and UNLIKE_BRACKET.match(self.line, self.at):
            self._refuse("syntax.bracket", "Character classes in globs and [^...] differ between shells")
        if char == "," and self._braced:
            self._braced = "{},"
        elif char == "}" and self._braced == "{},":
            self._refuse("syntax.brace", "Some shells expand {} before a comma and another }")
        if char in GLOB_CHARACTERS:
            self.active.add(len(self.text))
        self.text.append(char)
        self.at += 1

    def _brace(self) -> None:
        """`{}` is literal in every shell (find uses it); other braces differ between shells."""
        if self.line[self.at : self.at + 2] != "{}":
            self._refuse("syntax.brace", "{ starts a brace expansion")
        self._braced = self._braced or "{}"
        self.text.extend("{}")
        self.at += 2

    def _escaped(self) -> None:
        if self.at + 1 >= len(self.line):
            self._refuse("syntax.escape", "The line ends in a backslash", "Quote the backslash: '\\'.")
        if self.line[self.at + 1] == "\n":
            self._refuse("syntax.newline", "A line break ends a command", "Send one command per line.")
        self.text.append(self.line[self.at + 1])
        self.at += 2

    def _single_quoted(self) -> None:
        end = self.line.find("'", self.at + 1)
        if end < 0:
            self._refuse("syntax.quote", "A ' is never closed", "Close it with another '.")
        self.text.extend(self.line[self.at + 1 : end])
        self.at = end + 1

    def _double_quoted(self) -> None:
        start = self.at
        self.at += 1
        while self.at < len(self.line):
            match self.line[self.at]:
                case '"':
                    self.at += 1
                    return
                case "\\":
                    self._escaped_in_double_quotes()
                case "$" if self._expands():
                    self._refuse("syntax.expansion", '$ starts a variable or a substitution, also inside " "')
                case "`":
                    self._refuse("syntax.substitution", '` starts a command substitution, also inside " "')
                case char:
                    self.text.append(char)
                    self.at += 1
        self.at = start
        self._refuse("syntax.quote", 'A " is never closed', 'Close it with another ".')

    def _escaped_in_double_quotes(self) -> None:
        following = self.line[self.at + 1 : self.at + 2]
        if following == "\n":
            self._refuse("syntax.newline", "A line break after a backslash joins lines", "Write it on one line.")
        self.text.extend(following if following and following in '$`"\\' else "\\" + following)
        self.at += 1 + len(following)

    def _expands(self) -> bool:
        """A `$` is literal unless a name, a parameter or an opening follows (POSIX 2.6)."""
        return bool(EXPANSION.match(self.line[self.at + 1 : self.at + 2]))

    def _starts_quote(self) -> bool:
        """`$'` and `$"` mean different things in different shells."""
        return self.line[self.at + 1 : self.at + 2] in {"'", '"'}

    def _refuse(self, rule: str, what: str, hint: str = "") -> NoReturn:
        raise _Refused(
            Decision.deny(
                rule,
                f"{what} (position {self.at + 1}); no shell runs here.",
                hint or "To use the character itself, quote it with ' on both sides.",
            )
        )
