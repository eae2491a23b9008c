"""`/admin/dead-letters/groups`: dead letters by their cause. Parse, call, map."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy.ext.asyncio import AsyncSession

from service.api.actor import acting
from service.api.admin import Change, Operator, Reader
from service.api.cursors import decode_position, encode_position
from service.api.dead_letter_schemas import (
    DecisionIn,
    GroupOut,
    GroupPageOut,
    GroupQuery,
    IgnoreIn,
)
from service.api.guarded import GuardedRoute
from service.api.patterns import NO_NUL
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import Session
from service.auth.principal import Principal
from service.jobs.actions.causes import ignore_cause, reopen_cause, resolve_cause
from service.jobs.core.causes import CauseGroup
from service.jobs.read.causes import get_cause, list_causes

router = APIRouter(prefix="/admin/dead-letters/groups", tags=["Admin"], route_class=GuardedRoute)

Fingerprint = Annotated[
    str,
    Path(max_length=100, pattern=NO_NUL, description="The fingerprint that its jobs have."),
]


@router.get(
    "",
    operation_id="listDeadLetterGroups",
    summary="List the causes of dead letters",
    response_description="One page of groups.",
    responses=problem_responses(422, 503),
)
async def read_groups(
    _: Reader, query: Annotated[GroupQuery, Query(), FIRST_ERRORS], session: Session
) -> GroupPageOut:
    """DEAD_LETTER and FAILED jobs that failed for the same reason are one line, however many.

    Counts are kept: the time this takes depends on the number of groups. Groups without dead letters
    are left out, unless somebody resolved or ignored them. A group whose count changes while pages
    are turned may appear on two of them, or on none.
    """
    named = query.named()
    page = await list_causes(
        session,
        query.filters(),
        sort=query.sort,
        limit=query.limit,
        after=None if query.cursor is None else decode_position(query.cursor, named),
    )
    following = page.next_after
    return GroupPageOut(
        groups=list(map(GroupOut.of, page.groups)),
        next_cursor=None if following is None else encode_position(following, named),
    )


@router.get(
    "/{fingerprint}",
    operation_id="getDeadLetterGroup",
    summary="Read one cause of dead letters",
    response_description="The group, with the trend of seven days.",
    responses=problem_responses(404, 422, 503),
)
async def read_group(_: Reader, fingerprint: Fingerprint, session: Session) -> GroupOut:
    """Its jobs are those of `GET /admin/jobs?fingerprint=…`."""
    return GroupOut.of(await get_cause(session, fingerprint))


@router.post(
    "/{fingerprint}/resolve",
    operation_id="resolveDeadLetterGroup",
    summary="Call a cause resolved",
    response_description="The group, resolved.",
    responses=problem_responses(404, 422, 503),
)
async def resolve_group(
    request: Request,
    operator: Operator,
    fingerprint: Fingerprint,
    session: Change,
    body: Annotated[DecisionIn | None, FIRST_ERRORS] = None,
) -> GroupOut:
    """It should not happen again. When a job dies of it after this, it is `unresolved` and `regressed`.

    Its dead letters stay as they are: retry or delete them apart.
    """
    return await _decided(request, operator, resolve_cause, session, fingerprint, body)


@router.post(
    "/{fingerprint}/ignore",
    operation_id="ignoreDeadLetterGroup",
    summary="Ignore a cause",
    response_description="The group, ignored.",
    responses=problem_responses(404, 422, 503),
)
async def ignore_group(
    request: Request,
    operator: Operator,
    fingerprint: Fingerprint,
    session: Change,
    body: Annotated[IgnoreIn | None, FIRST_ERRORS] = None,
) -> GroupOut:
    """Until a time, until more than a number of jobs have died of it, or for good."""
    given: dict[str, Any] = {} if body is None else {"until": body.until, "deaths": body.count}
    return await _decided(request, operator, ignore_cause, session, fingerprint, body, **given)


@router.post(
    "/{fingerprint}/reopen",
    operation_id="reopenDeadLetterGroup",
    summary="Make a cause unresolved again",
    response_description="The group, unresolved.",
    responses=problem_responses(404, 422, 503),
)
async def reopen_group(
    request: Request,
    operator: Operator,
    fingerprint: Fingerprint,
    session: Change,
    body: Annotated[DecisionIn | None, FIRST_ERRORS] = None,
) -> GroupOut:
    """A group that was resolved or ignored needs attention again."""
    return await _decided(request, operator, reopen_cause, session, fingerprint, body)


async def _decided(
    request: Request,
    operator: Principal,
    decide: Callable[..., Awaitable[CauseGroup]],
    session: AsyncSession,
    fingerprint: str,
    body: DecisionIn | None,
    **given: Any,
) -> GroupOut:
    reason = None if body is None else body.reason
    actor = acting(request, operator)
    return GroupOut.of(await decide(session, fingerprint, actor=actor, reason=reason, **given))
