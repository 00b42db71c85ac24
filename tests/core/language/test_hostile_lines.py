"""Lines that are made to take long, or to be read in two ways: each gets a verdict after bounded work."""

import time
from dataclasses import replace
from pathlib import PurePosixPath

import pytest

from backend.core.decisions import Decision
from backend.core.policy.admit import Plan, Scope, admit
from backend.core.policy.files import Unseen
from backend.policies.loader import load_profile

AGENT = replace(load_profile("agent"), max_arguments=100_000)
SIZE = 32_000
BOUND = 5.0  # seconds of processor time, far above what any of these takes

LONG = {
    "quotes": "echo " + "'" * (SIZE - 5),
    "double quotes": "echo " + '"' * (SIZE - 6),
    "backslashes": "echo " + "\\" * (SIZE - 5),
    "joined lines": "echo " + "\\\n" * 15_000,
    "blank lines": "\n" * (SIZE - 5) + "ls",
    "comments": "#\n" * 15_000 + "ls",
    "digits": "echo " + "1" * (SIZE - 10) + ">x",
    "numbers": "echo " + "1 " * 15_000,
    "tildes": "echo " + "A=~" * 10_000,
    "colons": "echo A=" + ":" * (SIZE - 8) + "~",
    "brackets": "echo " + "[" * (SIZE - 5),
    "brackets and names": "echo A" + "[" * 15_000 + "]" * 15_000 + "=~",
    "stars": "echo " + "*" * (SIZE - 5),
    "steps": "ls;" * 10_000,
    "ands": "ls&&" * 7_000 + "ls",
    "pipes": "ls|" * 10_000 + "ls",
    "groups": "( " * 15_000,
    "closed groups": "( " * 7_000 + "ls" + " )" * 7_000,
    "flat groups": "(ls);" * 6_000,
    "not": "! " * 15_000 + "ls",
    "assignments": "A=1 " * 7_000 + "ls",
    "growth": "A=aaaaaaaaaa;" + "A=$A$A;" * 40 + "echo $A",
    "growth of words": "A='a a a a a a a a';" + "A=$A$A$A$A$A$A;" * 12 + "echo $A",
    "growth of a document": "A=aaaaaaaaaa;" + "A=$A$A;" * 40 + "cat <<E\n$A\nE",
    "variables": "A=1;echo " + "$A" * 15_000,
    "defaults": "echo " + "${A:-b}" * 4_000,
    "braces": "echo " + "{a,b}" * 6_000,
    "nested braces": "echo " + "{a," * 8_000 + "b" + "}" * 7_000,
    "open braces": "echo " + "{" * 30_000,
    "commas": "echo {" + "," * 30_000 + "}",
    "ranges": "echo " + "{1..999}" * 3_000,
    "documents": "cat " + "<<E " * 3_000 + "\n" + "E\n" * 3_000,
    "document lines": "cat <<E\n" + "\\\\\n" * 10_000 + "E",
    "document without end": "cat <<E\n" + "E \n" * 10_000,
    "redirects": "ls " + ">a " * 10_000,
    "parents": "cat " + "../" * 10_000,
    "up and down": "cat " + "a/../" * 6_000,
    "folders": "cd a;" * 6_000 + "ls",
    "prefixes": "timeout 1 " * 3_000 + "ls",
    "finders": "find . " + "-exec ls {} + " * 2_000,
    "xargs": "xargs " * 5_000 + "ls",
    "environments": "env " + "CI=1 " * 6_000 + "ls",
}


@pytest.mark.parametrize("line", [pytest.param(line, id=name) for name, line in LONG.items()])
def test_every_line_gets_a_verdict_after_bounded_work(line: str) -> None:
    assert len(line) <= SIZE
    begun = time.process_time()
    verdict = admit(line, Scope(AGENT, Unseen(PurePosixPath("/srv/ws")), network=False), ".")
    assert time.process_time() - begun < BOUND
    assert isinstance(verdict, Plan) or verdict.reason


@pytest.mark.parametrize(
    "line",
    [
        "X='$(id)'; echo $X; sh -c $X",
        "X=sudo; $X -c id",
        "X='sudo -c id'; $X",
        "X=/etc/passwd; cat $X",
        "X=..; cat $X/x",
        "X=/etc; cat < $X/passwd",
        "X=-exec; Y=sh; find . $X $Y {} +",
        "X='-delete'; find . $X",
        "X=rm; Y=-rf; $X $Y .",
        "PATH=.; ls",
        "export PATH=.; ls",
        "IFS=x; ls",
        "export LD_PRELOAD=x; ls",
        "HOME=/etc; cd; ls",
        "X=.git; echo x > $X/config",
        "CI=/etc/passwd; export CI",
        "export CI=$(id)",
        "CI=1 env LD_PRELOAD=x ls",
        "set -o noclobber",
        "set -- a",
        "exit 256",
        "exit ls",
        "cd -P /",
        "cd -",
        "cd /etc",
        "cd ../..",
        "(cd /etc)",
        "{ cat /etc/passwd; }",
        "! cat /etc/passwd",
        "true || cat /etc/passwd",
        "false && cat /etc/passwd",
        "exit; cat /etc/passwd",
        "cat <<E; sh\nE\n",
        "cat <<E\n$(id)\nE",
        "cat <<E\nE\nsudo -c id",
        "cat <<'E'\nE'\nE\nsudo -c id",
        "cat <<-E\n\tE\nsudo -c id",
        "cat # <<E\nsudo -c id\nE",
        "echo '#'; sudo -c id # x",
        "echo a#; sudo -c id",
        "ls \\\n; sudo -c id",
        "ls #\\\nsudo -c id",
        "cat /tmp/../etc/passwd",
        "cat /dev/null/../../etc/passwd",
        "cp /dev/null ../x",
        "echo x > /tmp/../x",
        "ls | xargs sh",
        "ls &> /etc/x",
        "ls >&2 > /etc/x",
        "{cat,/etc/passwd}",
        "cat {/etc,/srv}/passwd",
        "{sudo,-c,id}",
        "find . -name x -exec sudo -c id \\;",
    ],
)
def test_no_disguise_gets_through(line: str) -> None:
    verdict = admit(line, Scope(AGENT, Unseen(PurePosixPath("/srv/ws")), network=True), ".")
    assert isinstance(verdict, Decision), line
    assert verdict.hint
