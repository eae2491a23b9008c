"""`/admin/audit`: who did what, read a page at a time or exported whole. Parse, call, map."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Security
from starlette.responses import StreamingResponse

from service import audit
from service.api.actor import acting
from service.api.audit_schemas import (
    EXAMPLE,
    AuditEntryOut,
    AuditFilterQuery,
    AuditPage,
    AuditQuery,
)
from service.api.cursors import decode_cursor, encode_cursor
from service.api.guarded import GuardedRoute
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import AppSettings, Session, transaction
from service.audit.model import AuditEntry, AuditFilters
from service.audit.repository import newest, oldest
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import InvalidInput

EXPORT_BATCH: Final = 1000
"""Entries that an export reads in one transaction, and holds in memory."""
JSON_LINES: Final = "application/x-ndjson"

router = APIRouter(prefix="/admin/audit", tags=["Admin"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.ADMIN_READ))]
Operator = Annotated[Principal, Security(require(Permission.ADMIN_OPERATE))]


@router.get(
    "",
    operation_id="listAuditEntries",
    summary="List the audit log, newest first",
    response_description="One page of entries.",
    responses=problem_responses(422, 503),
)
async def read_audit_log(
    _: Reader,
    query: Annotated[AuditQuery, Query(), FIRST_ERRORS],
    session: Session,
    settings: AppSettings,
) -> AuditPage:
    """Who did what, when, from where, and what it changed.

    Pages by cursor: an entry appears on one page only, however many are added meanwhile. Entries can
    be neither changed nor removed; they are dropped by whole months after `AUDIT_RETENTION_DAYS`.
    """
    if query.limit > settings.max_page_size:
        raise InvalidInput(
            f"limit is {query.limit}: at most {settings.max_page_size} are allowed (MAX_PAGE_SIZE)",
            field="query.limit",
        )
    named = query.named()
    before_id = None if query.cursor is None else decode_cursor(query.cursor, named)
    found = await newest(session, query.filters(), limit=query.limit + 1, before_id=before_id)
    more = len(found) > query.limit
    shown = found[: query.limit]
    return AuditPage(
        entries=[AuditEntryOut.model_validate(entry) for entry in shown],
        next_cursor=encode_cursor(shown[-1].id, named) if more else None,
    )


@router.get(
    "/export",
    operation_id="exportAuditLog",
    summary="Export the audit log",
    response_class=StreamingResponse,
    response_description="One entry a line, as JSON, oldest first.",
    responses={
        200: {
            "content": {
                JSON_LINES: {"schema": {"type": "string"}, "example": json.dumps(EXAMPLE) + "\n"}
            }
        },
        **problem_responses(422, 503),
    },
)
async def export_audit_log(
    request: Request, operator: Operator, query: Annotated[AuditFilterQuery, Query(), FIRST_ERRORS]
) -> StreamingResponse:
    """Every entry that matches, as JSON lines, read in batches: of any size.

    The export is an entry of the log itself. A connection that ends before the last chunk is an
    export that is not whole: repeat it, or continue with `since`.
    """
    return await export(request, operator, query.filters(), named=query.named())


async def export(
    request: Request, operator: Principal, filters: AuditFilters, *, named: Mapping[str, Any]
) -> StreamingResponse:
    """The export of what matches, itself recorded; `named` are the filters as they were given."""
    async with transaction(request) as session:
        await audit.record(
            session,
            acting(request, operator),
            "audit.export",
            subject_type="audit_log",
            filter=named,
        )
        first = await oldest(session, filters, limit=EXPORT_BATCH)
    name = f"audit-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
    return StreamingResponse(
        _lines(request, filters, first),
        media_type=JSON_LINES,
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


async def _lines(
    request: Request, filters: AuditFilters, batch: list[AuditEntry]
) -> AsyncIterator[str]:
    """The lines, a batch at a time; no transaction is open while the client reads."""
    while batch:
        yield "".join(
            f"{AuditEntryOut.model_validate(entry).model_dump_json()}\n" for entry in batch
        )
        if len(batch) < EXPORT_BATCH:
            return
        async with transaction(request, own_deadline=True) as session:
            batch = await oldest(session, filters, limit=EXPORT_BATCH, after_id=batch[-1].id)
