"""Decide about a cause of dead letters: resolved, ignored, or open again."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import PYTHON, Actor
from service.errors import InvalidInput, NotFound
from service.jobs import store
from service.jobs.core.causes import CauseGroup, CauseState
from service.jobs.core.new_job import checked_moment
from service.jobs.notify.publisher import announce_after_commit
from service.jobs.read.causes import get_cause


async def resolve_cause(
    session: AsyncSession,
    fingerprint: str,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> CauseGroup:
    """Call a cause resolved: it should not happen again, and is unresolved and regressed when it does.

    Raises:
        NotFound: no such cause.
    """
    return await _decide(session, fingerprint, CauseState.RESOLVED, actor=actor, reason=reason)


async def ignore_cause(
    session: AsyncSession,
    fingerprint: str,
    *,
    until: datetime | None = None,
    deaths: int | None = None,
    actor: Actor | None = None,
    reason: str | None = None,
) -> CauseGroup:
    """Ignore a cause until a time, or until more than `deaths` jobs have died of it; else for good.

    Raises:
        NotFound: no such cause.
        InvalidInput: `until` has passed, or has no time zone.
    """
    if until is not None and checked_moment(until) <= datetime.now(UTC):
        raise InvalidInput(
            f"until is {until.isoformat()}, which has passed: give a later time", field="until"
        )
    return await _decide(
        session,
        fingerprint,
        CauseState.IGNORED,
        actor=actor,
        reason=reason,
        until=until,
        deaths=deaths,
    )


async def reopen_cause(
    session: AsyncSession,
    fingerprint: str,
    *,
    actor: Actor | None = None,
    reason: str | None = None,
) -> CauseGroup:
    """Make a cause unresolved again.

    Raises:
        NotFound: no such cause.
    """
    return await _decide(session, fingerprint, CauseState.UNRESOLVED, actor=actor, reason=reason)


_ACTIONS = {
    CauseState.RESOLVED: "cause.resolve",
    CauseState.IGNORED: "cause.ignore",
    CauseState.UNRESOLVED: "cause.reopen",
}


async def _decide(
    session: AsyncSession,
    fingerprint: str,
    state: CauseState,
    *,
    actor: Actor | None,
    reason: str | None,
    until: datetime | None = None,
    deaths: int | None = None,
) -> CauseGroup:
    before = await store.cause_listing.hold(session, fingerprint)
    if before is None:
        raise NotFound(f"There is no group {fingerprint[:100]}")
    by = PYTHON if actor is None else actor.subject
    await store.cause_listing.decide(
        session, fingerprint, state, by=by, reason=reason, until=until, deaths=deaths
    )
    after = {"state": state, "ignored_until": until, "ignored_deaths": deaths}
    await audit.record(
        session, actor, _ACTIONS[state], subject_type="cause", subject_id=fingerprint,
        before=before, after={name: value for name, value in after.items() if value is not None},
        reason=reason,
    )  # fmt: skip
    await announce_after_commit(session)
    return await get_cause(session, fingerprint)
