"""The lexer: a command line split into words and operators.

What is accepted means the same as in a POSIX shell; `&>` and `{a,b}` mean what they mean in bash. Every operator that
the caller does not permit is refused with advice to quote it. Variables and globs are left as they are: what they become
depends on what runs before. The inside of `$( )` is read by the caller, who knows what its words and operators make.
"""

import re
from collections.abc import Callable
from dataclasses import field
from typing import NoReturn

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.language.arithmetic import Statement, UnlikeArithmetic, parse_arithmetic, parse_statement
from backend.core.language.braces import TooMany, UnlikeBrace, expand_braces
from backend.core.language.tree import Assignment, Parameter, Step, Word, has_background
from backend.core.language.trimming import PATTERN
from backend.core.language.words import (
    BRACKET_LIMIT,
    GLOB_CHARACTERS,
    UNLIKE_BRACKET,
    unlike_arithmetic,
    unlike_statement,
)

__all__ = ["Assignment", "LineRefused", "Operator", "Token", "Word", "hidden_character", "tokens"]

BLANKS = " \t"
OPERATORS = {
    ";": "chains commands",
    "&": "chains commands or sends one to the background",
    "|": "pipes one command into another",
    "<": "redirects input",
    ">": "redirects output",
    "(": "opens a subshell",
    ")": "closes a subshell",
    "\n": "ends a command",
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
INDEX = r"\$?[A-Za-z_][A-Za-z0-9_]*|[0-9]{1,4}"  # of an element of an array
PARAMETER = re.compile(
    r"\$(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*+|[?!#@1-9])"
    r"|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*|[?@1-9])"
    rf"(?:(?P<index>\[(?:@|{INDEX})\])|(?P<operator>:[-+])(?P<operand>[A-Za-z0-9_./:@%+=,-]*)"
    rf"|(?P<trim>%%?|##?)(?P<pattern>{PATTERN.pattern})"
    r"|(?P<change>\^\^?|,,?)"
    r"|(?P<slice>:)(?P<range>(?: -)?[0-9]{1,6}(?::-?[0-9]{1,6})?)"
    r"|(?P<replace>//?)(?P<texts>[A-Za-z0-9_.:@+=,-]+/[A-Za-z0-9_./:@%+=,-]*))?\}"
    r"|\{#(?P<length>[A-Za-z_][A-Za-z0-9_]*)(?P<counted>\[@\])?\})(?!\\\n)"
)
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=")
ASSIGNED_TILDE = re.compile(
    r"[A-Za-z_][A-Za-z0-9_]*(\[.*\])?\+?=(.*:)?$"
)  # what a word has before a ~ that is expanded
MERGE = re.compile(r"(2>&1|1?>&2)(?![^ \t\n;&|<>()])")
ARITHMETIC_FOLLOWS = re.compile(r"[ \t]*\(\(")
JOINED_LINE = re.compile(r"(?:\\\n)+")
DELIMITER = re.compile(r"[A-Za-z0-9_.!%+@=:/-]+")
# In order: where two match, the longer one is meant.
KNOWN_OPERATORS = ("&&", "||", "&>", ">>", "<<<", "<<", ";;", ";", "&", "|", ">", "<", "(", ")", "\n")
BEFORE_COMMANDS = frozenset({"&&", "||", ";", ";;", "&", "|", "\n", "(", ")"})
MERGE_OPERATOR = "2>&1"
MERGES = frozenset({MERGE_OPERATOR, ">&2"})
REDIRECTS = frozenset({">", ">>", "<", "&>", "<<", "<<<"})
# What one permission stands for: a line break is a `;`, what closes is permitted with what opens.
PERMITTED_WITH = {"\n": ";", ")": "(", ">&2": MERGE_OPERATOR, ";;": ";", "<<<": "<<"}
VARIABLES, BRACES, GROUP, SUBSTITUTION, LOOP = "$", "{,}", "(", "$(", "for"
SIGNS = frozenset({"!", "{", "}"})
# Words that are operators where a command begins; `in` comes after the name of `for`.
FUNCTION = "function"
KEYWORDS = frozenset(
    {"if", "then", "elif", "else", "fi", "while", "until", "for", "do", "done", "case", "esac", FUNCTION}
)
KEYWORD = re.compile(f"(?:{'|'.join(KEYWORDS)})(?![^ \t\n;&|<>()])")
SUBSTITUTION_NAME, ARITHMETIC_NAME, PROCESS_NAME = "$()", "$(())", "<()"
HOME = "HOME"
ASSIGNED_HOME_PREFIX = re.compile("~(?=[/: \t\n;&|<>()]|$)")
HOME_PREFIX = re.compile("~(?=[/ \t\n;&|<>()]|$)")
SUBSTITUTION_DEPTH = 8
BACKTICK_HINT = (
    "Write $(command) where the profile permits it; to use the character itself, quote it with ' on both sides."
)


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator as written, including `2>&1` and the words that are operators where a command begins.

    `descriptor` is the number before a redirection, `body` the text of a here-document; `position` counts from 1, and
    `end` is the number of characters up to where what follows it begins.
    """

    text: str
    position: int
    end: int
    descriptor: int | None = None
    body: Word | None = None


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`(( ))`, or the three statements of `for (( ; ; ))`, each of which may be left out there."""

    statements: tuple[Statement | None, ...]


Token = Word | Assignment | Operator | Arithmetic


class LineRefused(Exception):
    def __init__(self, decision: Decision) -> None:
        self.decision = decision


Read = Callable[[list[Token]], tuple[Step, ...]]


def tokens(line: str, operators: frozenset[str], *, assignments: bool, read: Read, depth: int = 0) -> list[Token]:
    """Split `line`. Raises LineRefused with what in it is refused and where (characters, from 1).

    `read` makes steps of the tokens of a substitution; `depth` is the number of those around the line.
    """
    if hidden := hidden_character(line):
        raise LineRefused(hidden)
    return _Lexer(line, operators, read, assignments=assignments, depth=depth).tokens()


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


@dataclass(frozen=True, slots=True)
class _HereDocument:
    """A here-document whose text begins after the next line break; `number` is the place of its token."""

    number: int
    delimiter: str
    literal: bool
    indented: bool


@dataclass(slots=True)
class _Groups:
    """What is open in a substitution, so that its end is found: after the pattern of a `case` there is a `)` too."""

    opened: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Take an operator into account."""
        if text in {"(", "case"}:
            self.opened.append(text)
        elif self.opened and (text, self.opened[-1]) in {(")", "("), ("esac", "case")}:
            self.opened.pop()


class _Lexer:
    """One pass over the line, a token at a time."""

    def __init__(
        self, line: str, operators: frozenset[str], read: Read, *, assignments: bool, at: int = 0, depth: int = 0
    ) -> None:
        self.line, self.read, self.at, self.depth = line, read, at, depth
        self.operators = operators | {each for each, other in PERMITTED_WITH.items() if other in operators}
        self.assignments = assignments
        self.found: list[Token] = []
        self.documents: list[_HereDocument] = []
        self._begin_text()

    def _begin_text(self) -> None:
        """Nothing of a word, or of a here-document, is read yet."""
        self.text: list[str] = []
        self.length = 0
        self.active: set[int] = set()
        self.parameters: list[Parameter] = []
        self.signs: dict[int, str] = {}  # unquoted braces and commas
        self.assigning = False
        self._start = self.at  # of this word
        self._brackets = 0
        self._has_dollar = False  # one that stands for itself
        self._braced = ""  # what of a brace expansion this word has: {} or {},

    def tokens(self, *, inside: bool = False) -> list[Token]:
        """The tokens up to the end, or `inside` a substitution up to its `)`, which is consumed.

        Assignments come only before the program: the first word of a command ends them.
        """
        before_program, is_target, groups = True, False, _Groups()
        while self._skip_blanks():
            if inside and not groups.opened and self.line[self.at] == ")":
                self.at += 1
                break
            if self.line.startswith("((", self.at) and before_program and not is_target and LOOP in self.operators:
                self.found.append(self._statements())
                before_program = self._follows("for", before=2)
                continue
            if self._at_operator():
                operator = self._operator()
                groups.add(operator.text)
                self._add_operator(operator)
                before_program = before_program or operator.text in BEFORE_COMMANDS
                is_target = operator.text in REDIRECTS - {"<<"}
                continue
            if before_program and not is_target and (keyword := self._keyword()):
                self.found.append(keyword)
                groups.add(keyword.text)
                is_arithmetic = keyword.text == "for" and bool(ARITHMETIC_FOLLOWS.match(self.line, self.at))
                before_program = keyword.text not in {"for", "case", FUNCTION} or is_arithmetic
                continue
            found = self._words(assignable=before_program and not is_target, is_target=is_target)
            names_function = self._follows(FUNCTION)
            self.found += found
            before_program = before_program and (is_target or isinstance(found[0], Assignment) if found else True)
            before_program = before_program or names_function
            is_target = False
        else:
            if inside:
                self._refuse("syntax.substitution", "A $( is never closed", "Close it with ).")
        self._check_documents()
        return self.found

    def _add_operator(self, operator: Operator) -> None:
        self.found.append(operator)
        if operator.text == "<<":
            self._begin_document()
        elif operator.text == "\n":
            self._read_documents()
            self.found[-1] = replace(operator, end=self.at)

    def _follows(self, keyword: str, before: int = 1) -> bool:
        """Whether the last token, or the one before, is this keyword."""
        last = self.found[-before] if len(self.found) >= before else None
        return isinstance(last, Operator) and last.text == keyword

    def _statements(self) -> Arithmetic:
        """`((i++))`, `((i=0; i<3; i++))`."""
        is_for = self._follows("for")
        self.at += 2
        found: list[Statement | None] = []
        try:
            while True:
                self._skip_spaces()
                is_left_out = is_for and (self.line.startswith(("))", ";"), self.at))
                statement, self.at = (None, self.at) if is_left_out else parse_statement(self.line, self.at)
                found.append(statement)
                self._skip_spaces()
                if self.line.startswith("))", self.at) and len(found) == (3 if is_for else 1):
                    self.at += 2
                    return Arithmetic(tuple(found))
                if not self.line.startswith(";", self.at) or not is_for or len(found) == 3:
                    raise UnlikeArithmetic("it is not closed by ))")
                self.at += 1
        except UnlikeArithmetic as error:
            raise LineRefused(unlike_statement(error)) from None

    def _skip_spaces(self) -> None:
        while self.line[self.at : self.at + 1] in {" ", "\t", "\n"}:
            self.at += 1

    def _at_process(self) -> bool:
        return self.line.startswith("<(", self.at) and SUBSTITUTION in self.operators

    def _process(self) -> Word:
        """`<( )`: the name of a file with the output of what is in it."""
        before = self.line[self.at - 1 : self.at]
        self._begin_text()
        self._substitution(quoted=True, name=PROCESS_NAME)
        after = self.line[self.at : self.at + 1]
        if not {before, after} <= {"", *BLANKS, *OPERATORS} - {"<", ">"}:
            self._refuse("syntax.redirect", "A <( ) is a word of its own", "diff <(sort a) <(sort b)")
        return self._word()

    def _skip_blanks(self) -> bool:
        """Skip what separates words, with comments and with line breaks that a backslash makes none."""
        while self.at < len(self.line):
            if self.line[self.at] in BLANKS:
                self.at += 1
            elif self.line[self.at] == "#":
                end = self.line.find("\n", self.at)
                self.at = len(self.line) if end < 0 else end
            elif (joined := JOINED_LINE.match(self.line, self.at)) and ";" in self.operators:
                self.at = joined.end()
            else:
                return True
        return False

    def _at_operator(self) -> bool:
        """Whether an operator begins here, possibly with the number of a descriptor."""
        if self._at_process():
            return False
        end = self.at
        while self.line[end : end + 1].isascii() and self.line[end : end + 1].isdigit():
            end += 1
        following = self.line[end : end + 1]
        return following in {"<", ">"} if end > self.at else following in OPERATORS

    def _operator(self) -> Operator:
        start = self.at
        if merged := MERGE.match(self.line, start):
            text = ">&2" if merged[1].endswith("2") else MERGE_OPERATOR
            if text in self.operators:
                self.at = merged.end()
                return Operator(text, start + 1, self.at)
        while self.line[self.at].isdigit():
            self.at += 1
        number = self.line[start : self.at]
        text = next((known for known in KNOWN_OPERATORS if self.line.startswith(known, self.at)), "")
        if text not in self.operators:
            self._refuse_operator()
        if text == "(" and self.line.startswith("((", self.at):
            self._refuse("syntax.group", "(( is arithmetic in some shells", "Write a blank between the brackets.")
        self._check_redirect(text, number, self.line[self.at + len(text) : self.at + len(text) + 1])
        self.at += len(text)
        return Operator(text, start + 1, self.at, int(number) if number else None)

    def _refuse_operator(self) -> NoReturn:
        char = self.line[self.at]
        if char == "\n":
            self._refuse("syntax.newline", "A line break ends a command", "Send one command per line.")
        self._refuse("syntax.operator", f"{char} {OPERATORS[char]}")

    def _check_redirect(self, text: str, number: str, after: str) -> None:
        numbers = {">": {"", "1", "2"}, ">>": {"", "1", "2"}}.get(text, {""})
        if (text in REDIRECTS and after and after in "<>&|(") or number not in numbers:
            hint = "Use < file, > file, >> file, 2> file, &> file, 2>&1, <<END or <<< text."
            self._refuse("syntax.redirect", "This kind of redirection is not supported", hint)

    def _keyword(self) -> Operator | None:
        """A word that is an operator where a command begins."""
        start = self.at
        if LOOP in self.operators and (keyword := KEYWORD.match(self.line, start)):
            self.at = keyword.end()
            return Operator(keyword[0], start + 1, self.at)
        word, after = self.line[start], self.line[start + 1 : start + 2]
        ends = BLANKS if word == "!" else f"{BLANKS}{''.join(OPERATORS)}"
        if GROUP not in self.operators or word not in SIGNS or after not in ends:
            return None
        self.at += 1
        return Operator(word, start + 1, self.at)

    def _words(self, *, assignable: bool, is_target: bool) -> list[Word | Assignment]:
        """A word, or the words that it becomes by its braces."""
        if self._at_process():
            return [self._process()]
        self._begin_text()
        name = ASSIGNMENT.match(self.line, self.at) if assignable and self.assignments else None
        self.assigning = name is not None
        if name and self.line.startswith("(", name.end()) and LOOP in self.operators:
            return [self._array(name)]
        if name:
            self.at = name.end()
        elif self.line[self.at] == "~":
            self._home(HOME_PREFIX)
        while self.at < len(self.line) and self.line[self.at] not in BLANKS and self.line[self.at] not in OPERATORS:
            self._piece(self.line[self.at])
        word = self._word()
        unquoted = [each for each in word.parameters if not each.quoted]
        if unquoted and self._has_dollar:
            self._refuse("syntax.expansion", "Next to a variable, a $ alone differs between shells")
        if name:
            return [Assignment(name[1], word)]
        if "{" not in self.signs.values():
            return [word]
        # Braces are expanded before variables are found: $A{b,c} is $Ab $Ac.
        if is_target or self._braced or any(word.text[each.start + 1] not in "{(" for each in unquoted):
            self._refuse_brace(self._start)
        return [*self._braces(word)]

    def _array(self, name: re.Match[str]) -> Assignment:
        """`NAME=(a b)`: the words up to the `)`."""
        self.at = name.end() + 1
        items: list[Word] = []
        while self._skip_blanks():
            if self.line[self.at] == "\n":
                self.at += 1
            elif self.line[self.at] == ")":
                self.at += 1
                return Assignment(name[1], Word(""), tuple(items))
            elif self._at_operator():
                break
            else:
                items += [each for each in self._words(assignable=False, is_target=False) if isinstance(each, Word)]
        return self._refuse("syntax.array", "An array is a list of words", "NAME=(a b 'c d'); echo \"${NAME[@]}\"")

    def _word(self) -> Word:
        return Word("".join(self.text), frozenset(self.active), tuple(self.parameters))

    def _braces(self, word: Word) -> list[Word]:
        try:
            return expand_braces(word, self.signs)
        except UnlikeBrace:
            self._refuse_brace(self._start)
        except TooMany:
            raise LineRefused(_too_many()) from None

    def _refuse_brace(self, at: int) -> NoReturn:
        self.at = at
        self._refuse("syntax.brace", "Braces other than {a,b}, {1..3} and {}, also with ${NAME}, differ between shells")

    def _piece(self, char: str) -> None:
        match char:
            case "'":
                self._single_quoted()
            case '"':
                self._double_quoted()
            case "\\":
                self._escaped()
            case "$" if self._expands() or self._starts_quote():
                self._parameter(quoted=False)
            case "`":
                self._refuse("syntax.substitution", "` starts a command substitution", BACKTICK_HINT)
            case "{":
                self._brace()
            case "~" if self.assigning and self.line[self.at - 1] in "=:":
                self._home(ASSIGNED_HOME_PREFIX)
            case "~" if (
                self.assigning or self._follows_brace() or ASSIGNED_TILDE.match(self.line[self._start : self.at])
            ):
                self._refuse("syntax.tilde", "~ is expanded to a home folder")
            case _:
                self._bare(char)

    def _home(self, prefix: re.Pattern[str]) -> None:
        """`~`, which is the home of the command; that of another user is refused."""
        if VARIABLES not in self.operators or not prefix.match(self.line, self.at):
            self._refuse("syntax.tilde", "~ is expanded to a home folder")
        self.parameters.append(Parameter(self.length, self.length + 1, HOME))
        self._add("~")
        self.at += 1

    def _follows_brace(self) -> bool:
        """Whether a ~ here begins one of the words that braces become."""
        return self.signs.get(self.length - 1, "}") != "}"

    def _add(self, text: str) -> None:
        self.text.append(text)
        self.length += len(text)

    def _bare(self, char: str) -> None:
        self._brackets += char == "["
        if self._brackets > BRACKET_LIMIT or (char == "[" and UNLIKE_BRACKET.match(self.line, self.at)):
            self._refuse(
                "syntax.bracket", "Hundreds of brackets, character classes in globs and [^...] differ between shells"
            )
        if char == "," and self._braced:
            self._braced = "{},"
        elif char == "}" and self._braced == "{},":
            self._refuse("syntax.brace", "Some shells expand {} before a comma and another }")
        self._has_dollar = self._has_dollar or char == "$"
        if char in ",}":
            self.signs[self.length] = char
        if char in GLOB_CHARACTERS:
            self.active.add(self.length)
        self._add(char)
        self.at += 1

    def _brace(self) -> None:
        """`{}` is literal in every shell (find uses it)."""
        if self.line[self.at : self.at + 2] == "{}":
            self._braced = self._braced or "{}"
            self._add("{}")
            self.at += 2
            return
        if BRACES not in self.operators or self.assigning:
            self._refuse("syntax.brace", "{ starts a brace expansion")
        self.signs[self.length] = "{"
        self._add("{")
        self.at += 1

    def _parameter(self, *, quoted: bool) -> None:
        """`$NAME`, `${NAME}`, `${NAME:-default}`, `$?`, `$( )`."""
        if VARIABLES in self.operators and self.line.startswith("$((", self.at):
            self._arithmetic(quoted=quoted)
            return
        if SUBSTITUTION in self.operators and self.line.startswith("$(", self.at):
            self._substitution(quoted=quoted)
            return
        found = PARAMETER.match(self.line, self.at) if VARIABLES in self.operators else None
        if found is None or (found["name"] == "!" and "&" not in self.operators):
            self._refuse("syntax.expansion", '$ starts a variable or a substitution, also inside " "')
        end = self.length + len(found[0])
        name = found["name"] or found["braced"] or found["length"]
        operators = ("index", "operator", "trim", "change", "slice", "replace")
        length = ("count" if found["counted"] else "length") if found["length"] else ""
        operator = length or next(filter(None, map(found.group, operators)), "")
        operands = ("operand", "pattern", "range", "texts")
        operand = next(filter(None, map(found.group, operands)), "")
        self.parameters.append(Parameter(self.length, end, name, quoted, operator, operand))
        self._add(found[0])
        self.at = found.end()

    def _arithmetic(self, *, quoted: bool) -> None:
        """`$(( ))`."""
        start = self.at
        try:
            expression, self.at = parse_arithmetic(self.line, start + 3)
        except UnlikeArithmetic as error:
            raise LineRefused(unlike_arithmetic(error)) from None
        text = self.line[start : self.at]
        if self.documents and "\n" in text:
            self._refuse_document("A $(( )) goes on where the text of a here-document begins")
        end = self.length + len(text)
        self.parameters.append(Parameter(self.length, end, ARITHMETIC_NAME, quoted, expression=expression))
        self._add(text)

    def _substitution(self, *, quoted: bool, name: str = SUBSTITUTION_NAME) -> None:
        """`$( )`: a line of its own, whose words and quotes have nothing to do with those around it."""
        start = self.at
        if self.depth >= SUBSTITUTION_DEPTH:
            what = f"$( ) is nested more than {SUBSTITUTION_DEPTH} deep"
            self._refuse("syntax.substitution", what, "Set a variable first: NAME=$(a); b $NAME")
        inner = _Lexer(
            self.line, self.operators, self.read, assignments=self.assignments, at=start + 2, depth=self.depth + 1
        )
        steps = self.read(inner.tokens(inside=True))
        if not steps:
            self._refuse("syntax.substitution", "There is no command in $( )", "Write $(command).")
        if has_background(steps):
            what = "A command in the background is an execution of its own, whose output a $( ) does not get"
            self._refuse("syntax.background", what, "Leave out the &, or start it before: a > out.txt & b")
        self.at = inner.at
        text = self.line[start : self.at]
        if self.documents and "\n" in text:
            self._refuse_document("A $( ) goes on where the text of a here-document begins")
        self.parameters.append(Parameter(self.length, self.length + len(text), name, quoted, steps=steps))
        self._add(text)

    def _escaped(self) -> None:
        if self.at + 1 >= len(self.line):
            self._refuse("syntax.escape", "The line ends in a backslash", "Quote the backslash: '\\'.")
        if joined := JOINED_LINE.match(self.line, self.at):
            following = self.line[joined.end() : joined.end() + 1]
            if ";" not in self.operators or (following and following not in " \t\n"):
                self._refuse("syntax.newline", "A line break ends a command", "Break the line between two words.")
            self.at = joined.end()
            return
        self._add(self.line[self.at + 1])
        self.at += 2

    def _single_quoted(self) -> None:
        end = self.line.find("'", self.at + 1)
        if end < 0:
            self._refuse("syntax.quote", "A ' is never closed", "Close it with another '.")
        length = self.length
        self._add(self.line[self.at + 1 : end])
        self._mark_empty(length)
        self.at = end + 1

    def _mark_empty(self, length: int) -> None:
        """A quote that adds nothing makes a word where the variables around it make none."""
        if self.length == length:
            self.parameters.append(Parameter(length, length))

    def _double_quoted(self) -> None:
        start, length = self.at, self.length
        self.at += 1
        while self.at < len(self.line):
            if self.line[self.at] == '"':
                self._mark_empty(length)
                self.at += 1
                return
            self._piece_of_text(quoted='"')
        self.at = start
        self._refuse("syntax.quote", 'A " is never closed', 'Close it with another ".')

    def _piece_of_text(self, quoted: str) -> None:
        """A piece of what is in double quotes, or in a here-document, where `quoted` is empty."""
        match self.line[self.at]:
            case "\\":
                self._escaped_in_text(quoted)
            case "$" if self._expands():
                self._parameter(quoted=True)
            case "`":
                self._refuse("syntax.substitution", '` starts a command substitution, also inside " "', BACKTICK_HINT)
            case char:
                self._add(char)
                self.at += 1

    def _escaped_in_text(self, quoted: str) -> None:
        following = self.line[self.at + 1 : self.at + 2]
        if following == "\n":
            if ";" not in self.operators:
                self._refuse("syntax.newline", "A line break after a backslash joins lines", "Write it on one line.")
            self.at += 2
            return
        self._add(following if following and following in f"$`\\{quoted}" else "\\" + following)
        self.at += 1 + len(following)

    def _expands(self) -> bool:
        """A `$` is literal unless a name, a parameter or an opening follows (POSIX 2.6)."""
        following = self.line[self.at + 1 : self.at + 3]
        return bool(EXPANSION.match(following[:1])) or following == "\\\n"

    def _starts_quote(self) -> bool:
        """`$'` and `$"` mean different things in different shells."""
        return self.line[self.at + 1 : self.at + 2] in {"'", '"'}

    def _begin_document(self) -> None:
        """What follows `<<`: the word that ends the here-document, whose text comes after the line."""
        indented = self.line.startswith("-", self.at)
        self.at += indented
        while self.at < len(self.line) and self.line[self.at] in BLANKS:
            self.at += 1
        start = self.at
        self._begin_text()
        while self.at < len(self.line) and self.line[self.at] not in BLANKS and self.line[self.at] not in OPERATORS:
            self._piece(self.line[self.at])
        delimiter, written = "".join(self.text), self.line[start : self.at]
        if not DELIMITER.fullmatch(delimiter) or "\\\n" in written or any(each.name for each in self.parameters):
            self.at = start
            self._refuse_document("After << there must be a plain word")
        literal = delimiter != written
        self.documents.append(_HereDocument(len(self.found) - 1, delimiter, literal, indented))

    def _read_documents(self) -> None:
        for document in self.documents:
            operator = self.found[document.number]
            assert isinstance(operator, Operator)
            self.found[document.number] = replace(operator, body=self._document(document))
        self.documents.clear()

    def _document(self, document: _HereDocument) -> Word:
        """The text of a here-document, which begins here."""
        start, lines = self.at, self._document_lines(document)
        return Word("".join(lines)) if document.literal else self._document_text("".join(lines), start)

    def _document_lines(self, document: _HereDocument) -> list[str]:
        """The lines up to the one that is the delimiter."""
        start = self.at
        lines: list[str] = []
        while self.at < len(self.line):
            end = self.line.find("\n", self.at)
            end = len(self.line) if end < 0 else end
            line = self.line[self.at : end]
            line = line.lstrip("\t") if document.indented else line
            self.at = min(end + 1, len(self.line))
            if line == document.delimiter:
                return lines
            if not document.literal and (len(line) - len(line.rstrip("\\"))) % 2:
                self._refuse_document("A line of a here-document ends in a backslash")
            lines.append(line + "\n")
        self.at = start
        return self._refuse_document(f"The here-document is not ended by a line {document.delimiter}")

    def _document_text(self, text: str, start: int) -> Word:
        """The variables and escapes in the text of a here-document; `start` is its place in the line."""
        inner = _Lexer(text, self.operators, self.read, assignments=self.assignments, depth=self.depth)
        try:
            while inner.at < len(text):
                inner._piece_of_text(quoted="")
        except LineRefused as refused:
            hint = "Quote the word after <<, as in <<'END', to take the text as it is."
            raise LineRefused(replace(refused.decision, hint=hint)) from None
        return inner._word()

    def _check_documents(self) -> None:
        if self.documents:
            self._refuse_document(f"The here-document is not ended by a line {self.documents[0].delimiter}")

    def _refuse_document(self, what: str) -> NoReturn:
        self._refuse(
            "syntax.document", what, "cat <<'END', then the text, then a line END. 'END' takes the text as it is."
        )

    def _refuse(self, rule: str, what: str, hint: str = "") -> NoReturn:
        raise LineRefused(
            Decision.deny(
                rule,
                f"{what} (position {self.at + 1}); no shell runs here.",
                hint or "To use the character itself, quote it with ' on both sides.",
            )
        )


def _too_many() -> Decision:
    reason = "The braces of a word become too many words, or are nested too deeply."
    return Decision.deny("limits.expansion", reason, "Write the words, or fewer of them.")
