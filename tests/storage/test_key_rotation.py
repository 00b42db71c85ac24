"""The key of the audit changes while servers write."""

import asyncio
import shutil
from pathlib import Path

import pytest
from sqlalchemy import update

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.audit.chain import TrustedKey
from backend.core.errors import KeyFileError, StorageError
from backend.storage.audit_chain import Chain
from backend.storage.database import Database
from backend.storage.tables import audit_head
from tests.storage.chains import change, cut_back, saved, verify
from tests.storage.writing import (
    attempt,
    change_key,
    ledger_of,
    opened,
    store,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "folder"
    path.mkdir()
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_servers_of_the_folder_follow_another_key(new_url: str, database: Database, folder: Path) -> None:
    first, second = (ledger_of(Database(new_url), opened(folder)) for _ in range(2))
    old = first.queue.context.keys.current
    await asyncio.gather(first.audit.prepare(), second.audit.prepare())
    for ledger in (first, second, first):
        await ledger.executions.open(attempt())
    for _ in range(2):
        await change_key(database, opened(folder))
        for ledger in (first, second, first):
            await ledger.executions.open(attempt())
    new = opened(folder).current
    for each in (old, new):
        verdict = await Chain(database).verify(TrustedKey(each.public, verify_signature))
        assert (verdict.problem, verdict.events, verdict.rotations) == ("", 3 * 3 * 2 + 2, (7, 14))
    assert names(folder) == ["audit.key", "audit.pub"]
    assert (folder / "audit.pub").read_bytes() == new.public_pem != old.public_pem
    assert (folder / "audit.key").stat().st_mode & 0o777 == 0o600
    assert (await verify(database)).problem.startswith("the signature of the head is wrong"), "a key of no event"
    for ledger in (first, second):
        await ledger.queue.database.close()


@pytest.mark.parametrize("moved", [False, True])
async def test_a_change_that_was_interrupted_is_the_old_or_the_new_state(
    database: Database, folder: Path, moved: bool
) -> None:
    keys = opened(folder)
    old, ledger = keys.current, ledger_of(database, keys)
    await ledger.audit.prepare()
    await ledger.executions.open(attempt())
    successor = keys.successor(new_signing_key)
    if moved:
        await ledger_of(database, opened(folder)).audit.rotate_key(successor, "cli:root")
    assert names(folder) == ["audit.key", "audit.key.next", "audit.pub"]
    later = ledger_of(database, opened(folder))
    await later.audit.prepare()
    await later.executions.open(attempt())
    await ledger.executions.open(attempt())
    signing = successor if moved else old
    assert opened(folder).current.public == signing.public
    assert (folder / "audit.pub").read_bytes() == signing.public_pem
    assert ("audit.key.next" in names(folder)) is not moved
    for each in (old, signing):
        assert (await Chain(database).verify(TrustedKey(each.public, verify_signature))).problem == ""
    await change_key(database, opened(folder))
    assert names(folder) == ["audit.key", "audit.pub"]
    assert (opened(folder).current.public == successor.public) is not moved, "the key that lay ready is taken"


async def test_a_server_on_another_folder_writes_nothing_until_it_has_the_key(
    database: Database, folder: Path, tmp_path: Path
) -> None:
    keys = opened(folder)
    (tmp_path / "other").mkdir()
    (tmp_path / "staged").mkdir()
    for name in ("other", "staged"):
        shutil.copy(folder / "audit.key", tmp_path / name)
    other, staged = (ledger_of(database, opened(tmp_path / name)) for name in ("other", "staged"))
    await other.audit.prepare()
    keys.successor(new_signing_key)
    shutil.copy(keys.beside, tmp_path / "staged")
    await change_key(database, keys)
    await staged.executions.open(attempt())
    assert names(tmp_path / "staged") == ["audit.key", "audit.pub"], "what lay ready has its name"
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await other.executions.open(attempt())
    shutil.copy(folder / "audit.key", tmp_path / "other")
    await other.executions.open(attempt())
    verdict = await Chain(database).verify(TrustedKey(keys.current.public, verify_signature))
    assert (verdict.problem, verdict.events) == ("", 1 + 2 * 2)


async def test_the_older_key_signs_nothing_after_the_change(database: Database, folder: Path) -> None:
    keys = opened(folder)
    thief = store(database, Signer((folder / "audit.key").read_bytes()))
    await thief.audit.prepare()
    await thief.executions.open(attempt())
    before = await saved(database)
    old = keys.current
    await change_key(database, keys)
    with pytest.raises(StorageError, match="not signed with this server's key"):
        await thief.executions.open(attempt("rm -rf /"))
    head = (await Chain(database).head()).head  # type: ignore[union-attr]
    await change(database, update(audit_head).values(signature=old.sign(head.statement())))
    for each in (old, keys.current):
        verdict = await Chain(database).verify(TrustedKey(each.public, verify_signature))
        assert verdict.problem.startswith("the signature of the head is wrong")
    ours = ledger_of(database, opened(folder))
    for _ in range(2):
        with pytest.raises(StorageError, match="not signed with this server's key"):
            await ours.audit.prepare()
        await cut_back(database, before)
    new = await Chain(database).verify(TrustedKey(keys.current.public, verify_signature))
    assert new.problem.startswith("the signature of the head is wrong")


async def test_one_changes_the_key_at_a_time(folder: Path) -> None:
    one, two = opened(folder), opened(folder)
    with one.changing(), pytest.raises(KeyFileError, match="Another process is rotating the key"), two.changing():
        pass
    with two.changing():
        shutil.copy(one.path, one.beside)
        with pytest.raises(KeyFileError, match="in use"):
            one.successor(new_signing_key)
