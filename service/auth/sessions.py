"""Who is signed in to the dashboard: a random secret in a cookie, of which only a hash is kept.

A session has the rights of what signed in. It ends with the token or the API key that it was made of,
after a time without a request, after a time in any case, and when somebody signs out. Nothing is
cached: a session that was ended works no more with the next request, in every process.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from service import audit
from service.audit import Actor
from service.auth.principal import (
    API_KEY_SUBJECT_PREFIX,
    ROLE_PERMISSIONS,
    Permission,
    Principal,
    Role,
)
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.settings import Settings

SECRET_BYTES: Final = 32
MAX_COOKIE_CHARACTERS: Final = 64
MAX_FORGOTTEN: Final = 1000
"""Expired sessions that one sign-in deletes."""

_CREATE: Final = """
WITH forgotten AS (
  DELETE FROM finmind_jobs.dashboard_sessions WHERE id_hash IN (
    SELECT id_hash FROM finmind_jobs.dashboard_sessions WHERE expires_at < now()
    ORDER BY expires_at LIMIT $7 FOR UPDATE SKIP LOCKED))
INSERT INTO finmind_jobs.dashboard_sessions (id_hash, subject, role, api_key_prefix, expires_at)
VALUES ($1, $2, $3, $4, least(now() + make_interval(secs => $5), $6::timestamptz))"""
_FIND: Final = """
SELECT s.subject, s.role, s.api_key_prefix, s.expires_at, k.scopes, k.expires_at AS key_expires_at,
  s.seen_at < now() - interval '1 minute' AS note_use
FROM finmind_jobs.dashboard_sessions s
LEFT JOIN finmind_jobs.api_keys k ON k.prefix = s.api_key_prefix
WHERE s.id_hash = $1 AND s.expires_at > now() AND s.seen_at > now() - make_interval(secs => $2)
  AND (s.api_key_prefix IS NULL
    OR (k.prefix IS NOT NULL AND k.revoked_at IS NULL AND coalesce(k.expires_at > now(), true)))"""
_NOTE_USE: Final = """
UPDATE finmind_jobs.dashboard_sessions SET seen_at = now()
WHERE id_hash = $1 AND seen_at < now() - interval '1 minute'"""
_END: Final = "DELETE FROM finmind_jobs.dashboard_sessions WHERE id_hash = $1"
_END_ALL: Final = "DELETE FROM finmind_jobs.dashboard_sessions WHERE subject = $1 RETURNING 1"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session just made, with the secret that its cookie holds."""

    secret: str
    max_age_seconds: int
    """How long the browser may keep the cookie; the server decides when the session ends."""


class SessionStore:
    """The sessions of one database; each call is a transaction of its own."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._link = database.link(timeout_seconds=settings.query_timeout_seconds)
        self._idle_seconds = settings.session_idle_minutes * 60
        self._longest_seconds = settings.session_hours * 3600

    async def close(self) -> None:
        """Close the store's connection."""
        await self._link.close()

    async def create(
        self,
        principal: Principal,
        *,
        expires_at: datetime | None = None,
        actor: Actor | None = None,
    ) -> NewSession:
        """Sign `principal` in, until `expires_at` at the latest; forget sessions that have expired.

        It stands in the audit log as done by `actor`, or else by the principal.
        """
        secret = secrets.token_urlsafe(SECRET_BYTES)
        role = None if principal.role is None else principal.role.value
        async with self._link.transaction() as connection:
            await connection.execute(
                self._link.render(_CREATE),
                _hash(secret),
                principal.subject,
                role,
                _key_prefix(principal),
                self._longest_seconds,
                expires_at,
                MAX_FORGOTTEN,
            )
            await audit.record(
                connection,
                actor or Actor(principal.subject),
                "session.create",
                subject_type="session",
                after={"role": role, "expires_at": expires_at},
            )
        _log.info("dashboard_sign_in", subject=principal.subject)
        return NewSession(secret, int(self._longest_seconds))

    async def find(self, secret: str, *, note_use: bool = True) -> Principal | None:
        """Who is signed in with this secret; None: nobody, or no longer.

        What a page does by itself is no use of it (`note_use`): a session ends that nobody uses.
        """
        if not 0 < len(secret) <= MAX_COOKIE_CHARACTERS:
            return None
        id_hash = _hash(secret)
        rows = await self._link.fetch(_FIND, id_hash, self._idle_seconds)
        if not rows:
            return None
        if note_use and rows[0]["note_use"]:
            await self._note_use(id_hash)
        return _principal(rows[0])

    async def end(self, secret: str, *, actor: Actor) -> None:
        """Sign this browser out."""
        async with self._link.transaction() as connection:
            await connection.execute(self._link.render(_END), _hash(secret))
            await audit.record(connection, actor, "session.end", subject_type="session")

    async def end_all(self, subject: str, *, actor: Actor) -> int:
        """Sign `subject` out everywhere; returns how many sessions ended."""
        async with self._link.transaction() as connection:
            ended = len(await connection.fetch(self._link.render(_END_ALL), subject))
            await audit.record(
                connection,
                actor,
                "session.end_all",
                subject_type="session",
                before={"sessions": ended},
            )
        _log.info("dashboard_sign_out_everywhere", subject=subject, sessions=ended)
        return ended

    async def _note_use(self, id_hash: bytes) -> None:
        try:
            await self._link.fetch(_NOTE_USE, id_hash)
        except DATABASE_ERRORS as error:
            # A read-only database must not lock its operators out.
            record_database_error("session")
            _log.warning("session_use_not_noted", reason=type(error).__name__)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _key_prefix(principal: Principal) -> str | None:
    if principal.kind != "api_key":
        return None
    return principal.subject.removeprefix(API_KEY_SUBJECT_PREFIX)


def _principal(row: asyncpg.Record) -> Principal:
    if row["api_key_prefix"] is not None:
        scopes = frozenset(p for p in Permission if p.value in row["scopes"])
        return Principal(row["subject"], None, scopes, "api_key", expires_at=row["key_expires_at"])
    # A role that a newer version made has no rights here.
    known = {role.value: role for role in Role}.get(row["role"])
    permissions = frozenset() if known is None else ROLE_PERMISSIONS[known]
    return Principal(row["subject"], known, permissions, "token")
