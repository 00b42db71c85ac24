"""How sensitive parameters are encrypted for a host: Fernet, with a key derived from the shared secret."""

import base64
import hashlib
from functools import cached_property
from typing import TYPE_CHECKING

from backend.core.errors import needed

if TYPE_CHECKING:  # imported for the first parameter: most processes encrypt none
    from cryptography.fernet import Fernet

# What is masked of a line that contains a sensitive parameter: everything behind its name, however it is quoted. Each is a
# plain sequence, so that lines without it are ruled out at once.
SENSITIVE_PATTERNS = (r"password:?=(?P<secret>.+)", r"ssh_passphrase:?=(?P<secret>.+)")


class ParameterCipher:
    """Encrypts and decrypts the sensitive parameters of commands with the secret of a host."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @cached_property
    def _fernet(self) -> "Fernet":
        with needed("Sensitive parameters"):
            from cryptography.fernet import Fernet

        return Fernet(base64.urlsafe_b64encode(hashlib.sha256(self._secret.encode()).digest()))

    def encrypt(self, text: str) -> str:
        """The text as a token."""
        return self._fernet.encrypt(text.encode()).decode()

    def seal(self, text: str) -> str:
        """The text as a token; a token of this secret as it is."""
        try:
            self.decrypt(text)
        except ValueError:
            return self.encrypt(text)
        return text

    def decrypt(self, token: str) -> str:
        """The text in a token. Raises ValueError if it was not encrypted with this secret."""
        fernet = self._fernet
        from cryptography.fernet import InvalidToken

        try:
            return fernet.decrypt(token.encode()).decode()
        except InvalidToken:
            raise ValueError("not encrypted with this secret") from None
