"""Read the causes of dead letters: as many lines as causes, however many jobs died of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import NotFound
from service.jobs import store
from service.jobs.core.causes import (
    TREND_DAYS,
    TREND_HOURS,
    CauseFilters,
    CauseGroup,
    CauseSort,
    CauseState,
)
from service.jobs.core.fingerprint import MAX_TITLE_CHARS, normalise
from service.jobs.core.job import JobId

NOT_READ: Final = "(not read yet)"
"""The title of a cause all of whose jobs were retried before the leader read one."""
NO_MESSAGE: Final = "(no error is known)"
"""The title of a cause whose jobs have neither the type of an error nor a message."""


@dataclass(frozen=True, slots=True)
class CausePage:
    """One page of causes. `next_after` is where the next one starts; None: no more."""

    groups: list[CauseGroup]
    next_after: tuple[int, str] | None


async def list_causes(
    session: AsyncSession,
    filters: CauseFilters,
    *,
    sort: CauseSort = CauseSort.COUNT,
    limit: int,
    after: tuple[int, str] | None = None,
) -> CausePage:
    """One page of causes, the highest first; reads kept counts, and one job of each cause shown.

    Those without dead letters are left out, unless somebody resolved or ignored them. A cause whose
    count changes while one turns pages may appear twice, or on none.
    """
    rows = await store.cause_listing.page(session, filters, sort=sort, limit=limit + 1, after=after)
    shown = rows[:limit]
    trends = await _trends(session, [row.fingerprint for row in shown], hours=TREND_HOURS)
    groups = [group_of(row, trends[row.fingerprint]) for row in shown]
    last = shown[-1] if len(rows) > limit else None
    return CausePage(groups, None if last is None else (last.position, last.fingerprint))


async def get_cause(session: AsyncSession, fingerprint: str) -> CauseGroup:
    """One cause, with the trend of a week.

    Raises:
        NotFound: nothing died of it lately, and nothing that died of it is left.
    """
    row = await store.cause_listing.one(session, fingerprint)
    if row is None:
        raise NotFound(f"There is no group {fingerprint[:100]}")
    trends = await _trends(session, [fingerprint], hours=24 * TREND_DAYS)
    return group_of(row, trends[fingerprint])


async def count_causes(session: AsyncSession) -> dict[CauseState, int]:
    """How many causes a list without filters shows, by state."""
    counted = await store.cause_listing.count(session)
    return {state: counted.get(state, 0) for state in CauseState}


async def _trends(
    session: AsyncSession, fingerprints: Sequence[str], *, hours: int
) -> dict[str, tuple[int, ...]]:
    deaths = {fingerprint: [0] * hours for fingerprint in fingerprints}
    for fingerprint, back, count in await store.cause_listing.trends(
        session, fingerprints, hours=hours
    ):
        if 0 <= back < hours:
            deaths[fingerprint][hours - 1 - back] = max(0, count)
    return {fingerprint: tuple(counts) for fingerprint, counts in deaths.items()}


def group_of(row: Any, trend: tuple[int, ...] = ()) -> CauseGroup:
    """What a row of the listing says."""
    kind, title = row.kind, row.title
    if title is None:
        # The leader names it in a moment.
        kind, found, message = (row.sample_error or NOT_READ).partition(": ")
        title = normalise(message if found else kind)
    ignored = row.ignored_deaths
    return CauseGroup(
        fingerprint=row.fingerprint,
        job_type=row.job_type,
        kind=kind or None,
        title=title[:MAX_TITLE_CHARS] or kind or NO_MESSAGE,
        is_overflow=row.is_overflow,
        count=row.jobs,
        deaths=row.deaths,
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        state=CauseState(row.state),
        regressed_at=row.regressed_at,
        sample_id=None if row.sample_id is None else JobId(row.sample_id),
        workers=tuple(row.workers),
        trend=trend,
        changed_at=row.changed_at,
        changed_by=row.changed_by,
        reason=row.reason,
        ignored_until=row.ignored_until,
        ignored_deaths_left=None if ignored is None else max(0, ignored - row.deaths),
    )
