"""Checks the head of a request first: its method, and headers that servers could read differently."""

from typing import Final

from starlette.exceptions import HTTPException
from starlette.types import Scope

METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"}
)
"""Others are refused before they become a label of a metric."""

SINGLE: Final = frozenset(
    {b"host", b"content-length", b"content-type", b"content-encoding", b"idempotency-key"}
)
"""Headers that mean something once. Credentials are counted where they are looked at: 401."""


class HeadRefused(HTTPException):
    """The head of a request breaks a rule of HTTP, or asks for what is not served."""


def declared_length(scope: Scope) -> int | None:
    """The declared bytes of the body: 0 if its length is not declared, None if there is no body.

    Raises:
        HeadRefused: the head declares it twice, or in a way that is not supported.
    """
    if scope["method"] not in METHODS:
        raise HeadRefused(501, "This HTTP method is not known")
    found, codings = _of_interest(scope["headers"])
    if b"host" not in found and scope["http_version"] == "1.1":
        raise HeadRefused(400, "The header Host is missing: HTTP/1.1 asks for it")
    length = _length(found.get(b"content-length"))
    if codings:
        if [coding.strip().lower() for coding in codings] != [b"chunked"]:
            raise HeadRefused(501, "The only supported transfer coding is `chunked`")
        length = 0
    if length is not None and found.get(b"content-encoding", b"identity").lower() != b"identity":
        raise HeadRefused(415, "Send the body as it is, without Content-Encoding")
    return length


def _of_interest(
    headers: list[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], list[bytes]]:
    """The single headers, and the transfer codings."""
    found: dict[bytes, bytes] = {}
    codings: list[bytes] = []
    for name, value in headers:
        if name in SINGLE:
            if name in found:
                label = name.decode().title()
                raise HeadRefused(400, f"The header {label} was sent twice: send it once")
            found[name] = value
        elif name == b"transfer-encoding":
            codings.append(value)
    return found, codings


def _length(value: bytes | None) -> int | None:
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise HeadRefused(400, "Content-Length is not a number of bytes")
    return int(value) or None
