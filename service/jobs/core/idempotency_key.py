"""The name that a client gives a request, so that repeating it enqueues nothing twice."""

import hashlib
import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A request's name, chosen by its owner, and what it asks for.

    Two digests are kept. One is of the body as this version's model reads it, with defaults filled
    in; the version before knows no other. The second is of what the client sent, which another
    version's defaults do not change. It covers the first: when a process of the version before
    takes over an expired key, it writes the first alone, and the second no longer fits it.
    """

    owner: str
    key: str
    body_hash: bytes
    sent: bytes
    earlier: tuple["IdempotencyKey", ...] = ()
    """The same request, where what is encrypted of it is digested by keys that no longer encrypt."""

    @classmethod
    def of(cls, sent: object, *, model: object, owner: str, key: str) -> "IdempotencyKey":
        """The key of a request with the JSON body `sent`, however its members are ordered."""
        body_hash = hashlib.sha256(_canonical(model)).digest()
        return cls(owner, key, body_hash, _canonical(sent))

    @property
    def request_hash(self) -> bytes:
        """The digest of what the client sent."""
        return self._hash_beside(self.body_hash)

    def names(self, body_hash: bytes, request_hash: bytes | None) -> bool:
        """Whether the request with these digests is this one."""
        if any(one.names(body_hash, request_hash) for one in self.earlier):
            return True
        return request_hash == self._hash_beside(body_hash) or body_hash == self.body_hash

    def _hash_beside(self, body_hash: bytes) -> bytes:
        return hashlib.sha256(body_hash + self.sent).digest()


def _canonical(body: object) -> bytes:
    # Escaped to ASCII, so that a lone surrogate is refused later, with words.
    return json.dumps(body, sort_keys=True, separators=(",", ":"), default=str).encode()
