"""Public keys of the identity provider, fetched over HTTP and kept.

The provider is asked at most once per cool-down, by one request at a time, whatever key ids tokens
name: a flood of tokens with made-up key ids does not reach it. If it cannot be reached, the keys last
fetched stay valid, and a warning is logged.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx
import jwt

from service.errors import Unauthenticated, Unavailable
from service.observability.logging import get_logger
from service.observability.metrics import JWKS_FETCHES

FETCH_TIMEOUT_SECONDS: Final = 3.0
MAX_DOCUMENT_BYTES: Final = 262_144
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
"""NIST SP 800-131A: nothing smaller is acceptable for signatures."""

_ALGORITHM_OF: Final = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
"""The one algorithm that a key of each kind may verify: the token's header has no say in it."""

_log = get_logger(__name__)


class JwksFetchError(Exception):
    """The document could not be fetched, or is not a JWKS."""


class Jwks:
    """The keys at one URL, by key id."""

    def __init__(self, url: str, *, cache_seconds: float, cooldown_seconds: float) -> None:
        self._url = url
        self._cache_seconds = cache_seconds
        self._cooldown_seconds = cooldown_seconds
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at: float | None = None
        self._attempted_at: float | None = None
        self._fetching = asyncio.Lock()
        self._client = httpx.AsyncClient(
            follow_redirects=False, timeout=FETCH_TIMEOUT_SECONDS, trust_env=False
        )

    async def close(self) -> None:
        """Close the connections to the provider."""
        await self._client.aclose()

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """The key with this id; with None, the only key there is.

        Raises:
            Unauthenticated: the provider has no such key.
            Unavailable: no key has been fetched yet, and the provider does not answer.
        """
        key = self._find(key_id)
        if key is None or self._is_stale():
            # A known key need not wait for another request's fetch.
            if key is None or not self._fetching.locked():
                await self._refresh(key_id)
            key = self._find(key_id)
        if key is not None:
            return key
        if self._fetched_at is None:
            raise Unavailable(
                "The keys of the identity provider cannot be fetched just now",
                retry_after_seconds=max(1, round(self._cooldown_seconds)),
            )
        raise Unauthenticated("The token's key is not known", credential_given=True)

    def _find(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(key_id)

    def _is_stale(self) -> bool:
        return self._fetched_at is None or (
            time.monotonic() - self._fetched_at >= self._cache_seconds
        )

    async def _refresh(self, key_id: str | None) -> None:
        async with self._fetching:
            # Another request may have fetched what this one needs while it waited.
            if self._find(key_id) is not None and not self._is_stale():
                return
            now = time.monotonic()
            if self._attempted_at is not None and (
                now - self._attempted_at < self._cooldown_seconds
            ):
                return
            self._attempted_at = now
            try:
                self._keys = await self._fetch()
            except JwksFetchError as error:
                JWKS_FETCHES.labels("failed").inc()
                _log.warning(
                    "jwks_fetch_failed",
                    reason=str(error),
                    keys_kept=len(self._keys),
                    next_try_seconds=self._cooldown_seconds,
                )
            else:
                self._fetched_at = time.monotonic()
                JWKS_FETCHES.labels("ok").inc()
                _log.info("jwks_fetched", keys=len(self._keys))

    async def _fetch(self) -> dict[str | None, jwt.PyJWK]:
        try:
            # httpx bounds each read; the whole must be bounded as well.
            async with (
                asyncio.timeout(FETCH_TIMEOUT_SECONDS),
                self._client.stream("GET", self._url) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise JwksFetchError(f"status {response.status_code}, expected 200")
                document = bytearray()
                async for chunk in response.aiter_bytes():
                    document += chunk
                    if len(document) > MAX_DOCUMENT_BYTES:
                        raise JwksFetchError(f"longer than {MAX_DOCUMENT_BYTES} bytes")
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            raise JwksFetchError(type(error).__name__) from error
        return parse_jwks(bytes(document))


def parse_jwks(document: bytes) -> dict[str | None, jwt.PyJWK]:
    """The usable signature keys of a JWKS, by key id.

    Keys that are symmetric, weak, for encryption or of an unknown kind are left out: one odd key
    must not lock everybody out.

    Raises:
        JwksFetchError: it is not a JWKS, or holds no usable key.
    """
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise JwksFetchError("not JSON") from error
    entries = parsed.get("keys") if isinstance(parsed, dict) else None
    if not isinstance(entries, list):
        raise JwksFetchError("no list of `keys`")
    keys: dict[str | None, jwt.PyJWK] = {}
    for entry in entries[:MAX_KEYS]:
        key = _usable_key(entry) if isinstance(entry, Mapping) else None
        if key is not None:
            keys[key.key_id] = key
    if not keys:
        raise JwksFetchError("no usable RS256, ES256 or EdDSA key")
    return keys


def _usable_key(entry: Mapping[str, Any]) -> jwt.PyJWK | None:
    algorithm = _ALGORITHM_OF.get((str(entry.get("kty")), entry.get("crv")))
    if algorithm is None or entry.get("use", "sig") != "sig":
        return None
    if entry.get("alg", algorithm) != algorithm:
        return None
    if not isinstance(entry.get("kid"), str | None):
        return None
    try:
        key = jwt.PyJWK(dict(entry), algorithm=algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if algorithm == "RS256" and getattr(key.key, "key_size", 0) < MIN_RSA_BITS:
        return None
    return key
