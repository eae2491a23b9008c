"""`GET /jobs/{job_id}/events`: what happens to a job, as it happens. Parse, call, map."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.enqueue_policy import may_read
from service.api.event_stream import EventStream, LastEvent
from service.api.guarded import GuardedRoute
from service.api.jobs import Id, Reader
from service.api.lasting import followers_of
from service.api.problems import problem_responses
from service.api.session import transaction
from service.auth.principal import Permission, Principal
from service.errors import Forbidden, NotFound
from service.jobs.core.job import LIVE, BackgroundJob, JobId
from service.jobs.following.follower import Position
from service.jobs.following.follower import Reader as EventReader
from service.jobs.read.get import get_job

router = APIRouter(tags=["Jobs"], route_class=GuardedRoute)

WIDER: Final = Permission.ADMIN_READ
"""Who has it may read the events of others' jobs: operators read what handlers log anyway."""
_EXAMPLE: Final = """\
retry: 2000

id: 0.0-5b0f0c1d
event: status
data: {"status": "RUNNING", "attempts": 1, "next_run_at": "2026-03-01T09:00:00Z", \
"started_at": "2026-03-01T09:00:00Z", "finished_at": null, "held_for": null, \
"cancel_asked": false, "last_error": null}

id: 0.0-9a4e11c2
event: progress
data: {"fraction": 0.5, "message": "half"}

id: 9017.1-9a4e11c2
event: log
data: {"attempt": 1, "at": "2026-03-01T09:00:01Z", "level": "info", "message": "sent", "fields": null}

id: 9017.1-77d02b6f-end
event: end
data: {"status": "SUCCESS"}
"""
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events, until the job has ended.",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
    },
    204: {"description": "The client has read the end already: do not connect again."},
}


class _Events(StreamingResponse):
    """An answer that lasts until the job has ended, and gives the place of its client back."""

    media_type = "text/event-stream"

    def __init__(self, reader: EventReader, stream: EventStream) -> None:
        super().__init__(
            stream.texts(),
            # nginx would collect the events before it passes them on.
            headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"},
        )
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._reader:
            await super().__call__(scope, receive, send)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="readJobEvents",
    summary="Follow a job",
    response_class=Response,
    responses={**_STREAM, **problem_responses(403, 404, 422, 503)},
)
async def read_job_events(
    request: Request,
    principal: Reader,
    job_id: Id,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            pattern=LastEvent.PATTERN,
            description="`id` of the last event that was read: what comes after it.",
            examples=["9017.1-9a4e11c2"],
        ),
    ] = None,
) -> Response:
    """What happens to the job, a moment after it happens, as server-sent events.

    They are `status`, `progress`, `log` (a line that its handler logged) and `end`. The first tell how it stands, and all that it has logged. A client that connects again with
    `Last-Event-ID`, as browsers do, gets the lines that came since; of status and progress it gets the
    newest, not each that came in between. The stream ends after the job's end, and after ten minutes:
    connect again.

    A job that another caller enqueued needs `admin:read`. Beyond `MAX_FOLLOWERS` such requests and
    `wait`s in a process the answer is 503.
    """
    last = LastEvent.parse(last_event_id)
    after = Position(0, 0) if last is None else last.position
    followers = followers_of(request)
    reader = followers.read(JobId(job_id), caller=principal.subject, after=after)
    try:
        async with transaction(request) as session:
            job = await _own(session, principal, job_id)
        if last is not None and last.is_end and job.status not in LIVE:
            reader.leave()
            return Response(status_code=204)
        stream = EventStream(
            reader, job_type=job.job_type, seen=None if last is None else last.digest
        )
        return _Events(reader, stream)
    except BaseException:
        reader.leave()
        raise


async def _own(session: AsyncSession, caller: Principal, job_id: int) -> BackgroundJob:
    """The job, if this caller may read its events.

    Raises:
        NotFound: there is none, or none that it may read.
        Forbidden: another caller enqueued it.
    """
    job = await get_job(session, JobId(job_id))
    if not may_read(caller, job):
        raise NotFound(f"There is no job {job_id} of a queue and type that your API key may read")
    if job.enqueued_by != caller.subject and not caller.may(WIDER):
        raise Forbidden(
            f"Job {job_id} was enqueued by another caller: only that one, or who holds {WIDER}, may "
            "read its events",
            scope=WIDER,
        )
    return job
