"""Which management commands may run, with which arguments."""

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ALLOWED_COMMANDS = (
    "migrate",
    "showmigrations",
    "dbbackup",
    "createcachetable",
    "collectstatic",
    "findstatic",
    "clearsessions",
    "check",
    "diffsettings",
    "inspectdb",
    "sendtestemail",
    "sqlmigrate",
    "sqlsequencereset",
    "dumpdata",
    "compilemessages",
    "test",
    "show_urls",
    "validate_templates",
    "list_signals",
    "notes",
    "show_template_tags",
    "graph_models",
    "pipchecker",
    "clear_cache",
    "health_check",
    "silk_clear_request_log",
    "fixtree",
    "publish_scheduled",
    "rebuild_references_index",
    "search_garbage_collect",
    "update_index",
    "rebuild_index",
    "clear_index",
)
DEFAULT_DISALLOWED_COMMANDS = (
    "flush",
    "sqlflush",
    "reset_db",
    "dbrestore",
    "loaddata",
    "shell",
    "shell_plus",
    "dbshell",
    "runserver",
    "runserver_plus",
    "testserver",
    "createsuperuser",
    "changepassword",
    "makemigrations",
    "squashmigrations",
    "drop_test_database",
    "delete_squashed_migrations",
    "clean_pyc",
)
OWN = "gatepost"  # the command of the runner, which is no command for a server
SHORT_OPTIONS = re.compile(r"-[^-]\w*")
IMPORTING = ("--settings", "--pythonpath")  # they import any module


@dataclass(frozen=True)
class Commands:
    """With `blocklist`, all but `disallowed` may run; else only `allowed`: none if it is empty."""

    allowed: tuple[str, ...] = DEFAULT_ALLOWED_COMMANDS
    disallowed: tuple[str, ...] = DEFAULT_DISALLOWED_COMMANDS
    blocklist: bool = False

    def is_command_allowed(self, name: str) -> tuple[bool, str]:
        """Whether a command may run, and why not."""
        if name == OWN:
            return False, f"`{OWN}` is the runner itself."
        if self.blocklist:
            refused = name in self.disallowed
            return not refused, f"`{name}` is in GATEPOST_DISALLOWED_COMMANDS." if refused else ""
        allowed = name in self.allowed
        return allowed, "" if allowed else f"`{name}` is not in GATEPOST_ALLOWED_COMMANDS; add it there to run it."


@dataclass(frozen=True)
class Rejected:
    """A command that does not run."""

    reason: str


def judged(commands: Commands, known: Collection[str], name: str, arguments: str, root: Path) -> list[str] | Rejected:
    """The words that follow `manage.py`, if the command and its arguments may run; `known` are those of the project."""
    allowed, why = commands.is_command_allowed(name)
    if not allowed:
        return Rejected(why)
    if name not in known:
        return Rejected(f"This project has no command `{name}`; `manage.py help` lists those that it has.")
    try:
        words = shlex.split(arguments)
    except ValueError as error:
        return Rejected(f"The arguments cannot be read: {error}. Close the quotes.")
    refused = refused_argument(words, root)
    return Rejected(refused) if refused else [name, *words]


def refused_argument(words: list[str], root: Path) -> str | None:
    """Why the arguments of a command are refused: an option that imports, or a path outside of `root`."""
    return next((why for word in words if (why := _refused(word, root.resolve()))), None)


def _refused(word: str, root: Path) -> str | None:
    option = word.split("=", 1)[0]
    if len(option) > 2 and any(each.startswith(option) for each in IMPORTING):
        return f"`{option}` can import any module of this machine; leave it out."
    if any(_leads_out(value, root) for value in _values(word)):
        return f"`{word}` leads out of the folder of manage.py; name a path in it, as a word of its own."
    return None


def _values(word: str) -> list[str]:
    """What may be a path in a word: `path`, `--output=path`, `-opath`, `-aopath` with two options in one."""
    options = SHORT_OPTIONS.match(word)
    attached = [word[begin:] for begin in range(2, options.end() + 1)] if options else []
    return [word, *word.split("=", 1)[1:], *attached]


def _leads_out(value: str, root: Path) -> bool:
    if value.startswith("~") or "\0" in value:
        return True
    try:
        return not (root / value).resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a name that is too long, links in a circle
        return True
