"""From the headers of a request to its principal."""

import asyncio
import contextlib
import math
from collections.abc import Sequence
from typing import Final

from service.auth.api_keys import ApiKeyStore, looks_like_key
from service.auth.failures import FailedSignIns
from service.auth.principal import Principal
from service.auth.tokens import TokenVerifier
from service.db.engine import Database
from service.errors import TooManyFailures, Unauthenticated
from service.observability.metrics import AUTH_FAILURES
from service.settings import Settings

MAX_HEADER_CHARACTERS: Final = 8300


class Authenticator:
    """Reads bearer tokens and API keys; `.api_keys` manages the latter."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.tokens = TokenVerifier(settings)
        self.api_keys = ApiKeyStore(database, timeout_seconds=settings.query_timeout_seconds)
        self._failures = FailedSignIns(settings.failed_sign_ins_per_minute)
        self._one_at_a_time = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections of both."""
        await self.tokens.close()
        await self.api_keys.close()

    async def authenticate(
        self,
        authorization: Sequence[str],
        api_key: Sequence[str] = (),
        *,
        source: str | None = None,
    ) -> Principal:
        """The principal behind the values of `Authorization` and `X-API-Key`.

        Exactly one credential must be given: with two it would be unclear whose rights count.
        `source` is the address that it came from. A valid credential is accepted from any source.

        Raises:
            Unauthenticated: none, more than one, or one that is not valid.
            TooManyFailures: it is not valid, like too many from this source before.
            Unavailable: the identity provider cannot be reached.
        """
        try:
            return await self._authenticate(authorization, api_key, source)
        except Unauthenticated as error:
            AUTH_FAILURES.labels("refused" if error.credential_given else "missing").inc()
            if error.credential_given and source is not None:
                self._note_failure(source, error)
            raise

    def _note_failure(self, source: str, error: Unauthenticated) -> None:
        self._failures.note(source)
        wait = self._failures.wait_seconds(source)
        if wait > 0:
            AUTH_FAILURES.labels("limited").inc()
            raise TooManyFailures(
                "Too many credentials from your address were refused, this one included",
                retry_after_seconds=math.ceil(wait),
            ) from error

    async def _authenticate(
        self, authorization: Sequence[str], api_key: Sequence[str], source: str | None
    ) -> Principal:
        given = len(authorization) + len(api_key)
        if given == 0:
            raise Unauthenticated(
                "No credential: send `Authorization: Bearer <token>` or `X-API-Key: <key>`"
            )
        if given > 1:
            raise Unauthenticated("More than one credential was sent", credential_given=True)
        if api_key:
            return await self._verify_key(api_key[0], source)
        if len(authorization[0]) > MAX_HEADER_CHARACTERS:
            raise Unauthenticated("The credential is too long", credential_given=True)
        scheme, _, credential = authorization[0].partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("Expected `Authorization: Bearer <token>`")
        if looks_like_key(credential):
            return await self._verify_key(credential, source)
        return await self.tokens.verify(credential)

    async def _verify_key(self, key: str, source: str | None) -> Principal:
        # All look-ups share one connection: a source that floods it with wrong keys gets one look-up at
        # a time, so that nobody else waits for more than one of them.
        suspect = source is not None and self._failures.wait_seconds(source) > 0
        async with self._one_at_a_time if suspect else contextlib.nullcontext():
            return await self.api_keys.verify(key)
