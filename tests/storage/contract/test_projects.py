"""Projects: in memory and on both databases."""

import asyncio
from dataclasses import replace

import pytest

from backend.core.identity import Role, User
from backend.core.ports import Projects
from tests.storage.conftest import START
from tests.storage.contract.test_identities import BAD_IDS, Identities, added


@pytest.fixture
async def people(identities: Identities) -> dict[str, User]:
    """Accounts by their names; root is an administrator."""
    roles = {"ann": Role.OPERATOR, "bob": Role.VIEWER, "root": Role.ADMIN}
    return {name: await added(identities, name, role) for name, role in roles.items()}


async def test_a_project_comes_back_as_it_was_added(projects: Projects, people: dict[str, User]) -> None:
    plain = await projects.add(" Blog ", people["ann"].id)
    full = await projects.add("Shop ä", people["ann"].id, "build", ("npm", 'a"b'), network=True, metadata_only=True)
    assert (plain.name, plain.profile, plain.allowed_extra, plain.network) == ("Blog", "agent", (), False)
    assert (full.allowed_extra, full.network, full.metadata_only, full.created_ms) == (
        ("npm", 'a"b'),
        True,
        True,
        START,
    )
    assert await projects.get(plain.id) == plain
    assert await projects.get(full.id) == full


async def test_its_network_is_off_on_or_a_list(projects: Projects, people: dict[str, User]) -> None:
    hosts = ("*.example.org:443", "[fd00::]:443")
    project = await projects.add("shop", people["ann"].id, network=hosts)
    assert project.network == hosts
    assert await projects.get(project.id) == project
    for access, stored in ((True, True), (hosts[:1], hosts[:1]), (False, False), (hosts, hosts), ((), False)):
        assert await projects.change(project.id, network=access) == replace(project, network=stored)
        assert await projects.change(project.id, name="shop") == replace(project, network=stored)
    assert (await projects.add("bare", people["ann"].id, network=())).network is False


async def test_each_sees_their_own(projects: Projects, people: dict[str, User]) -> None:
    ann, bob, root = people.values()
    first = await projects.add("first", ann.id)
    second = await projects.add("second", bob.id)
    joint = await projects.change(first.id, members=frozenset({bob.id}))
    assert joint == replace(first, members=frozenset({bob.id}))
    assert await projects.visible_to(ann) == [joint]
    assert await projects.visible_to(bob) == [joint, second]
    assert await projects.visible_to(root) == [joint, second]
    await projects.change(first.id, members=frozenset())
    assert await projects.visible_to(bob) == [second]


async def test_only_what_is_given_changes(projects: Projects, people: dict[str, User]) -> None:
    project = await projects.add("shop", people["ann"].id, "build", ("npm",), network=True)
    other = await projects.add("other", people["ann"].id)
    assert await projects.change(project.id) == project
    changed = await projects.change(project.id, name="store", network=False, allowed_extra=())
    assert changed == replace(project, name="store", network=False, allowed_extra=())
    changed = await projects.change(project.id, profile="agent", metadata_only=True)
    assert changed == replace(
        project, name="store", network=False, allowed_extra=(), profile="agent", metadata_only=True
    )
    assert await projects.get(other.id) == other


async def test_the_owner_is_no_member(projects: Projects, people: dict[str, User]) -> None:
    ann, bob, _ = people.values()
    project = await projects.add("shop", ann.id)
    assert await projects.change(project.id, members=frozenset({ann.id, bob.id})) == replace(
        project, members=frozenset({bob.id})
    )


@pytest.mark.parametrize("id", BAD_IDS)
async def test_an_unknown_member_changes_nothing(projects: Projects, people: dict[str, User], id: str) -> None:
    ann, bob, _ = people.values()
    project = await projects.add("shop", ann.id)
    with pytest.raises(ValueError, match="no such user"):
        await projects.change(project.id, name="store", members=frozenset({bob.id, id}))
    with pytest.raises(ValueError, match="no such user"):
        await projects.add("shop", id)
    assert await projects.get(project.id) == project


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "x" * 101])
async def test_a_bad_name_is_refused(projects: Projects, people: dict[str, User], name: str) -> None:
    project = await projects.add("shop", people["ann"].id)
    with pytest.raises(ValueError):
        await projects.add(name, people["ann"].id)
    with pytest.raises(ValueError):
        await projects.change(project.id, name=name)
    assert await projects.visible_to(people["ann"]) == [project]


async def test_a_deleted_project_is_gone(projects: Projects, people: dict[str, User]) -> None:
    project = await projects.add("shop", people["ann"].id)
    assert await projects.delete(project.id)
    assert not await projects.delete(project.id)
    assert await projects.get(project.id) is None
    assert await projects.change(project.id, name="store") is None
    assert await projects.visible_to(people["root"]) == []


@pytest.mark.parametrize("id", BAD_IDS)
async def test_a_project_that_never_was(projects: Projects, people: dict[str, User], id: str) -> None:
    await projects.add("shop", people["ann"].id)
    assert await projects.get(id) is None
    assert await projects.change(id, name="store") is None
    assert not await projects.delete(id)


async def test_changes_at_once_come_one_after_the_other(projects: Projects, people: dict[str, User]) -> None:
    ann, bob, root = people.values()
    project = await projects.add("shop", ann.id)
    teams = [frozenset({bob.id}), frozenset({root.id}), frozenset({bob.id, root.id})] * 4
    results = await asyncio.gather(*(projects.change(project.id, members=team) for team in teams))
    assert [result and result.members for result in results] == teams
    left = await projects.get(project.id)
    assert left
    assert left.members in teams
