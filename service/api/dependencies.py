"""`/jobs/chain` and what a job waits for, or is waited for by. Parse, call, map."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response, Security
from pydantic import BaseModel, ConfigDict, Field

from service.api.enqueue import Key, Writer, enqueue_list
from service.api.enqueue_policy import Named, may_read
from service.api.guarded import GuardedRoute
from service.api.jobs import Id
from service.api.new_job_schemas import EXAMPLE_IN, BatchIn, BatchOut
from service.api.problems import problem_responses
from service.api.refusals import FIRST_ERRORS
from service.api.session import Session
from service.auth.dependencies import require
from service.auth.principal import Permission, Principal
from service.errors import NotFound
from service.jobs.core.dependencies import OnParentFailure
from service.jobs.core.job import MAX_ID, JobId, JobStatus
from service.jobs.enqueue.chain import chain_for
from service.jobs.read.dependencies import RELATIVES, children_of, parents_of
from service.jobs.read.get import get_job
from service.jobs.store.relatives import Relative

router = APIRouter(prefix="/jobs", tags=["Jobs"], route_class=GuardedRoute)

Reader = Annotated[Principal, Security(require(Permission.JOBS_READ))]
After = Annotated[int, Query(ge=0, le=MAX_ID, description="Begin behind this id.", examples=[0])]
EXAMPLE: Final[dict[str, Any]] = {
    "id": 41,
    "job_type": "import_file",
    "queue": "default",
    "status": "SUCCESS",
    "on_parent_failure": "cancel",
}


class ChainIn(BatchIn):
    """Jobs of which each waits for the one before."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"jobs": [EXAMPLE_IN, {"job_type": "demo.slow"}]}]},
    )


class RelativeOut(BaseModel):
    """A job that another waits for, or the other way round."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [EXAMPLE]})

    id: JobId = Field(description="Its number.")
    job_type: str | None = Field(
        description="Its type. null: it is gone, or your API key may not read it."
    )
    queue: str | None = Field(description="Its queue; null as above.")
    status: JobStatus | None = Field(description="Its status; null as above.")
    on_parent_failure: OnParentFailure = Field(
        description="What becomes of the child if the parent does not succeed."
    )


class RelativesOut(BaseModel):
    """One page of parents or children, by id."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"jobs": [EXAMPLE], "more": False}]})

    jobs: list[RelativeOut]
    more: bool = Field(description="Whether there are more: ask with `after` at the last id.")


@router.post(
    "/chain",
    operation_id="enqueueChain",
    summary="Enqueue jobs that run one after the other",
    response_description="The ids of the jobs, in the order given.",
    status_code=201,
    responses={
        200: {"model": BatchOut, "description": "The `Idempotency-Key` had been used: its jobs."},
        **problem_responses(400, 409, 422, 503),
    },
)
async def enqueue_chain(
    request: Request,
    response: Response,
    body: Annotated[ChainIn, FIRST_ERRORS],
    principal: Writer,
    session: Session,
    idempotency_key: Key = None,
) -> BatchOut:
    """One transaction, as `POST /jobs/batch`. Each job starts once the one before it has succeeded.

    `on_parent_failure` of a job says what becomes of it when the one before does not. The first may have
    `after` as well. A job whose `unique_key` is held is not made: the next one waits for the holder.
    """
    return await enqueue_list(
        request, response, body, principal, session, idempotency_key=idempotency_key,
        kind="chain", enqueue=chain_for,
    )  # fmt: skip


@router.get(
    "/{job_id}/parents",
    operation_id="getParents",
    summary="List the jobs that a job waits for",
    response_description="One page of its parents.",
    responses=problem_responses(404, 422, 503),
)
async def read_parents(
    principal: Reader, job_id: Id, session: Session, after: After = 0
) -> RelativesOut:
    """Those named in its `after`, 100 at a time, for as long as `DEPENDENCY_RETENTION_DAYS` says."""
    await _readable(session, job_id, principal)
    return _page(await parents_of(session, JobId(job_id), after_id=after), principal)


@router.get(
    "/{job_id}/children",
    operation_id="getChildren",
    summary="List the jobs that wait for a job",
    response_description="One page of its children.",
    responses=problem_responses(404, 422, 503),
)
async def read_children(
    principal: Reader, job_id: Id, session: Session, after: After = 0
) -> RelativesOut:
    """Those that named it in their `after`, 100 at a time."""
    await _readable(session, job_id, principal)
    return _page(await children_of(session, JobId(job_id), after_id=after), principal)


async def _readable(session: Session, job_id: int, principal: Principal) -> None:
    if not may_read(principal, await get_job(session, JobId(job_id))):
        raise NotFound(f"There is no job {job_id} of a queue and type that your API key may read")


def _page(found: list[Relative], principal: Principal) -> RelativesOut:
    shown = found[:RELATIVES]
    return RelativesOut(
        jobs=[RelativeOut.model_validate(_as_seen_by(principal, one)) for one in shown],
        more=len(found) > RELATIVES,
    )


def _as_seen_by(principal: Principal, one: Relative) -> Relative:
    seen: Named | None = one if one.job_type is not None and one.queue is not None else None  # type: ignore[assignment]
    if seen is None or may_read(principal, seen):
        return one
    return one._replace(job_type=None, queue=None, status=None)
