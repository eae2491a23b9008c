"""The keys that payloads are encrypted with: AES-256-GCM, the first of them encrypts, all decrypt."""

import base64
import binascii
import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from typing import Final, Self

from service.errors import ConfigurationError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_VERSION: Final = "1"


class PayloadKeyMissing(Exception):
    """This process lacks the key of a payload. Another attempt, or another process, may have it."""


class AlteredCiphertext(Exception):
    """A ciphertext that was altered, or that belongs to another job type."""


class PayloadKeys:
    """Keys as `PAYLOAD_KEYS` lists them.

    Args:
        keys: 32 bytes each in base64, with `+/` or with `-_`; the first encrypts.

    Raises:
        ConfigurationError: one is not that.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys: Final = {_name_of(key): key for key in map(_decoded, keys)}

    @classmethod
    def parse(cls, text: str) -> Self:
        """The keys of a comma-separated list.

        Raises:
            ConfigurationError: one is not 32 bytes in base64.
        """
        return cls([key.strip() for key in text.split(",") if key.strip()])

    def __bool__(self) -> bool:
        return bool(self._keys)

    @property
    def names(self) -> list[str]:
        """Eight hex digits of each, made of the key, which tell nothing of it."""
        return list(self._keys)

    def encrypt(self, plain: bytes, *, bound_to: bytes) -> str:
        """The ciphertext, `1.<key>.<base64 of nonce and ciphertext>`; whole with `bound_to` alone.

        Raises:
            ConfigurationError: there is no key.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # by those who encrypt alone

        if not self._keys:
            raise ConfigurationError("PAYLOAD_KEYS is empty: payloads cannot be encrypted")
        name, key = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + AESGCM(key).encrypt(nonce, plain, bound_to)
        return f"{_VERSION}.{name}.{base64.b64encode(sealed).decode()}"

    def decrypt(self, ciphertext: object, *, bound_to: bytes) -> bytes:
        """What was encrypted.

        Raises:
            PayloadKeyMissing: by a key that is not here; it is named.
            AlteredCiphertext: it is none, was altered, or is bound to something else.
        """
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        version, _, rest = str(ciphertext).partition(".")
        name, _, text = rest.partition(".")
        if version != _VERSION:
            raise AlteredCiphertext("the ciphertext is of no version that this process knows")
        if (key := self._keys.get(name)) is None:
            known = ", ".join(self._keys) or "none"
            raise PayloadKeyMissing(
                f"the payload is encrypted with key {name[:20]!r}, and PAYLOAD_KEYS of this process has"
                f" {known}: add that key, then retry the job"
            )
        try:
            sealed = base64.b64decode(text, validate=True)
            return AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to)
        except (binascii.Error, ValueError, InvalidTag):
            raise AlteredCiphertext(
                "the ciphertext does not belong to this job: it was altered, or moved from another type"
            ) from None

    def digests(self, plain: bytes) -> list[bytes]:
        """A digest by each key: who has no key cannot try values until one fits."""
        return [hmac.digest(key, b"digest\0" + plain, "sha256") for key in self._keys.values()]


def _decoded(text: str) -> bytes:
    try:
        key = base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigurationError(
            f"PAYLOAD_KEYS: a key is not {KEY_BYTES} bytes in base64: make one with `openssl rand -base64 32`"
        )
    return key


def _name_of(key: bytes) -> str:
    return hashlib.sha256(b"finmind-jobs payload key\0" + key).hexdigest()[:8]


_own: PayloadKeys | None = None


def use_keys(keys: PayloadKeys) -> None:
    """Have this process encrypt and decrypt with these keys."""
    global _own  # noqa: PLW0603 - one a process, as its environment
    _own = keys


def payload_keys() -> PayloadKeys:
    """The keys of this process: those it uses, else `PAYLOAD_KEYS` of its environment.

    Raises:
        ConfigurationError: a key in the environment is not 32 bytes in base64.
    """
    if _own is None:
        use_keys(PayloadKeys.parse(os.environ.get("PAYLOAD_KEYS", "")))
    assert _own is not None
    return _own
