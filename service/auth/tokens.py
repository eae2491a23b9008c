"""Bearer tokens: JWTs whose algorithm the settings fix, never the token.

With a secret only HS256 is accepted; with a JWKS only the algorithm of the key that the token names.
So neither `alg: none` nor a public key used as an HS256 secret is accepted.
"""

import time
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import jwt

from service.auth.jwks import Jwks
from service.auth.principal import API_KEY_SUBJECT_PREFIX, ROLE_PERMISSIONS, Principal, Role
from service.errors import ConfigurationError, Unauthenticated
from service.settings import MIN_HS256_SECRET_BYTES, Settings

MAX_TOKEN_CHARACTERS: Final = 8192
MAX_SUBJECT_CHARACTERS: Final = 255
"""As OpenID Connect Core §2 bounds `sub`."""
MAX_CACHED_TOKENS: Final = 1024
MAX_CACHED_SECONDS: Final = 60.0

_REQUIRED: Final = ["exp", "sub", "role"]


class TokenVerifier:
    """Turns a bearer token into a principal.

    A verified token is remembered for at most a minute, and never past its `exp`: a client sends
    the same one with every request. A JWT cannot be revoked anyway; a key that is removed from the JWKS
    stops working at the next fetch plus that minute.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._secret = settings.signing_secret()
        self._verified: OrderedDict[str, tuple[Principal, float, float]] = OrderedDict()
        self._jwks: Jwks | None = None
        if settings.jwt_jwks_url is not None:
            # The URL replaces the secret: tokens are accepted in one way only.
            self._secret = None
            self._jwks = Jwks(
                settings.jwt_jwks_url,
                cache_seconds=settings.jwks_cache_seconds,
                cooldown_seconds=settings.jwks_cooldown_seconds,
            )
        elif self._secret is None:
            raise ConfigurationError("No JWT_SECRET and no JWT_JWKS_URL: no token could hold")

    async def close(self) -> None:
        """Close the connections to the identity provider."""
        if self._jwks is not None:
            await self._jwks.close()

    async def verify(self, token: str) -> Principal:
        """The principal that the token speaks for.

        Raises:
            Unauthenticated: the token is not valid; the message says what is wrong with it.
            Unavailable: the identity provider's keys cannot be fetched.
        """
        known = self._verified.get(token)
        if known is not None and time.time() < known[1] and time.monotonic() < known[2]:
            return known[0]
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise _refused(f"The token is longer than {MAX_TOKEN_CHARACTERS} characters")
        claims = await self._decode(token)
        principal = _principal(claims)
        try:
            expires_at = float(claims["exp"])
        except OverflowError as error:
            raise _refused("The token is not valid: its `exp` is not a time") from error
        self._remember(token, principal, expires_at=expires_at)
        return principal

    async def _decode(self, token: str) -> dict[str, Any]:
        settings = self._settings
        try:
            key, algorithm = await self._key(token)
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=settings.jwt_issuer,
                audience=settings.jwt_audience,
                leeway=settings.jwt_leeway_seconds,
                options={
                    "require": _REQUIRED,
                    "verify_aud": settings.jwt_audience is not None,
                    "verify_iss": settings.jwt_issuer is not None,
                },
            )
        except jwt.ExpiredSignatureError as error:
            raise _refused("The token has expired") from error
        except jwt.MissingRequiredClaimError as error:
            raise _refused(f"The token has no `{error.claim}`") from error
        except jwt.InvalidAudienceError as error:
            raise _refused("The token is for another audience") from error
        except jwt.InvalidIssuerError as error:
            raise _refused("The token is from another issuer") from error
        except jwt.ImmatureSignatureError as error:
            raise _refused("The token is not valid yet") from error
        except jwt.InvalidSignatureError as error:
            signer = "this server's JWT_SECRET" if self._jwks is None else "a key of JWT_JWKS_URL"
            raise _refused(
                f"The token's signature is not valid: was it signed with {signer}?"
            ) from error
        except jwt.InvalidAlgorithmError as error:
            raise _refused(f"The token is not valid: it is not signed with {algorithm}") from error
        except jwt.DecodeError as error:
            raise _refused("The token is not valid: it is not a complete JWT") from error
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # PyJWT raises some errors of json and int as they are, for claims such as `exp: Infinity`.
            raise _refused("The token is not valid") from error
        return claims

    async def _key(self, token: str) -> tuple[jwt.PyJWK | str, str]:
        if self._jwks is None:
            return self._secret or "", "HS256"
        header = jwt.get_unverified_header(token)
        key_id = header.get("kid")
        if not isinstance(key_id, str | None):
            raise _refused("The token is not valid")
        key = await self._jwks.key(key_id)
        return key, key.algorithm_name

    def _remember(self, token: str, principal: Principal, *, expires_at: float) -> None:
        forget_at = time.monotonic() + MAX_CACHED_SECONDS
        self._verified[token] = (principal, expires_at, forget_at)
        self._verified.move_to_end(token)
        if len(self._verified) > MAX_CACHED_TOKENS:
            self._verified.popitem(last=False)


def _refused(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, credential_given=True)


def _principal(claims: dict[str, Any]) -> Principal:
    subject, role_name = claims["sub"], claims["role"]
    if (
        not isinstance(subject, str)
        or not 1 <= len(subject) <= MAX_SUBJECT_CHARACTERS
        or not subject.isprintable()
        or subject.startswith(API_KEY_SUBJECT_PREFIX)
    ):
        raise _refused(
            f"The token's `sub` is not a printable text of 1 to {MAX_SUBJECT_CHARACTERS} characters"
        )
    try:
        role = Role(role_name)
    except ValueError as error:
        raise _refused(
            f"The token's `role` is not one of {', '.join(role.value for role in Role)}"
        ) from error
    return Principal(subject, role, ROLE_PERMISSIONS[role], "token")


def expiry_of(token: str) -> datetime:
    """When a token that was verified before expires; the calendar's last moment where it has none."""
    claims = jwt.decode(token, options={"verify_signature": False})
    try:
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (OverflowError, ValueError):
        return datetime.max.replace(tzinfo=UTC)


def make_token(
    secret: str,
    role: Role,
    *,
    subject: str,
    hours: float,
    issuer: str | None = None,
    audience: str | None = None,
) -> str:
    """A signed HS256 token that holds for so many hours.

    Raises:
        ConfigurationError: the secret is too short.
    """
    if len(secret.encode()) < MIN_HS256_SECRET_BYTES:
        raise ConfigurationError(f"JWT_SECRET is shorter than {MIN_HS256_SECRET_BYTES} bytes")
    now = datetime.now(UTC)
    claims: dict[str, Any] = {
        "sub": subject,
        "role": role.value,
        "iat": now,
        "exp": now + timedelta(hours=hours),
    }
    if issuer is not None:
        claims["iss"] = issuer
    if audience is not None:
        claims["aud"] = audience
    return jwt.encode(claims, secret, algorithm="HS256")
