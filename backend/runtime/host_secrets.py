"""How sensitive parameters are encrypted for a host: Fernet, with a key derived from the shared secret."""

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken


class ParameterCipher:
    """Encrypts and decrypts the sensitive parameters of commands with the secret of a host."""

    def __init__(self, secret: str) -> None:
        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()))

    def encrypt(self, text: str) -> str:
        """The text as a token."""
        return self._fernet.encrypt(text.encode()).decode()

    def decrypt(self, token: str) -> str:
        """The text in a token. Raises ValueError if it was not encrypted with this secret."""
        try:
            return self._fernet.decrypt(token.encode()).decode()
        except InvalidToken:
            raise ValueError("not encrypted with this secret") from None
