"""The chain of a test database: what it says, and what somebody with the database in hand can do to it."""

from typing import Any

from sqlalchemy import delete, select, update

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.audit.chain import Anchor, TrustedKey, Verification
from backend.storage.audit_chain import Chain
from backend.storage.database import Database, first
from backend.storage.tables import audit_events, audit_head

SIGNER = Signer(new_signing_key())


def trust(signer: Signer) -> TrustedKey:
    return TrustedKey(signer.public, verify_signature)


async def verify(database: Database, *anchors: Anchor) -> Verification:
    return await Chain(database).verify(trust(SIGNER), anchors)


async def whole(database: Database) -> Verification:
    """The verdict, which has to be good."""
    verdict = await verify(database)
    assert verdict.problem == ""
    return verdict


async def bodies(database: Database) -> list[dict[str, Any]]:
    return [link.content async for link in Chain(database).links()]


async def change(database: Database, *statements: Any) -> None:
    """What somebody with the database in hand can do."""
    await database.write(lambda connection: [connection.execute(statement).rowcount for statement in statements])


EVENT = audit_events.c


def at(seq: int) -> Any:
    return update(audit_events).where(EVENT.seq == seq)


async def saved(database: Database) -> Any:
    return await database.read(first(select(audit_head)))


def end_of(head: Any) -> Anchor:
    """Where the chain ended when a row of the head was saved."""
    return Anchor(head.end_seq or head.seq, bytes(head.end_hash or head.hash))


async def cut_back(database: Database, head: Any) -> None:
    await change(
        database,
        delete(audit_events).where(EVENT.seq > end_of(head).seq),
        update(audit_head).values(**dict(head._mapping)),
    )
