"""Which projects exist for a caller, and which of them it may change."""

from backend.application.owned import is_owner
from backend.core.decisions import Decision
from backend.core.execution.refusals import unknown_project
from backend.core.identity import Permission, Principal, Project
from backend.core.ports import Projects


async def find(who: Principal, id: str, projects: Projects) -> Project | Decision:
    """A project that exists for the caller. Raises StorageError."""
    found = await projects.get(id)
    return found if found and found.is_open_to(who) else unknown_project(id)


def may_change(who: Principal, project: Project) -> bool:
    """Whether the caller may change a project that exists for it: its own, or any for an administrator."""
    mine = who.may(Permission.ADMIN) or is_owner(who, project)
    return mine and who.may(Permission.EXECUTE)


async def find_own(who: Principal, id: str, projects: Projects) -> Project | Decision:
    """A project that the caller may change. Raises StorageError."""
    found = await find(who, id, projects)
    if isinstance(found, Decision) or may_change(who, found):
        return found
    return Decision.deny("role.forbidden", "Only its owner and administrators can change a project.")
