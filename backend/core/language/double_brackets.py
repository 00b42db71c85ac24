"""`[[ ]]` of bash: its words are neither split nor globs.

What `[ ]` has too is that; `==` with a pattern, and `=~` with plain text, are a `case`; `&&` and `||` join such tests.
"""

import re
from collections.abc import Iterable

from backend.core.dataclasses import replace
from backend.core.decisions import Decision
from backend.core.language.lexer import LineRefused
from backend.core.language.patterns import UnlikePattern, parts_of_pattern
from backend.core.language.tree import Case, Choice, Command, Group, Step, Word

UNARY = frozenset({f"-{letter}" for letter in "efdrwxsnzhLpSgukcb"})
EQUAL = {"=": "=", "==": "=", "!=": "!="}
BINARY = frozenset({"-nt", "-ot", "-ef"})
NUMBERS = frozenset({"-eq", "-ne", "-lt", "-le", "-gt", "-ge"})
INTEGER = re.compile("-?(0|[1-9][0-9]*)")
PLAIN = re.compile("(\\^?)([A-Za-z0-9_/:@=, -]+)(\\$?)")  # what means in a regular expression what it says
ALL = Word("*", frozenset({0}))
SUCCEED = Step("", (Command((Word(":"),)),))
FAIL = replace(SUCCEED, negated=True)


def tested(alternatives: list[list[list[Word]]]) -> Step:
    """The step that `[[ a && b || c ]]` means, from the words of its tests. Raises LineRefused."""
    joined = [_joined("&&", map(_test, each)) for each in alternatives]
    return _joined("||", joined)


def _joined(operator: str, steps: Iterable[Step]) -> Step:
    first, *others = steps
    return Step("", (), Group((first, *(replace(each, join=operator) for each in others)), False)) if others else first


def _test(words: list[Word]) -> Step:
    negated = bool(words) and words[0].text == "!"
    inner = words[1:] if negated else words
    match inner:
        case [value, Word(text="==" | "=" | "!=" as operator), pattern] if not _is_plain(pattern):
            return _matched(value, pattern, fails=(operator == "!=") is not negated)
        case [value, Word(text="=~"), expression]:
            return _matched(value, _pattern(expression), fails=negated)
    if not inner or not _is_alike(inner):
        raise LineRefused(unlike())
    inner = [replace(each, parameters=tuple(replace(one, quoted=True) for one in each.parameters)) for each in inner]
    inner = [replace(each, active=frozenset()) for each in inner]
    if len(inner) == 3:
        inner[1] = replace(inner[1], text=EQUAL.get(inner[1].text, inner[1].text))
    return Step("", (Command((Word("["), *words[:negated], *inner, Word("]"))),))


def _is_plain(pattern: Word) -> bool:
    """Whether what `==` compares with is a text: it is a pattern unless it is quoted."""
    return not pattern.is_glob and "\\" not in pattern.text and all(each.quoted for each in pattern.parameters)


def _matched(value: Word, pattern: Word, *, fails: bool) -> Step:
    try:
        [*parts_of_pattern(replace(pattern, parameters=()), {})]
    except UnlikePattern:
        raise LineRefused(unlike()) from None
    if not all(each.quoted for each in pattern.parameters):
        raise LineRefused(unlike())
    found, other = (FAIL, SUCCEED) if fails else (SUCCEED, FAIL)
    return Step("", (), Case(value, (Choice((pattern,), (found,)), Choice((ALL,), (other,)))))


def _pattern(expression: Word) -> Word:
    """The pattern that matches what a regular expression of plain text does."""
    found = PLAIN.fullmatch(expression.text)
    if found is None or expression.parameters:
        raise LineRefused(unlike())
    text = Word(found[2])
    start, end = Word("") if found[1] else ALL, Word("") if found[3] else ALL
    return start.plus(text).plus(end)


def _is_alike(words: list[Word]) -> bool:
    """Whether these words are a test that both have."""
    match words:
        case [Word(text=text, parameters=parameters)]:
            return bool(parameters) or not text.startswith(("-", "!", "("))
        case [operator, _]:
            return operator.text in UNARY and not operator.parameters
        case [_, operator, _] if operator.text in EQUAL or operator.text in BINARY:
            return True
        case [first, operator, second] if operator.text in NUMBERS:
            return all(each.parameters or INTEGER.fullmatch(each.text) for each in (first, second))
    return False


def unlike() -> Decision:
    """Why a test is not read."""
    reason = "Of [[ ]] only tests are known of files, of texts that are equal, empty or match a pattern, and && and || of these."
    return Decision.deny("syntax.test", reason, 'Write for example [[ $A == b* && -f "$B" ]], or [ "$N" -gt 1 ].')
