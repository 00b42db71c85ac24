"""`[[ ]]` of bash, as far as it means what `[ ]` means: its words are neither split nor globs."""

from dataclasses import replace

from backend.core.decisions import Decision
from backend.core.language.lexer import Refused
from backend.core.language.tree import Word

UNARY = frozenset({f"-{letter}" for letter in "efdrwxsnzhLpSgukcb"})
EQUAL = {"=": "=", "==": "=", "!=": "!="}
FILES = frozenset({"-nt", "-ot", "-ef"})


def tested(words: list[Word], *, assigned: bool) -> list[Word]:
    """The words of the `[ ]` that `[[ ]]` means. Raises Refused where they differ."""
    end, inner = words[-1], [_unsplit(each) for each in words[1:-1]]
    negated = bool(inner) and inner[0].text == "!"
    if assigned or end.text != "]]" or not inner or not _is_alike(words[1 + negated : -1]):
        raise Refused(_unlike())
    if len(inner) - negated == 3:
        inner[-2] = replace(inner[-2], text=EQUAL.get(inner[-2].text, inner[-2].text))
    return [replace(words[0], text="[", active=frozenset()), *inner, replace(end, text="]", active=frozenset())]


def _unsplit(word: Word) -> Word:
    return Word(word.text, frozenset(), tuple(replace(each, quoted=True) for each in word.parameters))


def _is_alike(words: list[Word]) -> bool:
    """Whether these words are a test that both have. What `==` compares with is a pattern unless it is quoted."""
    match words:
        case [Word(text=text, parameters=parameters)]:
            return bool(parameters) or not text.startswith(("-", "!", "("))
        case [operator, _]:
            return operator.text in UNARY and not operator.parameters
        case [_, operator, pattern] if operator.text in EQUAL:
            return not pattern.is_glob and "\\" not in pattern.text and all(each.quoted for each in pattern.parameters)
        case [_, operator, _]:
            return operator.text in FILES
    return False


def _unlike() -> Decision:
    reason = "Of [[ ]] only tests are known that [ ] has too: of files, and of texts that are equal or empty."
    return Decision.deny("syntax.test", reason, 'Write [ ], with variables in " ": [ "$A" = b ] && [ "$N" -gt 1 ]')
