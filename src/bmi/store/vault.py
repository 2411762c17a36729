"""Secrets that must be read again (BMC passwords, CHAP secrets), sealed before they reach the database."""

import hashlib
import hmac
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from bmi.errors import ConfigError


class Vault:
    """Seals and opens text with one key. A database dump alone gives nothing away."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)
        self._derivation_key = hashlib.sha256(b"derive" + key).digest()

    @classmethod
    def at(cls, path: Path) -> "Vault":
        """The vault whose key is in `path`; made (mode 0600) when there is none. Raises ConfigError."""
        if not path.exists():
            _make_key(path)
        try:
            return cls(path.read_bytes())
        except ValueError as error:
            raise ConfigError(
                f"{path} does not hold a key.",
                remedy="Restore it from a backup: it opens the stored secrets.",
            ) from error

    def derive(self, text: str) -> str:
        """32 hexadecimal digits that nobody without the key can compute from `text`."""
        return hmac.new(self._derivation_key, text.encode(), hashlib.sha256).hexdigest()[:32]

    def seal(self, secret: str) -> str:
        """The secret as text that only this vault can open; an empty secret stays empty."""
        return self._fernet.encrypt(secret.encode()).decode() if secret else ""

    def open(self, sealed: str) -> str:
        """The secret again; raises ConfigError when it was sealed with another key."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode() if sealed else ""
        except InvalidToken as error:
            raise ConfigError(
                "A stored secret cannot be opened with this installation's key.",
                remedy="Restore the file `secrets.key` that belongs to this database.",
            ) from error


def _make_key(path: Path) -> None:
    """The file appears whole, whenever we die, and of two that make it at once one wins."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name) as file:  # mode 0600
        file.write(Fernet.generate_key())
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)
