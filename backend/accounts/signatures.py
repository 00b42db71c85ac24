"""Our own signature, that of the audit. What only signs does without the libraries of passwords and access tokens."""

import hmac

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)


class Signer:
    """Signs with an Ed25519 key; a signature has 64 bytes."""

    def __init__(self, private_key_pem: bytes) -> None:
        """Raises ValueError for what is no Ed25519 private key in PEM."""
        key = load_pem_private_key(private_key_pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the signing key must be an Ed25519 key")
        self._key = key
        self._mac_key = hmac.digest(key.private_bytes_raw(), b"gatepost audit mac", "sha256")

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data)

    def mac(self, data: bytes) -> bytes:
        """A MAC of 32 bytes, which needs the key to be verified, and a hundredth of the time of a signature."""
        return hmac.digest(self._mac_key, data, "sha256")

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    @property
    def public_pem(self) -> bytes:
        """What others verify with."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def new_signing_key() -> bytes:
    """A new Ed25519 private key, as PEM."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_public_key(pem: bytes) -> bytes:
    """The 32 bytes of a public key in PEM. Raises ValueError for what is no Ed25519 public key."""
    key = load_pem_public_key(pem)
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("the public key must be an Ed25519 key")
    return key.public_bytes_raw()


def verify_signature(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether the signature is that of the public key over the data; False for what is no key too."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
