"""The hashing of passwords with the least work that argon2id knows, for tests and the servers that they start.

With the work that is shipped, a hash takes as long as a whole test. It is what tests of it have: the fixture
`shipped_password_work`, and hashes of `SHIPPED`, which say themselves how much work they are.
"""

from functools import cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from backend.accounts import credentials

SHIPPED, SHIPPED_NOBODY = credentials._argon2(), credentials._NOBODYS_HASH
LEAST = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))


def make_least() -> None:
    """From now on, in this process and its forks."""
    credentials._argon2 = cache(lambda: LEAST)
    credentials._NOBODYS_HASH = LEAST.hash("nobody has this password")


def make_shipped() -> None:
    """As it is without tests."""
    credentials._argon2 = cache(lambda: SHIPPED)
    credentials._NOBODYS_HASH = SHIPPED_NOBODY
