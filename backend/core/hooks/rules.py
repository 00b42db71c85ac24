"""The rules of hooks: their lines and parameters, the values of a call, its time and signature."""

import hmac
import json
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from backend.core.decisions import Decision
from backend.core.hooks.model import Choice, Hook, HookCall, Integer, Parameter, Text
from backend.core.hooks.patterns import Pattern, PatternError
from backend.core.notifications.rules import TOLERANCE, signature

MOST_PARAMETERS = 10
LONGEST_VALUE = 256  # characters
LONGEST_BODY = 64 * 1024  # bytes
LARGEST = 2**53 - 1  # the largest number that every JSON parser reads exactly
PARAMETER_NAME = re.compile("[a-z][a-z0-9_]{0,31}")
# A placeholder is a word of its own. What is quoted is consumed first, so that none is found within it.
PART = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.|(?<![^ \t])\{([a-z][a-z0-9_]{0,31})\}(?![^ \t])|.""", re.S)
# Within these, quotes begin and end by other rules than those of PART.
NESTING = re.compile(r"[$`#\n\r]|<<")
UNCLOSED = frozenset("'\"\\")  # what PART finds alone only where its other end is missing
BEFORE_PROGRAM = frozenset(";&|({!<>")  # after these there is no argument
CALL_ID = re.compile("[!-~]{1,128}")
TIMESTAMP = re.compile("[0-9]{1,12}")
LONGEST_SIGNATURES = 1000  # characters


def line_refusal(line: str, parameters: Mapping[str, Parameter]) -> Decision | None:
    """Why a hook cannot have such a line with such parameters."""
    for name, parameter in parameters.items():
        if problem := _parameter_problem(name, parameter):
            return Decision.deny("hook.parameter", f"The parameter {name[:32]} cannot be used: {problem}.")
    if len(parameters) > MOST_PARAMETERS:
        return Decision.deny("hook.parameter", f"A hook has at most {MOST_PARAMETERS} parameters.")
    if parameters and (NESTING.search(line) or any(found[0] in UNCLOSED for found in PART.finditer(line))):
        reason = "A line with parameters cannot contain $, `, #, <<, a line break or an unclosed quote."
        return Decision.deny("hook.line", reason, "Put that into a script, and start the script.")
    placed = {found[1] for found in PART.finditer(line) if found[1] and _is_argument(line[: found.start()])}
    for name in parameters:
        if name not in placed or line.count(f"{{{name}}}") != _count(line, name):
            reason = f"{{{name}}} is not an argument of the line, a word of its own without quotes."
            return Decision.deny("hook.line", reason, "For example: git_pull /srv/app {branch}")
    if unknown := sorted(placed - parameters.keys()):
        return Decision.deny("hook.line", f"There is no parameter {unknown[0]}.", "Describe it in `parameters`.")
    return None


def _is_argument(before: str) -> bool:
    """Whether a word after this is an argument."""
    return before.strip(" \t")[-1:] not in {"", *BEFORE_PROGRAM}


def _count(line: str, name: str) -> int:
    return sum(found[1] == name and _is_argument(line[: found.start()]) for found in PART.finditer(line))


def _parameter_problem(name: str, parameter: Parameter) -> str:
    if not PARAMETER_NAME.fullmatch(name):
        return "its name has at most 32 lower-case letters, digits and underscores, and begins with a letter"
    match parameter:
        case Choice(values=values):
            usable = 0 < len(values) <= 100 and all(_is_word(each) for each in values)
            return "" if usable else f"it has 1 to 100 values of at most {LONGEST_VALUE} printable characters"
        case Integer(minimum=minimum, maximum=maximum):
            return "" if -LARGEST <= minimum <= maximum <= LARGEST else "its bounds are not those of a range"
        case Text():
            return _text_problem(parameter)


def _text_problem(parameter: Text) -> str:
    if not 0 < parameter.max_length <= LONGEST_VALUE:
        return f"its length is from 1 to {LONGEST_VALUE} characters"
    try:
        Pattern.parse(parameter.pattern)
    except PatternError as error:
        return f"its pattern has no groups, alternatives and anchors, but {error}"
    return _value_problem(parameter, parameter.example) and "its example is not a value of it"


def sample(parameter: Parameter) -> str | int:
    """A value with which the line is judged when it is saved."""
    match parameter:
        case Choice(values=values):
            return values[0]
        case Integer(minimum=minimum):
            return minimum
        case Text(example=example):
            return example


def line_of(hook: Hook, values: Mapping[str, str | int]) -> str:
    """The line with values. Each is one word, quoted, whatever it contains."""
    return PART.sub(lambda found: shlex.quote(str(values[found[1]])) if found[1] in values else found[0], hook.command)


def values_of(hook: Hook, body: bytes) -> dict[str, str | int] | Decision:
    """The values in the body of a call: exactly those of the parameters."""
    try:
        sent: Any = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        return _wrong_values("The body is not a JSON object.")
    if unknown := sorted(sent.keys() - hook.parameters.keys()):
        return _wrong_values(f"There is no parameter {unknown[0][:32]!a}.")
    for name, parameter in hook.parameters.items():
        if name not in sent:
            return _wrong_values(f"The parameter {name} is missing.")
        if problem := _value_problem(parameter, sent[name]):
            return _wrong_values(f"The value of {name} is refused: it is not {problem}.")
    return sent


def _wrong_values(reason: str) -> Decision:
    return Decision.deny("hook.value", reason, "Send a JSON object with a value for each parameter of the hook.")


def _value_problem(parameter: Parameter, value: object) -> str:
    """What a value is not; empty if it is one of the parameter."""
    match parameter:
        case Choice(values=values):
            return "" if isinstance(value, str) and value in values else "one of its choices"
        case Integer(minimum=minimum, maximum=maximum):
            fits = isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum
            return "" if fits else f"a whole number from {minimum} to {maximum}"
        case Text(pattern=pattern, max_length=longest):
            if not isinstance(value, str) or len(value) > longest or not _is_word(value) or value.startswith("-"):
                return f"a text of at most {longest} printable characters that does not begin with a hyphen"
            return "" if Pattern.parse(pattern).matches(value) else "matched by its pattern"


def _is_word(value: str) -> bool:
    return len(value) <= LONGEST_VALUE and value.isprintable()


def time_refusal(call: HookCall, now: float) -> Decision | None:
    """Refuse a call without the three headers, or one that was sent at another time. `now` is in Unix seconds."""
    usual = CALL_ID.fullmatch(call.id) and TIMESTAMP.fullmatch(call.timestamp)
    if not usual or not 0 < len(call.signatures) <= LONGEST_SIGNATURES:
        reason = "The headers webhook-id, webhook-timestamp and webhook-signature are missing or invalid."
        return Decision.deny("hook.signature", reason, "Sign the request as Standard Webhooks describe it.")
    if abs(int(call.timestamp) - now) > TOLERANCE:
        reason = f"The webhook-timestamp is more than {TOLERANCE} s away from the time of the server."
        return Decision.deny("hook.time", reason, "Set both clocks, and sign again when a request is repeated.")
    return None


def is_signed(secrets: Collection[str], call: HookCall) -> bool:
    """Whether one of the signatures of a call is by one of these secrets. Takes as long for a wrong one."""
    sent = call.signatures.encode("utf-8", "replace").split(b" ")
    expected = [signature(secret, call.id, int(call.timestamp), call.body).encode() for secret in secrets]
    return any(hmac.compare_digest(one, each) for one in expected for each in sent)
