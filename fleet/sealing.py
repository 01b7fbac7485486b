"""Secrets at rest: MAC keys, broker secrets and enrolment answers are stored only sealed.

AES-256-GCM under a key that scrypt derives from the installation's passphrase (`FLEET_KEY_PASSPHRASE` or
`FLEET_KEY_PASSPHRASE_FILE`).
A sealed value is `version (1) ‖ nonce (12) ‖ ciphertext and tag`; the purpose is authenticated, so one
secret cannot stand in for another.
"""

import functools
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

_VERSION = b"\x01"


class SealError(Exception):
    """A sealed value cannot be made or opened. `code`: `passphrase_missing` or `passphrase_wrong`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


@functools.lru_cache(maxsize=4)
def _key(passphrase: str) -> bytes:
    # One salt for an installation: the passphrase is random and long in production; scrypt slows down
    # guessing a weak one.
    kdf = Scrypt(salt=b"tinyfleet sealing v1", length=32, n=2**14, r=8, p=1)
    return kdf.derive(passphrase.encode())


def seal(secret: bytes, *, purpose: str, passphrase: str) -> bytes:
    """Encrypt `secret` for storage. Raises SealError `passphrase_missing` when the passphrase is empty."""
    if not passphrase:
        raise SealError("passphrase_missing", "set FLEET_KEY_PASSPHRASE or FLEET_KEY_PASSPHRASE_FILE")
    nonce = secrets.token_bytes(12)
    return _VERSION + nonce + AESGCM(_key(passphrase)).encrypt(nonce, secret, purpose.encode())


def unseal(sealed: bytes, *, purpose: str, passphrase: str) -> bytes:
    """Decrypt a stored secret.

    Raises SealError `passphrase_missing`, or `passphrase_wrong` when passphrase or purpose differ or the
    bytes were changed.
    """
    if not passphrase:
        raise SealError("passphrase_missing", "set FLEET_KEY_PASSPHRASE or FLEET_KEY_PASSPHRASE_FILE")
    sealed = bytes(sealed)
    if len(sealed) < 29 or sealed[:1] != _VERSION:
        raise SealError("passphrase_wrong", "not a sealed value of this version")
    try:
        return AESGCM(_key(passphrase)).decrypt(sealed[1:13], sealed[13:], purpose.encode())
    except InvalidTag:
        raise SealError(
            "passphrase_wrong", "the passphrase does not open this value, or the value was changed"
        ) from None
