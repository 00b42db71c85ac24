"""Our own signature: what it is of, and which keys there are."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from backend.accounts.signatures import Signer, new_signing_key, read_public_key, verify_signature


def test_a_signature_is_of_one_key_and_one_text() -> None:
    signer, other = Signer(new_signing_key()), Signer(new_signing_key())
    signature = signer.sign(b"data")
    assert len(signature) == 64
    assert read_public_key(signer.public_pem) == signer.public
    assert verify_signature(signer.public, b"data", signature)
    assert not verify_signature(signer.public, b"date", signature)
    assert not verify_signature(signer.public, b"data", signature[:-1])
    assert not verify_signature(other.public, b"data", signature)


def test_only_ed25519_signs() -> None:
    pem = (
        rsa.generate_private_key(65537, 2048).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    for bad in (b"", b"key", pem):
        with pytest.raises(ValueError):
            Signer(bad)
        with pytest.raises(ValueError):
            read_public_key(bad)
        assert not verify_signature(bad, b"", b"")
