"""Profiles of an administrator's folder: found by name, extending a shipped one, checked at startup."""

import re
from pathlib import Path, PurePosixPath

import pytest

from backend.core.decisions import Risk
from backend.core.policy.profile import Place, Profile, ProfileError
from backend.policies.loader import check_folder, load_profile, profile_names

PLACE = Place(PurePosixPath("/srv/ws"), PurePosixPath("/srv/ws"))
RULES = Path(__file__).parents[3] / "docs" / "rules.md"
MINE = """
extends = "terminal"
name = "mine"
summary = "More than the terminal."

[programs.rm]
summary = "Delete one file"
operands = "path"
risk = "moderate"

[programs.ls]
summary = "List files, plainly"

[extra.terraform]
summary = "Plan"
shapes = ['plan']
"""


def written(folder: Path, text: str, name: str = "mine") -> Path:
    (folder / f"{name}.toml").write_text(text)
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Profile:
    return load_profile("mine", written(tmp_path, MINE))


def test_a_profile_is_found_by_its_name(tmp_path: Path) -> None:
    folder = written(tmp_path, MINE)
    check_folder(folder)
    assert {"agent", "mine", "terminal"} <= set(profile_names(folder))
    assert load_profile("mine", folder).name == "mine"
    assert load_profile("terminal", folder).hash == load_profile("terminal").hash
    with pytest.raises(ProfileError, match=r"no profile 'other'; choose from agent, .*mine"):
        load_profile("other", folder)


def test_it_adds_to_the_profile_that_it_extends(mine: Profile) -> None:
    assert mine.decide(("cat", "a"), PLACE).allowed
    assert mine.decide(("ls", "-l"), PLACE).rule == "option.unlisted"
    decision = mine.decide(("rm", "a"), PLACE)
    assert (decision.allowed, decision.risk) == (True, Risk.MODERATE)
    assert mine.decide(("sudo", "ls"), PLACE).rule == "blocked.sudo"
    assert mine.decide(("cat", "../a"), PLACE).rule == "path.parent"
    assert mine.hash != load_profile("terminal").hash


def test_the_digest_is_also_that_of_the_profile_it_extends(tmp_path: Path, mine: Profile) -> None:
    other = load_profile("mine", written(tmp_path, MINE.replace('"terminal"', '"agent"')))
    assert other.hash != mine.hash


def test_an_extra_program_has_the_rules_of_the_profile(mine: Profile) -> None:
    refused = mine.decide(("terraform", "plan"), PLACE)
    assert refused.rule == "program.unlisted"
    assert "An administrator can add terraform to a project (allowed_extra), by the rules" in refused.hint
    extended = mine.with_extra(["terraform", "hugo"])
    planned = extended.decide(("terraform", "plan"), PLACE)
    assert (planned.allowed, planned.risk) == (True, Risk.SAFE)
    assert extended.decide(("terraform", "apply"), PLACE).rule == "option.unlisted"
    assert extended.decide(("hugo", "--minify"), PLACE).risk is Risk.MODERATE


def test_what_is_blocked_says_who_can_permit_it(mine: Profile) -> None:
    assert "GATEPOST_PROFILES" in mine.decide(("sudo", "ls"), PLACE).hint
    with pytest.raises(ProfileError, match="a profile of your own can list it"):
        mine.with_extra(["sudo"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINE.replace('summary = "Plan"', ""), "mine.toml: profile.extra.terraform.summary"),
        (MINE + "flags = 3", "mine.toml: profile.extra.terraform.flags"),
        (MINE.replace('terminal"', 'services"'), "mine.toml: profile.extends: must be one of agent"),
        (MINE.replace('"terminal"', "3"), "mine.toml: profile.extends: must be one of agent"),
        (MINE.replace('name = "mine"', 'name = "yours"'), "mine.toml: profile.name: must be 'mine'"),
        ("name = ", "mine.toml: Invalid value"),
        ("extends = 'agent'", "mine.toml: profile.name"),
        ("extends = 'agent'\nname = 'mine'\nsummary = ''\nprograms = 3", "mine.toml: profile.programs"),
    ],
)
def test_a_broken_file_is_named_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(said)):
        check_folder(written(tmp_path, text))


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff")
    with pytest.raises(ProfileError, match=r"mine\.toml: not UTF-8"):
        check_folder(tmp_path)


def test_a_shipped_profile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="agent is a shipped profile"):
        check_folder(written(tmp_path, MINE, "agent"))


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="missing: No such file"):
        check_folder(tmp_path / "missing")


def test_the_example_of_the_documentation_is_a_profile(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(extends.*?)```", RULES.read_text(), re.S)
    check_folder(written(tmp_path, example, "services"))
    services = load_profile("services", tmp_path).with_extra(["terraform"])
    assert services.decide(("docker", "logs", "web"), PLACE).risk is Risk.MODERATE
    assert services.decide(("docker", "rm", "web"), PLACE).rule == "option.unlisted"
    assert services.decide(("terraform", "plan"), PLACE).allowed
