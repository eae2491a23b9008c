"""The leader's part in causes: it folds their counts, names them, and reads dead letters without one."""

import time
from typing import Final

import asyncpg

from service.db.connection import Link
from service.db.errors import REFUSED_ERRORS
from service.jobs import store
from service.jobs.core.causes import (
    MAX_CAUSES,
    MAX_CAUSES_PER_TYPE,
    OVERFLOW_TITLE,
    OVERFLOW_TITLE_OF_ALL,
)
from service.jobs.core.fingerprint import Cause, cause_of, overflow_of
from service.jobs.store.causes import DeadJob
from service.observability.cause_gauges import set_cause_gauges
from service.observability.logging import get_logger
from service.settings import Settings

FOLD_ROWS: Final = 20_000
"""Deltas that one statement folds."""
FOLD_STATEMENTS: Final = 10
"""Statements that one round folds with: 40,000 deaths a second at `MAINTENANCE_SECONDS` 5."""
MERGE_ROWS: Final = 1_000
MERGE_STATEMENTS: Final = 20
"""Dead letters of causes beyond the limit that one statement moves, and statements a round."""
DESCRIBE_CAUSES: Final = 200
"""Causes that one round reads a dead letter of, to name them."""

MARK_ROWS: Final = 500
MARK_BYTES: Final = 4 * 2**20
"""Dead letters that one statement reads to give them a fingerprint, and their size as stored."""
MARK_SECONDS: Final = 1.0
"""How long one round reads dead letters; the rest waits for the next."""
REST_SECONDS: Final = 600.0
"""How long dead letters that cannot be read are left alone."""

_OF_THE_ROWS: Final = (*REFUSED_ERRORS, TimeoutError, asyncpg.QueryCanceledError)
"""What a row can be the reason for; all else is the database's, and the next round tries again."""

_log = get_logger(__name__)


class Causes:
    """The causes of dead letters, kept by the leader."""

    def __init__(self, link: Link, settings: Settings) -> None:
        self._link = link
        self._decided_days = settings.dead_retention_days
        self._excess = True
        """Whether there may be more causes than the limits allow."""
        self._after_id = -1
        self._mark_rows = MARK_ROWS
        self._skipped = False
        self._rests_until = 0.0

    async def fold(self) -> None:
        """Bring the causes up to date: counts, states, names, limits, gauges."""
        for _ in range(FOLD_STATEMENTS):
            folded, new = await store.causes.fold(self._link, limit=FOLD_ROWS)
            self._excess = self._excess or new > 0
            if folded < FOLD_ROWS:
                break
        await store.causes.end_ignoring(self._link)
        await self._describe()
        if self._excess:
            await self._merge_excess()
        set_cause_gauges(await store.causes.by_state(self._link))

    async def drop_old(self) -> None:
        """Drop causes that nothing is left of."""
        await store.causes.drop_old(self._link, decided_days=self._decided_days)

    async def mark(self) -> None:
        """Give fingerprints to dead letters that have none, for `MARK_SECONDS`.

        Those are of before this version, of workers of the version before, of jobs that ended
        without an attempt, and of plain SQL.
        """
        began = time.monotonic()
        while self._rests_until <= began and time.monotonic() - began < MARK_SECONDS:
            try:
                jobs = await self._mark_some()
            except _OF_THE_ROWS as error:
                jobs = await self._narrow(error)
            if jobs == 0:
                self._after_id = -1
                if self._skipped:
                    self._rests_until = time.monotonic() + REST_SECONDS
                    self._skipped = False
                return

    async def _mark_some(self) -> int:
        jobs = await store.causes.unmarked(
            self._link, after_id=self._after_id, limit=self._mark_rows, max_bytes=MARK_BYTES
        )
        if jobs:
            fingerprints = [(int(job.key), _cause(job).fingerprint) for job in jobs]
            await store.causes.mark(self._link, fingerprints)
            self._after_id = fingerprints[-1][0]
            self._mark_rows = min(MARK_ROWS, self._mark_rows * 2)
        return len(jobs)

    async def _narrow(self, error: Exception) -> int:
        """Read fewer at a time; the one that cannot be read or changed alone is passed over.

        Returns how many are to be tried next; 0: none is left.
        """
        if self._mark_rows > 1:
            self._mark_rows = max(1, self._mark_rows // 8)
            return self._mark_rows
        job_id = await store.causes.next_unmarked(self._link, after_id=self._after_id)
        if job_id is None:
            return 0
        _log.warning("dead_letter_unreadable", job_id=job_id, error=type(error).__name__)
        self._after_id, self._skipped = job_id, True
        return 1

    async def _describe(self) -> None:
        jobs = await store.causes.undescribed(self._link, limit=DESCRIBE_CAUSES)
        if jobs:
            await store.causes.describe(self._link, [(str(job.key), _cause(job)) for job in jobs])

    async def _merge_excess(self) -> None:
        for _ in range(MERGE_STATEMENTS):
            found = await store.causes.excess(
                self._link, per_type=MAX_CAUSES_PER_TYPE, in_all=MAX_CAUSES, limit=MERGE_ROWS
            )
            if not found:
                self._excess = False
                return
            types = {
                fingerprint: None if of_all else job_type for fingerprint, job_type, of_all in found
            }
            await store.causes.add_overflow(
                self._link,
                [(overflow_of(one), one, _overflow_title(one)) for one in set(types.values())],
            )
            merged = [(fingerprint, overflow_of(one)) for fingerprint, one in types.items()]
            if await store.causes.merge(self._link, merged, limit=MERGE_ROWS) < MERGE_ROWS:
                return  # the rest is counted at the next round


def _overflow_title(job_type: str | None) -> str:
    return OVERFLOW_TITLE_OF_ALL if job_type is None else OVERFLOW_TITLE


def _cause(job: DeadJob) -> Cause:
    """The cause of what is stored; of a history that plain SQL wrote, by `last_error` alone."""
    if job.message is not None or job.kind is not None:
        return cause_of(job.job_type, job.kind or "", job.message or "", job.traceback)
    kind, found, message = (job.last_error or "").partition(": ")
    if not found:
        kind, message = "", kind
    return cause_of(job.job_type, kind, message, None)
