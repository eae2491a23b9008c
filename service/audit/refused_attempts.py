"""Attempts that were refused for want of a permission: noted in bounds, and never at a caller's cost."""

import time
from collections.abc import Callable
from typing import Final

from service.audit.model import Actor, Outcome
from service.audit.repository import record
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.observability.logging import get_logger
from service.observability.metrics import AUDIT_UNRECORDED, record_database_error

AGAIN_SECONDS: Final = 60.0
"""One entry for a subject and a route in this time, of however many attempts and processes."""
MAX_REMEMBERED: Final = 100
"""Entries that one process writes in this time, whoever tries what."""
WRITE_SECONDS: Final = 1.0
"""How long an answer waits for its entry."""
REST_SECONDS: Final = 5.0
"""After a failure none is written for so long: a database that hangs must not delay every answer."""

_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))"
_NOTED: Final = """
SELECT EXISTS (SELECT FROM finmind_jobs.audit_log
  WHERE actor = $1 AND action = 'access.refused' AND subject_type = 'route' AND subject_id = $2
    AND at > now() - make_interval(secs => $3))"""

_log = get_logger(__name__)


class RefusedAttempts:
    """Writes `access.refused`, each in a transaction of its own, as well as it can."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._link = database.link(timeout_seconds=WRITE_SECONDS)
        self._clock = clock
        self._noted: dict[tuple[str, str], float] = {}
        """By subject and route, until when there is an entry."""
        self._rests_until = 0.0

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def note(
        self, actor: Actor, *, route: str, path: str, permission: str | None, detail: str
    ) -> None:
        """Write that `actor` was refused, unless that was written less than a minute ago.

        Args:
            actor: who tried.
            route: what, such as `POST /admin/jobs/{job_id}/retry`.
            path: the path that was asked for.
            permission: which one was missing, where it was one.
            detail: what the caller was told.
        """
        key, now = (actor.subject, route), self._clock()
        if self._noted.get(key, 0.0) > now:
            return
        if now < self._rests_until:
            AUDIT_UNRECORDED.labels("failed").inc()
            return
        self._noted = {key: until for key, until in self._noted.items() if until > now}
        if len(self._noted) >= MAX_REMEMBERED:
            AUDIT_UNRECORDED.labels("limited").inc()
            return
        self._noted[key] = now + AGAIN_SECONDS
        tried = {"path": path, "permission": permission, "detail": detail}
        try:
            await self._write(actor, route, tried)
        except DATABASE_ERRORS as error:
            del self._noted[key]
            self._rests_until = self._clock() + REST_SECONDS
            AUDIT_UNRECORDED.labels("failed").inc()
            record_database_error("audit")
            _log.warning(
                "refusal_not_recorded",
                subject=actor.subject[:255],
                route=route,
                error=type(error).__name__,
            )

    async def _write(self, actor: Actor, route: str, tried: dict[str, str | None]) -> None:
        async with self._link.transaction() as connection:
            # Another process may be about to write the same.
            await connection.execute(_LOCK, f"{self._link.schema} {actor.subject} {route}")
            noted = self._link.render(_NOTED)
            if not await connection.fetchval(noted, actor.subject, route, AGAIN_SECONDS):
                await record(
                    connection,
                    actor,
                    "access.refused",
                    subject_type="route",
                    subject_id=route,
                    after=tried,
                    outcome=Outcome.REFUSED,
                )
