"""The commands in a line of bash, found by a grammar of bash: every program that the text names, with its words.

A word whose text depends on what happens when the line runs, such as a variable, a substitution or a glob, is only known
by what is written. What the grammar cannot parse in full is refused, and so is what takes too long.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Set
from functools import cache
from itertools import pairwise
from operator import itemgetter
from time import thread_time
from typing import TYPE_CHECKING

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import needed
from backend.core.language.lexer import hidden_character

if TYPE_CHECKING:
    from tree_sitter import Language, Node, Parser

PARSE_BOUND = 0.25  # seconds of the thread; long lines take a tenth of it
NODE_LIMIT = 12_000
PIECE = 4096  # bytes that the parser reads at once; between two reads it can be stopped

COMMANDS = frozenset({"command", "declaration_command", "unset_command"})
# Where the grammar takes one of these for the name of a program, bash reads something else.
RESERVED = frozenset(
    [
        "if",
        "then",
        "elif",
        "else",
        "fi",
        "for",
        "while",
        "until",
        "select",
        "do",
        "done",
        "case",
        "esac",
        "function",
        "{",
        "}",
        "[[",
    ]
)
# Text in which bash runs a substitution when it takes the text for a number or for the name of a variable; and pieces
# that may make one.
SUBSTITUTED = re.compile(r"`|\$\(|\$$|\\(0?44|x24|u0*24|U0*24)")
ESCAPED_SIGN = re.compile(r"\\[$`]")
CALCULATING = frozenset(
    {"arithmetic_expansion", "array", "c_style_for_statement", "declaration_command", "subscript", "unset_command"}
)
READING = frozenset({"mapfile", "read", "readarray"})
NAMING = READING | {"getopts", "let", "wait"}  # builtins that calculate, or take names of variables
NAMING_WITH = frozenset({"printf", "test"})  # with the option -v
# Children of a command that are none of its words.
REDIRECTIONS = frozenset({"file_redirect", "herestring_redirect", "heredoc_redirect"})
BEFORE_NAME = REDIRECTIONS | {"variable_assignment"}
OPENING = frozenset({"`", "$(", "$((", "<(", ">("})
OPENED = re.compile(
    rb"\\.|(?P<opened>`|\$\(|[<>]\()", re.S
)  # what opens a substitution, unless a backslash is before it
BETWEEN_WORDS = re.compile(rb"(?:[ \t]|\\\n)*")
GLOB = re.compile(r"[*?\[]|[@+!]\(")
BRACES = re.compile(r"\{.*(,|\.\.).*\}", re.S)
ESCAPED = re.compile(r"\\(\n|.)", re.S)
ESCAPED_IN_QUOTES = re.compile(r'\\([$`"\\\n])')
ANSI_ESCAPE = re.compile(
    r"\\(?:x(?P<hex>[0-9A-Fa-f]{1,2})|u(?P<u>[0-9A-Fa-f]{1,4})|U(?P<U>[0-9A-Fa-f]{1,8})|(?P<octal>[0-7]{1,3})"
    r"|c(?P<control>.)|(?P<one>.))",
    re.S,
)
ANSI_LETTERS = {"a": "\a", "b": "\b", "e": "\x1b", "E": "\x1b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True, slots=True)
class ShellWord:
    """A word as it is written, and its text where that is known; `is_glob` where it is a pattern for names of files."""

    source: str
    text: str | None
    is_glob: bool = False

    @property
    def known(self) -> str | None:
        """The text, unless it stands for other words."""
        return None if self.is_glob else self.text

    @property
    def shown(self) -> str:
        """What is written of it in the audit."""
        return self.source if self.text is None else self.text


ShellCommand = tuple[ShellWord, ...]


@dataclass(frozen=True, slots=True)
class BashText:
    """What a text of bash names: its commands, and what it assigns to variables (None where that is no single word).

    With `evaluates` it holds text with a substitution that bash may run where it calculates, or names a variable by text.
    """

    commands: tuple[ShellCommand, ...]
    assigned: tuple[tuple[str, ShellWord | None], ...] = ()
    evaluates: bool = False


class _Unreadable(Exception):
    """The grammar found a command in text that bash reads otherwise."""


def parse_bash(line: str) -> BashText | Decision:
    """The commands of a line in the order of their text, also those within others, or why it is refused."""
    if refusal := hidden_character(line):
        return refusal
    source = line.encode()
    root = _tree(source)
    if root is None:
        reason = "The line takes too long to parse, or has too many parts."
        return Decision.deny("limits.expansion", reason, "Put it into a script of the project: bash FILE.")
    if root.has_error:
        return _syntax(root)
    try:
        return _unread(root, source) or _read(root, source)
    except _Unreadable:
        return _not_read()


def _read(root: Node, source: bytes) -> BashText:
    """Raises _Unreadable."""
    commands = tuple(_commands(root, source))
    if any(command[0].source in RESERVED for command in commands):
        raise _Unreadable
    reads = any(command[0].known in READING for command in commands)
    evaluates = _holds_substitution(root, here=reads) and _evaluates(root, commands)
    return BashText(commands, tuple(_assigned(root, source)), evaluates)


def _assigned(root: Node, source: bytes) -> Iterator[tuple[str, ShellWord | None]]:
    """The variables that are set, with their values. Raises _Unreadable."""
    for node in _nodes(root):
        if node.type == "variable_assignment":
            name, value = node.child_by_field_name("name"), node.child_by_field_name("value")
            is_word = value and value.type != "array"
            yield _source(name).partition("[")[0] if name else "", _word([value], source) if value and is_word else None
        elif node.type == "for_statement" or (node.type == "expansion" and _has(node, {"=", ":="})):
            for name in node.named_children[:1]:
                yield _source(name), None


def _has(node: Node, signs: Set[str]) -> bool:
    return any(child.type in signs for child in node.children)


def _holds_substitution(root: Node, *, here: bool) -> bool:
    """Whether a text holds what would be a substitution if bash read it; also that of here-documents, if they are read."""
    for node in _nodes(root):
        match node.type:
            case "raw_string":
                found = SUBSTITUTED.search(_source(node)[1:-1])
            case "ansi_c_string":
                found = SUBSTITUTED.search(_ansi(_source(node)[2:-1]))
            case "heredoc_body" if here and _is_quoted_body(node):
                found = SUBSTITUTED.search(_source(node))
            case "word" | "string":
                found = ESCAPED_SIGN.search(_source(node))
            case _:
                continue
        if found:
            return True
    return False


def _evaluates(root: Node, commands: Iterable[ShellCommand]) -> bool:
    """Whether bash takes a text for a number, or for the name of a variable."""
    for command in commands:
        name = command[0].known
        if name in NAMING or (name in NAMING_WITH and any((word.known or "").startswith("-v") for word in command)):
            return True
    return any(node.type in CALCULATING or _evaluates_node(node) for node in _nodes(root))


def _evaluates_node(node: Node) -> bool:
    match node.type:
        case "compound_statement":
            return _has(node, {"(("})
        case "test_command":
            return _has(node, {"[["}) or "-v" in _source(node)
        case "expansion":
            return _has(node, {"!", "@"})
        case _:
            return False


@cache
def _language() -> Language:
    with needed("The grammar of bash"):  # for the first line: most profiles have no bash
        import tree_sitter_bash
        from tree_sitter import Language

    return Language(tree_sitter_bash.language())


def _new_parser() -> Parser:
    language = _language()
    from tree_sitter import Parser

    return Parser(language)


def _tree(source: bytes) -> Node | None:
    """The tree of a text; None where it takes too long, or has too many parts."""
    parser = _new_parser()
    end = thread_time() + PARSE_BOUND
    try:
        tree = parser.parse(
            lambda offset, _: source[offset : offset + PIECE], progress_callback=lambda *_: thread_time() > end
        )
    except ValueError:  # it was stopped
        return None
    return tree.root_node if tree and tree.root_node.descendant_count <= NODE_LIMIT else None


def _nodes(root: Node) -> Iterator[Node]:
    """All nodes, in the order of the text. Not by recursion, since lines may be nested deeply."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(node.children))


def _syntax(root: Node) -> Decision:
    wrong = next((node for node in _nodes(root) if node.is_error or node.is_missing), root)
    place = f"line {wrong.start_point.row + 1}, byte {wrong.start_point.column + 1}"
    reason = f"This is not a line of bash that can be parsed ({place})."
    return Decision.deny("syntax.bash", reason, "Correct it, or put it into a script of the project: bash FILE.")


def _unread(root: Node, source: bytes) -> Decision | None:
    """Refuse a substitution that the grammar took for text, and so did not look into.

    That happens to backticks in `${x:-...}`, where quotes can be plain characters, in patterns and in here-documents; and
    within backticks a backslash makes others.
    """
    known: set[int] = set()
    texts: list[tuple[int, int]] = []
    expanded: list[tuple[int, int]] = [(0, 0)]  # each `${...}` that is in no other
    for node in _nodes(root):
        if node.type in OPENING:
            known.add(node.end_byte - len(node.type))  # in quotes, the blanks before it belong to its node
        elif node.type == "expansion" and node.start_byte >= expanded[-1][1]:
            expanded.append((node.start_byte, node.end_byte))
        elif node.start_byte < expanded[-1][1] and node.type in {"raw_string", "ansi_c_string"}:
            continue
        elif node.start_byte < expanded[-1][1] and node.type == "regex" and set(_source(node)) & set("{}"):
            return _not_read()  # for bash, the first brace ends the `${...}`
        elif node.type in {"raw_string", "ansi_c_string", "comment"} or _is_quoted_body(node):
            texts.append((node.start_byte, node.end_byte))
        elif node.type == "command_substitution" and _source(node).lstrip().startswith("`"):
            known.add(node.end_byte - 1)
            if "\\" in _source(node):
                return _not_read()
    for found in OPENED.finditer(source):
        sign, at = found["opened"], found.start("opened")
        if not sign or at in known or _is_within(at, texts):
            continue
        if sign[:1] not in b"<>" or _is_within(at, expanded):  # elsewhere it compares, or is quoted
            return _not_read()
    return None


def _is_within(at: int, texts: list[tuple[int, int]]) -> bool:
    """Whether one of these texts, which are in order and apart, is there."""
    before = bisect_right(texts, at, key=itemgetter(0))
    return before > 0 and at < texts[before - 1][1]


def _is_quoted_body(node: Node) -> bool:
    """Whether it is the text of a here-document in which nothing is expanded."""
    if node.type != "heredoc_body" or node.parent is None:  # first, since the children of a parent can be many
        return False
    start = next((each for each in node.parent.children if each.type == "heredoc_start"), None)
    return start is not None and bool(set(_source(start)) & set("'\"\\"))


def _not_read() -> Decision:
    reason = (
        "A part of the line cannot be judged, such as backticks in a default, a pattern, a here-document or others."
    )
    return Decision.deny("syntax.bash", reason, "Write $( ) instead, or put the line into a script of the project.")


def _commands(root: Node, source: bytes) -> Iterator[ShellCommand]:
    """Raises _Unreadable."""
    further = dict(_words_in_redirections(root))
    for node in _nodes(root):
        if node.type in COMMANDS:
            no_words = BEFORE_NAME if node.type == "command" else REDIRECTIONS
            after = (word for nodes in further.get(node.id, []) for word in _words(nodes, source))
            words = (*_words(node.children, source, no_words), *after)
            if words:
                yield words


def _words_in_redirections(root: Node) -> Iterator[tuple[int, list[list[Node]]]]:
    """The words after the file of a redirection, by the command that they belong to: `env >file NAME`."""
    for node in _nodes(root):
        if node.type == "redirected_statement":
            found = (nodes for each in node.children_by_field_name("redirect") for nodes in _after_file(each))
            words = [nodes for nodes in found if nodes]
            command = _last_command(node.child_by_field_name("body"))
            if words and command is None:
                raise _Unreadable
            if words and command:
                yield command.id, words


def _after_file(redirect: Node) -> Iterator[list[Node]]:
    yield redirect.children_by_field_name("argument")
    yield redirect.children_by_field_name("destination")[1:]
    for inner in redirect.children_by_field_name("redirect"):
        yield from _after_file(inner)


def _last_command(node: Node | None) -> Node | None:
    while node and node.type not in COMMANDS:
        node = node.child_by_field_name("body") or (node.named_children[-1] if node.named_children else None)
    return node


def _words(nodes: Iterable[Node], source: bytes, no_words: frozenset[str] = REDIRECTIONS) -> Iterator[ShellWord]:
    """The words of a command. Nodes with nothing between them are one word, whatever they are. Raises _Unreadable."""
    group: list[Node] = []
    end = None
    for node in nodes:
        gap = b"" if end is None else source[end : node.start_byte]
        if not BETWEEN_WORDS.fullmatch(gap):
            raise _Unreadable
        end = node.end_byte
        parts = node.children if node.type == "concatenation" else [node]
        if any(part.type == "regex" for part in parts):  # a part of the line, up to any blank
            raise _Unreadable
        is_word = node.type not in no_words
        if group and (gap.replace(b"\\\n", b"") or not is_word):
            yield _word(group, source)
            group = []
        if is_word:
            group.append(node)
    if group:
        yield _word(group, source)


def _word(nodes: list[Node], source: bytes) -> ShellWord:
    written = source[nodes[0].start_byte : nodes[-1].end_byte].decode(errors="replace")
    text, bare = _joined(nodes), "".join(_bare(nodes))
    if "\n" in bare:
        raise _Unreadable
    if text is None or BRACES.search(bare) or bare.startswith("~"):
        return ShellWord(written, None)
    return ShellWord(written, text, bool(GLOB.search(bare)))


def _joined(nodes: list[Node]) -> str | None:
    """The text of nodes that follow on each other; None where one of them, or what is between them, is not known."""
    touching = all(left.end_byte == right.start_byte for left, right in pairwise(nodes))
    texts = [_text(node) for node in nodes]
    return "".join(text or "" for text in texts) if touching and None not in texts else None


def _bare(nodes: Iterable[Node]) -> Iterator[str]:
    """What is not quoted of a word: there the shell expands names of files and braces."""
    for node in nodes:
        if node.type in {"command_name", "concatenation"}:
            yield from _bare(node.children)
        elif node.type in {"word", "number", "extglob_pattern", "regex"}:
            yield ESCAPED.sub("", _source(node))


def _source(node: Node) -> str:
    return (node.text or b"").decode(errors="replace")


def _text(node: Node) -> str | None:
    """The text of a word or a part of one; None where it is only known when it runs."""
    match node.type:
        case "command_name" | "concatenation":
            return _joined(node.children)
        case "word" | "number" | "variable_name" if not node.named_children:
            return ESCAPED.sub(lambda found: "" if found[1] == "\n" else found[1], _source(node))
        case "raw_string":
            return _source(node)[1:-1]
        case "string":
            return _quoted(node)
        case "translated_string":
            return _quoted(node.children[-1])
        case "ansi_c_string":
            return _ansi(_source(node)[2:-1])
        case _ if not node.is_named:  # `declare`, and other words of the grammar itself
            return _source(node)
        case _:
            return None


def _quoted(node: Node) -> str | None:
    if any(child.type != "string_content" for child in node.named_children):
        return None
    return ESCAPED_IN_QUOTES.sub(lambda found: "" if found[1] == "\n" else found[1], _source(node)[1:-1])


def _ansi(text: str) -> str:
    """The text of `$'...'`; bash ends it at a character of number 0."""
    return ANSI_ESCAPE.sub(_ansi_character, text).partition("\0")[0]


def _ansi_character(found: re.Match[str]) -> str:
    for name, base in (("hex", 16), ("u", 16), ("U", 16), ("octal", 8)):
        if digits := found[name]:
            number = int(digits, base) & (0xFF if name == "octal" else 0xFFFFFFFF)
            return chr(number) if number <= 0x10FFFF else "\ufffd"
    if control := found["control"]:
        return chr(ord(control.upper()) & 0x1F)
    return ANSI_LETTERS.get(found["one"], found["one"] if found["one"] in "\\'\"?" else found[0])
