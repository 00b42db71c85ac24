"""The command line, parsed once.

The words found here are the words that policy judges and that the program gets; no shell ever sees the line. What is
accepted means the same as in a POSIX shell. What a shell would expand, chain or redirect is refused with advice to
quote it, except globs, which the workspace expands.
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

# Bidirectional controls, separators and invisible characters make a line read differently from what it does.
HIDDEN = re.compile(
    "[\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e0fff]"
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
SURROGATE = re.compile("[\ud800-\udfff]")
# Joiners are part of emoji and of several scripts, but between ASCII letters they only hide.
STRAY_JOINER = re.compile("(?:^|[\x00-\x7f])[\u200c\u200d]")
EXPANSION = re.compile(r"[A-Za-z0-9_{(@*#?$!-]")


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quoting. `active` holds the positions of glob characters in `text` that were not quoted."""

    text: str
    active: frozenset[int] = frozenset()

    @property
    def is_glob(self) -> bool:
        return any(self.text[position] in GLOB_STARTS for position in self.active)


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed line: the words of one command; empty for a blank line."""

    words: tuple[Word, ...]

    @property
    def argv(self) -> tuple[str, ...]:
        """The words as they were written, globs not expanded."""
        return tuple(word.text for word in self.words)


class _Refused(Exception):
    def __init__(self, decision: Decision) -> None:
        self.decision = decision


def parse(line: str) -> Script | Decision:
    """Split `line` into words by POSIX quoting, or say what in it is refused and where (characters, from 1)."""
    if hidden := hidden_character(line):
        return hidden
    try:
        return Script(tuple(_Lexer(line).words()))
    except _Refused as refused:
        return refused.decision


def hidden_character(line: str) -> Decision | None:
    """Refuse what a person cannot see in a line; TAB and LF are judged by the lexer."""
    for pattern, name in (
        (SURROGATE, "half a character (a lone surrogate)"),
        (CONTROL, "a control character"),
        (HIDDEN, "an invisible or direction-changing character"),
        (STRAY_JOINER, "an invisible joiner"),
    ):
        if found := pattern.search(line):
            code = ord(found.group()[-1])
            return Decision.deny(
                "syntax.character",
                f"The line holds {name}, U+{code:04X}, at position {found.end()}.",
                "Remove it and type the line again.",
            )
    return None


class _Lexer:
    """One pass over the line, a word at a time."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.at = 0
        self.text: list[str] = []
        self.active: set[int] = set()

    def words(self) -> Iterator[Word]:
        while self._skip_blanks():
            yield self._word()

    def _skip_blanks(self) -> bool:
        while self.at < len(self.line) and self.line[self.at] in BLANKS:
            self.at += 1
        return self.at < len(self.line)

    def _word(self) -> Word:
        self.text, self.active = [], set()
        self._check_start()
        while self.at < len(self.line) and self.line[self.at] not in BLANKS:
            self._piece(self.line[self.at])
        return Word("".join(self.text), frozenset(self.active))

    def _check_start(self) -> None:
        match self.line[self.at]:
            case "~":
                self._refuse("syntax.tilde", "~ names a home folder")
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
                self._refuse("syntax.newline", "A line break ends a command", "Send one command a line.")
            case _ if char in OPERATORS:
                self._refuse("syntax.operator", f"{char} {OPERATORS[char]}")
            case _:
                self._bare(char)

    def _bare(self, char: str) -> None:
        if char in GLOB_CHARACTERS:
            self.active.add(len(self.text))
        self.text.append(char)
        self.at += 1

    def _brace(self) -> None:
        """`{}` is itself in every shell (find uses it); other braces are not the same in all of them."""
        if self.line[self.at : self.at + 2] != "{}":
            self._refuse("syntax.brace", "{ starts a brace expansion")
        self.text.extend("{}")
        self.at += 2

    def _escaped(self) -> None:
        if self.at + 1 >= len(self.line):
            self._refuse("syntax.escape", "The line ends in a backslash", "Quote the backslash: '\\'.")
        if self.line[self.at + 1] == "\n":
            self._refuse("syntax.newline", "A line break ends a command", "Send one command a line.")
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
            self._refuse("syntax.newline", "A line break after a backslash joins lines", "Put it all on one line.")
        self.text.extend(following if following and following in '$`"\\' else "\\" + following)
        self.at += 1 + len(following)

    def _expands(self) -> bool:
        """A `$` stands for itself unless a name, a parameter or an opening follows (POSIX 2.6)."""
        return bool(EXPANSION.match(self.line[self.at + 1 : self.at + 2]))

    def _starts_quote(self) -> bool:
        """`$'` and `$"` mean different things in different shells."""
        return self.line[self.at + 1 : self.at + 2] in {"'", '"'}

    def _refuse(self, rule: str, what: str, hint: str = "") -> NoReturn:
        raise _Refused(
            Decision.deny(
                rule,
                f"{what} (position {self.at + 1}); no shell runs here.",
                hint or "To use the character itself, quote it: put it between ' and '.",
            )
        )
