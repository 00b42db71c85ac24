"""The scripts of sed and awk, parsed far enough to know that they only edit text.

Both languages can start programs, and read and write files. The parsers here accept the subset of each language that
cannot. They are strict: a script that versions of sed or awk would interpret differently is refused.
"""

import re
from typing import NoReturn


class ScriptError(ValueError):
    """The part of a script that is not permitted."""


def check_sed(script: str) -> None:
    """Raise ScriptError unless the script only edits its input."""
    _Sed(script).check()


def check_awk(script: str) -> None:
    """Raise ScriptError unless the program only computes and prints to standard output."""
    _Awk(script).check()


class _Cursor:
    """A position in a text that advances by patterns."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    @property
    def is_at_end(self) -> bool:
        return self.at >= len(self.text)

    def consume(self, pattern: re.Pattern[str]) -> str | None:
        """Consume and return the text that matches here; None where it does not match."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def char(self) -> str:
        """Consume and return the next character; empty at the end."""
        char = self.text[self.at : self.at + 1]
        self.at += len(char)
        return char

    def refuse(self, what: str) -> NoReturn:
        raise ScriptError(f"{what} (position {self.at})")

    def delimited(self, end: str) -> str:
        """Consume the text up to an `end` that no backslash escapes, and the `end`; returns the text."""
        start = self.at
        while (char := self.char()) != end:
            if char == "\\":
                char = self.char()
            if not char:
                self.refuse(f"{end} is missing")
        return self.text[start : self.at - 1]

    def regex(self, end: str) -> None:
        """Consume a regular expression up to `end`."""
        text = self.delimited(end)
        if "\n" in text:
            self.refuse("a line break in a regular expression")
        # Some versions end the expression at an `end` inside brackets, others do not.
        if BRACKETS.fullmatch(text) is None:
            self.refuse(f"brackets that are not closed, or contain ] or {end} without a backslash")


# Outside brackets anything, with escapes; inside neither ] nor [ except in classes such as [:alpha:].
BRACKETS = re.compile(r"(?:[^\[\\]|\\.|\[\^?(?:[^\[\]\\]|\\[^\]]|\[:[a-z]+:\])+\])*", re.S)

SED_GAP = re.compile(r"[ \t]*")
SED_BETWEEN = re.compile(r"(?:[ \t\n;]|#[^\n]*)*")
SED_END = re.compile(r"[ \t]*(?=[;\n}#]|\Z)[;\n]?")
SED_LINE = re.compile(r"[0-9]+(?:~[0-9]+)?|\$")
SED_SPAN = re.compile(r"[+~][0-9]+")
SED_REGEX_FLAGS = re.compile(r"[IM]*")
SED_LABEL = re.compile(r"[ \t]*[A-Za-z0-9_.-]*")
SED_NUMBER = re.compile(r"[ \t]*[0-9]*")
SED_FLAGS = re.compile(r"[gpiImM0-9]*")
SED_TEXT = re.compile(r"[ \t]*(?:\\\n?)?[^\\\n]+(?:\n|\Z)")
SED_PLAIN = frozenset("dDpPnNgGhHxz=F")
SED_DELIMITERS = frozenset("/|#,:;!@%_~+=^&\"'-")


class _Sed(_Cursor):
    """Parses a script command by command."""

    def check(self) -> None:
        depth = 0
        while self.consume(SED_BETWEEN) is not None and not self.is_at_end:
            depth += self._command()
            if depth < 0:
                self.refuse("} without {")
        if depth:
            self.refuse("{ is not closed")

    def _command(self) -> int:
        """One command; what it adds to the depth of braces."""
        if self._address() and self.consume(re.compile(",[ \t]*")) and not (self.consume(SED_SPAN) or self._address()):
            self.refuse("an unknown address")
        self.consume(re.compile("[ \t]*(?:![ \t]*)?"))
        command = self.char()
        if command == "{":
            return 1
        if command == "}":
            self._end(SED_END)
            return -1
        self._body(command)
        return 0

    def _address(self) -> bool:
        if self.consume(SED_LINE) is None:
            char = self.text[self.at : self.at + 1]
            if char not in {"/", "\\"} or not char:
                return False
            self.at += 1
            self.regex("/" if char == "/" else self._delimiter())
            self.consume(SED_REGEX_FLAGS)
        self.consume(SED_GAP)
        return True

    def _body(self, command: str) -> None:
        match command:
            case "s":
                self._substitute()
            case "y":
                self._transliterate()
            case "a" | "i" | "c":
                if self.consume(SED_TEXT) is None:
                    self.refuse(f"a text for {command} with backslashes in it, or none")
            case "b" | "t" | "T" | ":":
                self.consume(SED_LABEL)
                self._end(SED_END)
            case "q" | "Q" | "l" | "L":
                self.consume(SED_NUMBER)
                self._end(SED_END)
            case _ if command and command in SED_PLAIN:
                self._end(SED_END)
            case _:
                self.refuse(f"{command!r} is not a command of sed that may be used here")

    def _delimiter(self) -> str:
        delimiter = self.char()
        if not delimiter or delimiter not in SED_DELIMITERS:
            self.refuse(f"{delimiter!r} is not accepted as a delimiter here")
        return delimiter

    def _substitute(self) -> None:
        delimiter = self._delimiter()
        self.regex(delimiter)
        self.delimited(delimiter)
        self.consume(SED_FLAGS)
        self._end(SED_END)

    def _transliterate(self) -> None:
        delimiter = self._delimiter()
        if "\n" in self.delimited(delimiter) + self.delimited(delimiter):
            self.refuse("a line break in y")
        self._end(SED_END)

    def _end(self, pattern: re.Pattern[str]) -> None:
        if self.consume(pattern) is None:
            self.refuse(f"{self.text[self.at]!r} may not follow here")


AWK_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)+")
AWK_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
AWK_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
AWK_SIGN = re.compile(r"\+\+|--|&&|\|\||[<>=!+*/%^-]=|!~|\*\*=?|>>|[{}()\[\];,+*/%^!><?:~$=-]")
AWK_CALL = re.compile(r"[ \t]*\(")

AWK_FORBIDDEN = frozenset({
    "system", "getline", "close", "fflush", "ENVIRON", "PROCINFO", "SYMTAB", "FUNCTAB", "ARGV", "ARGC", "extension",
})  # fmt: skip
AWK_KEYWORDS = frozenset({
    "BEGIN", "END", "if", "else", "while", "for", "do", "in", "print", "printf", "next", "nextfile", "exit", "break",
    "continue", "return", "delete", "function", "func", "switch", "case", "default",
})  # fmt: skip
AWK_FUNCTIONS = frozenset({
    "length", "substr", "index", "split", "sub", "gsub", "gensub", "match", "sprintf", "sin", "cos", "atan2", "exp",
    "log", "sqrt", "int", "rand", "srand", "tolower", "toupper", "strftime", "systime", "mktime", "asort", "asorti",
    "patsplit", "strtonum", "and", "or", "xor", "lshift", "rshift", "compl", "typeof",
})  # fmt: skip
# After these a slash divides; after the other signs and keywords it starts a regular expression.
AWK_OPERAND_ENDS = frozenset({"]", ")"})
AWK_UNCLEAR = frozenset({"++", "--", "$", "in", "length", "/regex/", "condition)"})


class _Awk(_Cursor):
    """Parses a program token by token; `before` is the token before the next."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.before = ""
        self.open: list[str] = []
        self.printing: list[int] = []
        self.functions = {*AWK_FUNCTIONS, *re.findall(r"\bfunc(?:tion)?[ \t]+([A-Za-z_][A-Za-z0-9_]*)", text)}

    def check(self) -> None:
        while not self.is_at_end:
            if self.consume(AWK_GAP) is None:
                self.before = self._token()
        if self.open:
            self.refuse(f"{self.open[-1]} is not closed")

    def _token(self) -> str:
        if self.text.startswith('"', self.at):
            self.at += 1
            if "\n" in self.delimited('"'):
                self.refuse("a line break in a string")
            return '"text"'
        if self.consume(AWK_NUMBER):
            return "0"
        if name := self.consume(AWK_NAME):
            return self._name(name)
        if self.text.startswith("/", self.at) and self._starts_regex():
            self.at += 1
            self.regex("/")
            return "/regex/"
        sign = self.consume(AWK_SIGN)
        if sign is None:
            self.refuse(f"{self.text[self.at]!r} may not be used here")
        return self._sign(sign)

    def _name(self, name: str) -> str:
        if name in AWK_FORBIDDEN:
            self.refuse(f"{name} reaches beyond the input")
        if name in {"print", "printf"}:
            self.printing.append(len(self.open))
        if name in AWK_KEYWORDS or name == "length":
            return name
        if AWK_CALL.match(self.text, self.at) and name not in self.functions:
            self.refuse(f"{name} is not a function that may be used here")
        return "name"

    def _starts_regex(self) -> bool:
        if self.before in AWK_UNCLEAR:
            self.refuse("/ may divide here or start a regular expression: use parentheses")
        return self.before not in AWK_OPERAND_ENDS and self.before not in {"name", "0", '"text"'}

    def _sign(self, sign: str) -> str:
        match sign:
            case "(" | "[" | "{":
                self.open.append(self.before if sign == "(" and self.before in {"if", "while", "for"} else sign)
            case ")" | "]" | "}":
                return self._close(sign)
            case ";":
                self._end_print()
            case ">" | ">>" if self._is_redirect():
                self.refuse(f"{sign} after print writes a file: put a comparison in parentheses")
            case ">>":
                self.refuse(">> writes a file")
            case _:
                pass
        return sign

    def _close(self, sign: str) -> str:
        opened = self.open.pop() if self.open else ""
        if {")": "(", "]": "[", "}": "{"}[sign] != ("(" if opened in {"if", "while", "for"} else opened):
            self.refuse(f"{sign} has no matching bracket")
        if sign == "}":
            self._end_print()
        return "condition)" if opened in {"if", "while", "for"} else sign

    def _end_print(self) -> None:
        while self.printing and self.printing[-1] >= len(self.open):
            self.printing.pop()

    def _is_redirect(self) -> bool:
        """Whether a > here is part of a print, outside parentheses that opened after it."""
        return bool(self.printing) and self.printing[-1] >= len(self.open)
