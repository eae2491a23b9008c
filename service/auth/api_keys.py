"""API keys: `fmj_<prefix>.<secret>`, shown once, of which only a hash is kept.

The secret is 256 random bits, so a plain SHA-256 of it is enough: slow hashes protect secrets that
people choose, and nobody can guess 2^256. A slow hash would add 100 ms to every request.

Nothing is cached: a revoked key stops working with the next request, in every process.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import asyncpg

from service import audit
from service.audit import Actor
from service.auth.key_rules import check_new_key
from service.auth.principal import (
    API_KEY_SUBJECT_PREFIX,
    KeyLimits,
    Permission,
    Principal,
)
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.errors import NotFound, Unauthenticated
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error

KEY_PREFIX: Final = "fmj_"
PREFIX_BYTES: Final = 5
SECRET_BYTES: Final = 32
MAX_KEY_CHARACTERS: Final = 128
MAX_LISTED: Final = 1000

_PREFIX: Final = re.compile(r"[a-z0-9]{8,12}", re.ASCII)
_KEY: Final = re.compile(r"fmj_([a-z0-9]{8,12})\.([A-Za-z0-9_-]{43})", re.ASCII)
# The statements are made of constants alone, hence the S608 exceptions.
_COLUMNS: Final = (
    "prefix, name, scopes, queues, job_types, priorities, created_by, created_at, expires_at,"
    " revoked_at, last_used_at"
)
_INSERT: Final = f"""
WITH maker AS MATERIALIZED (
  SELECT prefix FROM finmind_jobs.api_keys WHERE prefix = $10 AND revoked_at IS NULL FOR SHARE)
INSERT INTO finmind_jobs.api_keys
  (prefix, secret_hash, name, scopes, created_by, expires_at, queues, job_types, priorities)
SELECT $1, $2::bytea, $3, $4::text[], $5, $6::timestamptz, $7::text[], $8::text[], $9::smallint[]
WHERE $10::text IS NULL OR EXISTS (SELECT FROM maker)
RETURNING {_COLUMNS}"""  # noqa: S608
"""A key that is being revoked makes no other: the two wait for each other."""
_LIST: Final = f"SELECT {_COLUMNS} FROM finmind_jobs.api_keys ORDER BY created_at DESC, prefix LIMIT {MAX_LISTED}"  # noqa: S608
_REVOKE: Final = f"""
UPDATE finmind_jobs.api_keys SET revoked_at = coalesce(revoked_at, now()) WHERE prefix = $1
RETURNING {_COLUMNS}, revoked_at = now() AS changed"""  # noqa: S608
_REVOKE_MADE_BY: Final = """
UPDATE finmind_jobs.api_keys SET revoked_at = now()
WHERE revoked_at IS NULL AND created_by = ANY ($1::text[]) RETURNING prefix"""
_VERIFY: Final = """
SELECT secret_hash, scopes, queues, job_types, priorities, expires_at, revoked_at IS NOT NULL AS revoked,
  coalesce(expires_at <= now(), false) AS expired,
  coalesce(last_used_at < now() - interval '1 minute', true) AS note_use
FROM finmind_jobs.api_keys WHERE prefix = $1"""
_NOTE_USE: Final = """
UPDATE finmind_jobs.api_keys SET last_used_at = now()
WHERE prefix = $1 AND coalesce(last_used_at < now() - interval '1 minute', true)"""
T = TypeVar("T")
_NO_HASH: Final = bytes(32)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it is stored: everything but the secret."""

    prefix: str
    name: str
    scopes: tuple[str, ...]
    queues: tuple[str, ...] | None
    job_types: tuple[str, ...] | None
    priorities: tuple[int, ...] | None
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key just created, with its secret, which cannot be read again."""

    key: str
    record: ApiKey


def looks_like_key(credential: str) -> bool:
    """Whether a bearer credential is meant as an API key."""
    return credential.startswith(KEY_PREFIX)


class ApiKeyStore:
    """The keys of one database; each call is a transaction of its own, within `timeout_seconds`."""

    def __init__(self, database: Database, *, timeout_seconds: float | None = None) -> None:
        self._link = database.link(timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Close the store's connection."""
        await self._link.close()

    async def create(
        self,
        name: str,
        scopes: Iterable[Permission],
        *,
        created_by: str,
        expires_at: datetime | None = None,
        limits: KeyLimits | None = None,
        actor: Actor | None = None,
    ) -> NewApiKey:
        """Make a key; in the audit log as made by `actor`, or else by `created_by`.

        Raises:
            InvalidInput: the name or the scopes are empty, the expiry has no time zone or is past, or
                limits come with scopes that they do not bind.
            Unauthenticated: the key that makes it was revoked meanwhile.
        """
        granted = sorted({Permission(scope).value for scope in scopes})
        check_new_key(name, granted, expires_at, limits)
        prefix = secrets.token_hex(PREFIX_BYTES)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        async with self._link.transaction() as connection:
            rows = await connection.fetch(
                self._link.render(_INSERT),
                prefix,
                _hash(secret),
                name,
                granted,
                created_by,
                expires_at,
                *_limit_columns(limits),
                _prefix_of(created_by),
            )
            if not rows:
                raise _refused("The API key was revoked")
            made = _record(rows[0])
            await audit.record(
                connection,
                actor or Actor(created_by),
                "api_key.create",
                subject_type="api_key",
                subject_id=prefix,
                after=_described(made),
            )
        _log.info("api_key_created", prefix=prefix, scopes=granted, by=created_by)
        return NewApiKey(f"{KEY_PREFIX}{prefix}.{secret}", made)

    async def list(self) -> list[ApiKey]:
        """Every key, newest first, revoked ones too."""
        return [_record(row) for row in await self._link.fetch(_LIST)]

    async def revoke(
        self, prefix: str, *, by: str, actor: Actor | None = None, reason: str | None = None
    ) -> ApiKey:
        """Revoke a key at once, and the keys that it made; revoking it again changes nothing.

        In the audit log as done by `actor`, or else by `by`, for the `reason`.

        Raises:
            NotFound: no key has this prefix.
        """
        if not _PREFIX.fullmatch(prefix):
            raise NotFound("No API key has this prefix")
        async with self._link.transaction() as connection:
            rows = await connection.fetch(self._link.render(_REVOKE), prefix)
            made_by = [prefix]
            revoked: list[str] = []
            while made_by:
                revoked += made_by
                subjects = [API_KEY_SUBJECT_PREFIX + one for one in made_by]
                # Each a statement of its own, which sees what was made while it waited.
                found = await connection.fetch(self._link.render(_REVOKE_MADE_BY), subjects)
                made_by = [row["prefix"] for row in found]
            if not rows:
                raise NotFound("No API key has this prefix")
            key = _record(rows[0])
            if rows[0]["changed"] or revoked[1:]:
                ended = {"revoked_at": key.revoked_at, "with_keys": revoked[1:]}
                await audit.record(
                    connection,
                    actor or Actor(by),
                    "api_key.revoke",
                    subject_type="api_key",
                    subject_id=prefix,
                    before=_described(key) | {"revoked_at": None},
                    after=_described(key) | ended,
                    reason=reason,
                )
        _log.info("api_key_revoked", prefix=prefix, with_keys=revoked[1:], by=by)
        return key

    async def verify(self, key: str) -> Principal:
        """The principal that the key speaks for.

        Raises:
            Unauthenticated: unknown, wrong, expired or revoked. The message does not distinguish the
                first two.
        """
        match = _KEY.fullmatch(key) if len(key) <= MAX_KEY_CHARACTERS else None
        if match is None:
            raise _refused("The API key is malformed: expected fmj_<prefix>.<secret>")
        prefix, secret = match.groups()
        row = await self._look_up(prefix)
        expected = row["secret_hash"] if row is not None else _NO_HASH
        if not hmac.compare_digest(expected, _hash(secret)) or row is None:
            raise _refused("The API key is not known")
        if row["revoked"]:
            raise _refused("The API key was revoked")
        if row["expired"]:
            raise _refused("The API key has expired")
        if row["note_use"]:
            await self._note_use(prefix)
        # A scope that a newer version granted is ignored here, not an error.
        scopes = frozenset(p for p in Permission if p.value in row["scopes"])
        return Principal(
            API_KEY_SUBJECT_PREFIX + prefix,
            None,
            scopes,
            "api_key",
            expires_at=row["expires_at"],
            limits=KeyLimits.of(row["queues"], row["job_types"], row["priorities"]),
        )

    async def _look_up(self, prefix: str) -> asyncpg.Record | None:
        try:
            rows = await self._link.fetch(_VERIFY, prefix)
        except TimeoutError:
            raise  # whoever waits has waited long enough
        except DATABASE_ERRORS:
            # The connection may have been cut while nobody used it: a read is safe to repeat.
            record_database_error("api_key")
            self._link.drop()
            rows = await self._link.fetch(_VERIFY, prefix)
        return rows[0] if rows else None

    async def _note_use(self, prefix: str) -> None:
        try:
            await self._link.fetch(_NOTE_USE, prefix)
        except DATABASE_ERRORS as error:
            # A read-only database must not lock its operators out.
            record_database_error("api_key")
            _log.warning("api_key_use_not_noted", prefix=prefix, reason=type(error).__name__)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _refused(detail: str) -> Unauthenticated:
    return Unauthenticated(detail, credential_given=True)


def _prefix_of(subject: str) -> str | None:
    """The prefix of the key that this subject is; None for a person or the command line."""
    prefix = subject.removeprefix(API_KEY_SUBJECT_PREFIX)
    return None if prefix == subject else prefix


def _limit_columns(limits: KeyLimits | None) -> tuple[Sequence[object] | None, ...]:
    if limits is None:
        return None, None, None
    return tuple(
        None if allowed is None else sorted(allowed)
        for allowed in (limits.queues, limits.job_types, limits.priorities)
    )


def _optional(values: Sequence[T] | None) -> tuple[T, ...] | None:
    return None if values is None else tuple(values)


def _described(key: ApiKey) -> dict[str, object]:
    """What the audit log keeps of a key: what it may do, and until when."""
    return {
        "name": key.name,
        "scopes": key.scopes,
        "queues": key.queues,
        "job_types": key.job_types,
        "priorities": key.priorities,
        "expires_at": key.expires_at,
    }


def _record(row: asyncpg.Record) -> ApiKey:
    return ApiKey(
        prefix=row["prefix"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        queues=_optional(row["queues"]),
        job_types=_optional(row["job_types"]),
        priorities=_optional(row["priorities"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        last_used_at=row["last_used_at"],
    )
