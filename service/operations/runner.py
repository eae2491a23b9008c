"""The `finmind.operation` job: carries an operation out, a chunk at a time.

A chunk is one transaction: it locks the operation, looks for the next jobs below where the chunk before
ended, acts on them, and notes how far it came. Killed anywhere, the next attempt goes on from there,
and a job is acted on once. Ids only fall, so that a job which was retried and dies again is not met a
second time.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.db.after_commit import after_commit
from service.db.engine import Database
from service.db.session import bound_queries
from service.jobs import Backoff, JobContext, Registry, Snooze, registry
from service.jobs.actions.many import ActedOn, ActionContext, Skipped, act_on, is_refusal
from service.jobs.core.bulk_action import ACTS_ON
from service.jobs.core.job import JobId
from service.jobs.flow.queues import OWN_QUEUE
from service.jobs.notify.publisher import announce_after_commit
from service.jobs.read.list import JobSummary
from service.jobs.read.walk import take_step
from service.observability.logging import get_logger
from service.observability.metrics import OPERATION_ENDS, OPERATION_JOBS
from service.operations import repository
from service.operations.model import JOB_TYPE, Canary, Operation, OperationId, OperationState
from service.operations.pace import Pace
from service.operations.selection import names_jobs, read_kept
from service.settings import Settings

SEGMENT_SECONDS: Final = 10.0
"""How long one run of the job works before it makes way for other jobs."""

STATEMENT_SECONDS: Final = 10.0
"""Limit on one statement of a chunk: where it is refused fewer jobs are tried, down to the one to blame."""

LOCK_SECONDS: Final = 1.0
"""How long a chunk waits for jobs that other transactions hold."""

LONGEST_REST_SECONDS: Final = 1.0
"""For a longer rest the job gives its slot back."""

CANARY_LOOK_SECONDS: Final = 1.0
"""How often the fate of a canary is looked at."""

_log = get_logger(__name__)


class RunOperation(BaseModel):
    """Payload of a `finmind.operation` job: which operation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    operation_id: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one transaction came to."""

    jobs: int = 0
    finished: bool = False
    """Whether nothing is left to do for this job."""
    waits: bool = False
    """Whether the fate of the canary is waited for."""
    waited: bool = False
    """Whether other transactions held some of its jobs."""


class OperationRunner:
    """Carries operations out: what the handler needs besides its payload."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        # Most of the pool is left to requests.
        self._turns = asyncio.Semaphore(max(1, settings.database_pool_size // 4))

    async def run(self, payload: RunOperation, context: JobContext) -> dict[str, Any]:
        """Work for `SEGMENT_SECONDS`, then come back; the operation says how far it is.

        Raises:
            Snooze: there is more to do.
        """
        operation_id = OperationId(payload.operation_id)
        pace = Pace()
        until = time.monotonic() + SEGMENT_SECONDS
        moved = False
        while not moved or time.monotonic() < until:
            async with self._turns:
                began = time.monotonic()
                try:
                    async with self._database.sessions.begin() as session:
                        operation = await repository.find(session, operation_id, lock=True)
                        chunk = await self._chunk(session, operation, context.job_id, pace)
                except DBAPIError as error:
                    if not (is_refusal(error) and pace.shrink()):
                        raise
                    continue
                moved, took = True, time.monotonic() - began
            if operation is None or chunk.finished:
                return {"operation_id": operation_id}
            if chunk.waits:
                raise Snooze(CANARY_LOOK_SECONDS)
            rest = pace.rest_seconds(chunk.jobs, took, operation, waited=chunk.waited)
            if rest > LONGEST_REST_SECONDS:
                raise Snooze(rest)
            await asyncio.sleep(rest)
        raise Snooze(0)

    async def _chunk(
        self, session: AsyncSession, operation: Operation | None, job_id: JobId, pace: Pace
    ) -> Chunk:
        if operation is None or operation.state is not OperationState.RUNNING:
            return Chunk(finished=True)
        if operation.job_id != job_id:
            return Chunk(finished=True)  # another job was given it
        if operation.canary_until is not None and operation.canary is not None:
            return await self._judge(session, operation, operation.canary)
        return await self._act(session, operation, pace)

    async def _act(self, session: AsyncSession, operation: Operation, pace: Pace) -> Chunk:
        await self._bound(session)
        want = pace.want(operation)
        jobs, skipped, before_id, last = await _next_jobs(
            session, operation, want=want, scan=pace.scan(want)
        )
        pace.found(len(jobs) + len(skipped), want=want)
        done = await act_on(session, operation.action, jobs, self._context(operation))
        trial = operation.canary is not None and not operation.canary_passed
        await repository.advance(
            session,
            operation,
            before_id=before_id,
            changed=len(done.changed),
            skipped=skipped + done.skipped,
            canary_ids=done.changed if trial else [],
        )
        verb, skips = operation.action.verb.value, len(skipped) + len(done.skipped)
        await after_commit(session, partial(_count, verb, len(done.changed), skips))
        if last:
            await self._finish(session, operation, done)
        elif (
            trial
            and operation.canary is not None
            and len(operation.canary_ids) + len(done.changed) >= operation.canary.jobs
        ):
            await repository.await_canary(session, operation, operation.canary)
        waited = any(one.reason == "locked" for one in done.skipped)
        return Chunk(jobs=len(jobs), finished=last, waited=waited)

    async def _bound(self, session: AsyncSession) -> None:
        # The server gives up first: it can say which statement, and the connection lives on.
        seconds = min(STATEMENT_SECONDS, self._settings.database_command_timeout_seconds * 0.8)
        await bound_queries(session, seconds)
        await session.execute(
            text("SELECT set_config('lock_timeout', :milliseconds, true)"),
            {"milliseconds": str(int(LOCK_SECONDS * 1000))},
        )

    def _context(self, operation: Operation) -> ActionContext:
        return ActionContext(
            by=f"{operation.actor} (operation {operation.id})",
            max_errors=self._settings.max_error_entries,
            max_payload_bytes=self._settings.max_payload_bytes,
        )

    async def _judge(self, session: AsyncSession, operation: Operation, canary: Canary) -> Chunk:
        """Go on, stop, or wait on, as the canary fares."""
        tried = len(operation.canary_ids)
        failed, undecided, over = await repository.fates(session, operation)
        allowed = canary.max_failed_percent / 100 * tried
        if failed > allowed:
            words = f"{failed} of the first {tried} jobs failed again"
        elif undecided and over:
            words = f"{undecided} of the first {tried} jobs had not ended after {canary.wait_seconds:g} s"
        elif undecided and failed + undecided > allowed:
            return Chunk(waits=True)
        else:
            await repository.release_canary(session, operation.id)
            return Chunk()
        await repository.set_state(session, operation.id, OperationState.STOPPED, note=words)
        await _record(session, operation, "operation.stop", reason=words)
        await after_commit(session, OPERATION_ENDS.labels("stopped").inc)
        _log.warning("operation_stopped", operation_id=operation.id, why=words)
        return Chunk(finished=True)

    async def _finish(self, session: AsyncSession, operation: Operation, done: ActedOn) -> None:
        await repository.set_state(session, operation.id, OperationState.DONE, finished=True)
        changed = operation.changed + len(done.changed)
        await _record(session, operation, "operation.finish", after={"changed": changed})
        await after_commit(session, OPERATION_ENDS.labels("done").inc)
        _log.info("operation_done", operation_id=operation.id, changed=changed)


async def _next_jobs(
    session: AsyncSession, operation: Operation, *, want: int, scan: int
) -> tuple[list[JobSummary], list[Skipped], int, bool]:
    """The next jobs to act on, those to skip, where to go on, and whether this is the end."""
    filters = read_kept(operation.filter)
    if not names_jobs(filters):
        step = await take_step(session, filters, before=operation.before_id, want=want, scan=scan)
        fit = [job for job in step.jobs if _stood_at_start(job, operation)]
        own = [job for job in fit if job.job_type == JOB_TYPE]
        jobs = [job for job in fit if job.job_type != JOB_TYPE]
        skipped = [Skipped(job.id, "own_job", "it carries an operation out") for job in own]
        return jobs, skipped, step.before, step.last
    left = sorted((one for one in filters.ids or () if one < operation.before_id), reverse=True)
    named = [JobId(one) for one in left[:want]]
    if not named:
        return [], [], 0, True
    step = await take_step(
        session,
        replace(filters, ids=named),
        before=operation.before_id,
        want=len(named) + 1,
        scan=len(named) + 1,
    )
    found = {job.id: job for job in step.jobs}
    jobs, skipped = [], []
    for one in named:
        job = found.get(one)
        if job is None:
            skipped.append(Skipped(one, "no_such_job", "there is no such job"))
        elif (why := _why_not(job, operation)) is not None:
            skipped.append(Skipped(one, *why))
        else:
            jobs.append(job)
    return jobs, skipped, named[-1], len(named) == len(left)


def _why_not(job: JobSummary, operation: Operation) -> tuple[str, str] | None:
    """Why a job that was named is not acted on; None: it is."""
    if job.status not in ACTS_ON[operation.action.verb]:
        return "status", f"it is {job.status}"
    if job.job_type == JOB_TYPE:
        return "own_job", "it carries an operation out"
    if not _stood_at_start(job, operation):
        return "later", "it was enqueued, or ended, after the operation had begun"
    return None


def _stood_at_start(job: JobSummary, operation: Operation) -> bool:
    began = operation.started_at
    return job.created_at <= began and (job.finished_at is None or job.finished_at <= began)


def _count(verb: str, changed: int, skipped: int) -> None:
    OPERATION_JOBS.labels(verb, "changed").inc(changed)
    OPERATION_JOBS.labels(verb, "skipped").inc(skipped)


async def _record(session: AsyncSession, operation: Operation, action: str, **entry: Any) -> None:
    await audit.record(
        session,
        Actor(f"operation {operation.id}"),
        action,
        subject_type="operation",
        subject_id=str(operation.id),
        **entry,
    )
    await announce_after_commit(session)


def bind(database: Database, settings: Settings, *, to: Registry = registry) -> OperationRunner:
    """Register the handler of operations on this database; called at the start of a service."""
    runner = OperationRunner(database, settings)
    to.handler(
        JOB_TYPE,
        timeout=SEGMENT_SECONDS * 6 + 60,
        # An operation outlives an hour without its database, and many workers that die under it.
        max_retries=1000,
        backoff=Backoff(base_seconds=1, factor=2, cap_seconds=30, jitter=0.2),
        payload_model=RunOperation,
        queue=OWN_QUEUE,
        internal=True,
    )(runner.run)
    return runner
