"""From the headers of a request to its principal."""

from collections.abc import Sequence
from typing import Final

from service.auth.api_keys import ApiKeyStore, looks_like_key
from service.auth.principal import Principal
from service.auth.tokens import TokenVerifier
from service.db.engine import Database
from service.errors import Unauthenticated
from service.observability.metrics import AUTH_FAILURES
from service.settings import Settings

MAX_HEADER_CHARACTERS: Final = 8300


class Authenticator:
    """Reads bearer tokens and API keys; `.api_keys` manages the latter."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.tokens = TokenVerifier(settings)
        self.api_keys = ApiKeyStore(database, timeout_seconds=settings.query_timeout_seconds)

    async def close(self) -> None:
        """Close the connections of both."""
        await self.tokens.close()
        await self.api_keys.close()

    async def authenticate(
        self, authorization: Sequence[str], api_key: Sequence[str] = ()
    ) -> Principal:
        """The principal behind the values of `Authorization` and `X-API-Key`.

        Exactly one credential must be given: with two it would be unclear whose rights count.

        Raises:
            Unauthenticated: none, more than one, or one that does not hold.
            Unavailable: the identity provider cannot be reached.
        """
        try:
            return await self._authenticate(authorization, api_key)
        except Unauthenticated as error:
            AUTH_FAILURES.labels("refused" if error.credential_given else "missing").inc()
            raise

    async def _authenticate(
        self, authorization: Sequence[str], api_key: Sequence[str]
    ) -> Principal:
        given = len(authorization) + len(api_key)
        if given == 0:
            raise Unauthenticated(
                "No credential: send `Authorization: Bearer <token>` or `X-API-Key: <key>`."
            )
        if given > 1:
            raise Unauthenticated("More than one credential was sent.", credential_given=True)
        if api_key:
            return await self.api_keys.verify(api_key[0])
        if len(authorization[0]) > MAX_HEADER_CHARACTERS:
            raise Unauthenticated("The credential is too long.", credential_given=True)
        scheme, _, credential = authorization[0].partition(" ")
        credential = credential.strip()
        if scheme.lower() != "bearer" or not credential:
            raise Unauthenticated("Expected `Authorization: Bearer <token>`.")
        if looks_like_key(credential):
            return await self.api_keys.verify(credential)
        return await self.tokens.verify(credential)
