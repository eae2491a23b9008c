"""The batches: how far each is, and the button that cancels one."""

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import Depends, Query, Request
from starlette.datastructures import FormData
from starlette.responses import Response

from service.api.actor import acting
from service.api.batches import BatchId
from service.api.cursors import MAX_CURSOR_CHARS, decode_cursor, encode_cursor
from service.api.session import Session
from service.dashboard.access import Operator, Viewer
from service.dashboard.pages.job_actions import reason_of
from service.dashboard.rendering import flash, render, see
from service.dashboard.route import form, page_router
from service.errors import Conflict
from service.jobs.batches import cancel_batch
from service.jobs.core.batch import Batch
from service.jobs.core.job import MAX_ID
from service.jobs.read.batches import get_batch, list_batches

router = page_router()

PATH: Final = "/dashboard/batches"
PAGE_ROWS: Final = 50
_LIST: Final = {"batches": "page"}
"""What a cursor belongs to."""
_COUNTS: Final = (
    "pending", "running", "succeeded", "failed", "dead_lettered", "cancelled", "deleted",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shown:
    """A batch, in the words of the pages."""

    batch: Batch

    @property
    def state_class(self) -> str:
        """Of the colour of its state."""
        if self.batch.counts.failed or self.batch.counts.dead_lettered:
            return "failed"
        return "success" if self.batch.completed_at is not None else "running"

    @property
    def share(self) -> float:
        """How much of it has ended, 0 to 1."""
        counts = self.batch.counts
        return min(1.0, counts.ended / counts.jobs) if counts.jobs else 0.0

    @property
    def figures(self) -> list[tuple[str, int]]:
        """Its jobs by what became of them, without those of which there is none."""
        found = ((name.replace("_", " "), getattr(self.batch.counts, name)) for name in _COUNTS)
        return [(name, count) for name, count in found if count]

    @property
    def can_cancel(self) -> bool:
        """Whether there is anything left to cancel."""
        return self.batch.completed_at is None and self.batch.cancelled_at is None


@dataclass(frozen=True, slots=True)
class Batches:
    """What `batches.html` shows."""

    batches: list[Shown]
    next_cursor: str | None
    is_first_page: bool


@dataclass(frozen=True, slots=True)
class OneBatch:
    """What `batch.html` shows."""

    shown: Shown


@router.get("/batches")
async def show_batches(
    request: Request,
    _: Viewer,
    session: Session,
    cursor: Annotated[str, Query(max_length=MAX_CURSOR_CHARS)] = "",
) -> Response:
    """Batches, newest first."""
    before = decode_cursor(cursor, _LIST) if cursor else MAX_ID
    found = await list_batches(session, limit=PAGE_ROWS + 1, before_id=before)
    shown = found[:PAGE_ROWS]
    page = Batches(
        batches=[Shown(one) for one in shown],
        next_cursor=encode_cursor(shown[-1].id, _LIST) if len(found) > PAGE_ROWS else None,
        is_first_page=not cursor,
    )
    return render(request, "batches.html", page=page)


@router.get("/batches/{batch_id}")
async def show_batch(request: Request, _: Viewer, batch_id: BatchId, session: Session) -> Response:
    """One batch, with its counts."""
    page = OneBatch(Shown(await get_batch(session, batch_id)))
    return render(request, "batch.html", page=page)


@router.post("/batches/{batch_id}/cancel")
async def cancel(
    request: Request,
    operator: Operator,
    batch_id: BatchId,
    session: Session,
    sent: Annotated[FormData, Depends(form)],
) -> Response:
    """Cancel its jobs."""
    answer = see(request, f"{PATH}/{batch_id}")
    try:
        await cancel_batch(
            session, batch_id, actor=acting(request, operator), reason=reason_of(sent)
        )
    except Conflict as error:
        return flash(answer, error.detail, kind="failed")
    return flash(answer, f"Batch {batch_id} is being cancelled")
