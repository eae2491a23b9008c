"""`/targets`: where `http.request` jobs are sent, and their breakers. Parse, call, map."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Path, Query, Request, Security

from service.api.actor import acting
from service.api.cursors import decode_position, encode_position
from service.api.guarded import GuardedRoute
from service.api.patterns import NO_NUL, PLAIN_NUMBER
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import InvalidInput
from service.targets import repository
from service.targets.reset import read_target, reset_target
from service.targets.schemas import ResetIn, TargetOut, TargetPageOut

DEFAULT_PAGE_SIZE: Final = 100
MAX_NAME_CHARS: Final = 300
MAX_CURSOR_CHARS: Final = 600

router = APIRouter(prefix="/targets", tags=["Admin"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.ADMIN_READ))]
Operator = Annotated[Principal, Security(require(Permission.ADMIN_OPERATE))]
Name = Annotated[
    str,
    Path(
        min_length=1,
        max_length=MAX_NAME_CHARS,
        pattern=NO_NUL,
        description="Host and port of a target.",
        examples=["crm.example.com:443"],
    ),
]


@router.get(
    "",
    operation_id="listTargets",
    summary="List the targets",
    response_description="One page of targets.",
    responses=problem_responses(422, 503),
)
async def list_targets(
    _: Reader,
    session: Session,
    settings: AppSettings,
    state: Annotated[
        Literal["open"] | None, Query(description="`open`: those whose breaker is not closed.")
    ] = None,
    limit: Annotated[
        int, Query(ge=1, description="Targets on the page."), PLAIN_NUMBER
    ] = DEFAULT_PAGE_SIZE,
    cursor: Annotated[
        str | None, Query(max_length=MAX_CURSOR_CHARS, description="`next_cursor` of a page.")
    ] = None,
) -> TargetPageOut:
    """Hosts and ports that requests were sent to within the last 7 days, 10,000 at most, by name."""
    if limit > settings.max_page_size:
        raise InvalidInput(
            f"limit is {limit}: at most {settings.max_page_size} are allowed (MAX_PAGE_SIZE)",
            field="query.limit",
        )
    filters = {"targets": True, "state": state}
    after = "" if cursor is None else decode_position(cursor, filters)[1]
    found = await repository.page(
        session, after=after, limit=limit + 1, only_open=state is not None
    )
    more = len(found) > limit
    return TargetPageOut(
        targets=[TargetOut.model_validate(one) for one in found[:limit]],
        next_cursor=encode_position((0, found[limit - 1].name), filters) if more else None,
    )


@router.get(
    "/{name}",
    operation_id="getTarget",
    summary="Read a target",
    response_description="The target.",
    responses=problem_responses(404, 422, 503),
)
async def get_target(_: Reader, name: Name, session: Session) -> TargetOut:
    """How its breaker stands, what it failed of last, and how many jobs are held for it."""
    return TargetOut.model_validate(await read_target(session, name))


@router.post(
    "/{name}/reset",
    operation_id="resetTarget",
    summary="Close the breaker of a target",
    response_description="The target.",
    responses=problem_responses(404, 409, 422, 503),
)
async def reset(
    request: Request,
    operator: Operator,
    name: Name,
    session: Session,
    body: Annotated[ResetIn | None, FIRST_ERRORS] = None,
) -> TargetOut:
    """Its jobs are let go within 2 seconds, in every process, without waiting for the next try.

    409 if its breaker is closed.
    """
    reason = None if body is None else body.reason
    target = await reset_target(session, name, actor=acting(request, operator), reason=reason)
    return TargetOut.model_validate(target)
