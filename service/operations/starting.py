"""Preview, start, pause, resume and cancel operations."""

from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from service import audit
from service.audit import Actor
from service.errors import Conflict, InvalidInput, NotFound
from service.jobs import NewJob, enqueue_batch
from service.jobs.core.bulk_action import ACTS_ON, BulkAction, Verb
from service.jobs.core.filters import JobFilters
from service.jobs.core.job import JobId
from service.jobs.core.redaction import redact_for_any
from service.jobs.flow.queues import OWN_QUEUE
from service.jobs.notify.publisher import announce_after_commit
from service.jobs.read.list import JobSummary, list_jobs
from service.jobs.read.walk import newest_id
from service.operations import repository
from service.operations.model import (
    FINISHED,
    JOB_TYPE,
    RESUMABLE,
    Canary,
    Operation,
    OperationId,
    OperationState,
)
from service.operations.pace import DEFAULT_RATE
from service.operations.selection import acted_on, kept, names_jobs
from service.settings import Settings

MAX_RUNNING: Final = 20
"""Operations that run at once."""

SAMPLE: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRequest:
    """What is asked for: one action on the jobs that match, and how fast.

    Args:
        action: what is done to each.
        filters: which jobs.
        all_jobs: that no filter is meant: an empty one is refused without it.
        rate: limit on jobs per second; `DEFAULT_RATE` where None.
        canary: the first jobs of a retry, whose fate decides.
        reason: why, for the audit log.
    """

    action: BulkAction
    filters: JobFilters
    all_jobs: bool = False
    rate: float | None = None
    canary: Canary | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What an operation would act on."""

    count: int
    exact: bool
    """False: there are at least so many."""
    sample: list[JobSummary]
    seconds: float
    """About how long it would take."""


async def preview(
    session: AsyncSession,
    verb: Verb,
    filters: JobFilters,
    settings: Settings,
    *,
    rate: float | None = None,
) -> Preview:
    """Count what an operation would act on, up to `COUNT_CAP`, and show the first of them.

    Raises:
        InvalidInput: the filters ask only for statuses that the verb is not for.
    """
    found = await list_jobs(
        session,
        acted_on(filters, verb),
        limit=SAMPLE,
        cap=settings.count_cap,
        scan_seconds=settings.page_scan_seconds,
    )
    seconds = found.total / (rate or DEFAULT_RATE)
    return Preview(found.total, found.total_exact, found.jobs, seconds)


async def start(
    session: AsyncSession,
    request: OperationRequest,
    settings: Settings,
    *,
    actor: Actor,
    key: tuple[str, bytes] | None = None,
) -> Operation:
    """Start an operation in the caller's transaction: a job carries it out once that commits.

    What it acts on is fixed now: jobs that are enqueued, or die, later are not touched.

    Args:
        session: holds the caller's transaction.
        request: what is asked for.
        settings: bounds of the count.
        actor: who starts it.
        key: the Idempotency-Key of the request and the hash of what it asks for; the operation that
            an earlier one started is returned.

    Raises:
        InvalidInput: a value breaks a rule, or the filter is empty and `all_jobs` is not said.
        Conflict: too many operations run, or the key belongs to another request.
    """
    _check(request)
    values = await _fixed(session, request, settings)
    await repository.lock_starts(session)
    if key is not None:
        if (earlier := await repository.with_key(session, actor.subject, key[0])) is not None:
            return await _same(session, earlier, key)
        values |= {"idempotency_key": key[0], "request_hash": key[1]}
    await _make_room(session)
    operation_id = await repository.insert(session, values | {"actor": actor.subject})
    await _run(session, operation_id)
    await _record(
        session, actor, "operation.start", operation_id, reason=request.reason,
        filter=values["filter"],
        after=redact_for_any(
            {name: values[name] for name in ("action", "parameters", "expected", "rate", "canary")}
        ),
    )  # fmt: skip
    return await read(session, operation_id)


async def read(session: AsyncSession, operation_id: OperationId) -> Operation:
    """One operation.

    Raises:
        NotFound: there is none of that id.
    """
    found = await repository.find(session, operation_id)
    if found is None:
        raise NotFound(f"There is no operation {operation_id}")
    return found


async def pause(
    session: AsyncSession, operation_id: OperationId, *, actor: Actor, reason: str | None = None
) -> Operation:
    """Stop a running operation for now: no chunk begins after the caller's transaction commits.

    Raises:
        NotFound: there is none of that id.
        Conflict: it is not running.
    """
    await _expect(session, operation_id, {OperationState.RUNNING}, "paused")
    await repository.set_state(session, operation_id, OperationState.PAUSED, note=reason)
    await _record(session, actor, "operation.pause", operation_id, reason=reason)
    return await read(session, operation_id)


async def resume(
    session: AsyncSession, operation_id: OperationId, *, actor: Actor, reason: str | None = None
) -> Operation:
    """Go on from where an operation was paused, stopped by its canary, or lost its job.

    Whoever resumes one that its canary stopped has decided that the others follow.

    Raises:
        NotFound: there is none of that id.
        Conflict: it runs or is finished, or too many others run.
    """
    was = await _expect(session, operation_id, RESUMABLE, "resumed")
    await _make_room(session)
    if was.state is OperationState.STOPPED:
        await repository.release_canary(session, operation_id)
    await _run(session, operation_id)
    await _record(
        session, actor, "operation.resume", operation_id, reason=reason, before={"state": was.state}
    )
    return await read(session, operation_id)


async def cancel(
    session: AsyncSession, operation_id: OperationId, *, actor: Actor, reason: str | None = None
) -> Operation:
    """End an operation for good; what it has changed stays changed.

    Raises:
        NotFound: there is none of that id.
        Conflict: it is finished.
    """
    unfinished = set(OperationState) - FINISHED
    was = await _expect(session, operation_id, unfinished, "cancelled")
    await repository.set_state(
        session, operation_id, OperationState.CANCELLED, note=reason, finished=True
    )
    await _record(
        session, actor, "operation.cancel", operation_id, reason=reason,
        before={"state": was.state}, after={"changed": was.changed, "skipped": was.skipped},
    )  # fmt: skip
    return await read(session, operation_id)


def _check(request: OperationRequest) -> None:
    request.action.check()
    if not request.filters.active() and not request.all_jobs:
        raise InvalidInput(
            "The filter is empty: to act on every job that is "
            f"{' or '.join(sorted(ACTS_ON[request.action.verb]))}, set all to true",
            field="body.filter",
        )
    if request.canary is not None and request.action.verb is not Verb.RETRY:
        raise InvalidInput(
            f"A canary is for retries: the jobs of a {request.action.verb} have no fate to wait for",
            field="body.canary",
        )


async def _fixed(
    session: AsyncSession, request: OperationRequest, settings: Settings
) -> dict[str, Any]:
    """What is asked for, as it is kept: its times and its jobs are fixed."""
    filters = request.filters
    if names_jobs(filters):
        expected, exact = len(filters.ids or ()), True
    else:
        filters = acted_on(filters, request.action.verb)
        found = await preview(session, request.action.verb, filters, settings)
        expected, exact = found.count, found.exact
    return {
        "action": request.action.verb.value,
        "parameters": request.action.values(),
        "filter": kept(filters),
        "before_id": await _above(session, filters),
        "expected": expected,
        "expected_exact": exact,
        "rate": request.rate,
        "canary": None if request.canary is None else asdict(request.canary),
        "reason": request.reason,
        "idempotency_key": None,
        "request_hash": None,
    }


async def _same(
    session: AsyncSession, earlier: tuple[OperationId, bytes], key: tuple[str, bytes]
) -> Operation:
    if earlier[1] != key[1]:
        raise Conflict(
            f"The Idempotency-Key {key[0]!r} belongs to operation {earlier[0]}, which asked for "
            "something else: use a new key"
        )
    return await read(session, earlier[0])


async def _make_room(session: AsyncSession) -> None:
    await repository.lock_starts(session)
    if await repository.count_running(session) >= MAX_RUNNING:
        raise Conflict(
            f"{MAX_RUNNING} operations are running: wait until one is done, or cancel or pause one"
        )


async def _above(session: AsyncSession, filters: JobFilters) -> int:
    """The first id that no job has which the operation may meet."""
    if names_jobs(filters):
        return max(filters.ids or (0,)) + 1
    return await newest_id(session) + 1


async def _run(session: AsyncSession, operation_id: OperationId) -> None:
    (job,) = await enqueue_batch(
        session, [NewJob(JOB_TYPE, {"operation_id": operation_id}, queue=OWN_QUEUE)]
    )
    await repository.run_by(session, operation_id, JobId(job.id))


async def _expect(
    session: AsyncSession,
    operation_id: OperationId,
    states: set[OperationState] | frozenset[OperationState],
    done: str,
) -> Operation:
    found = await repository.find(session, operation_id, lock=True)
    if found is None:
        raise NotFound(f"There is no operation {operation_id}")
    if found.state not in states:
        raise Conflict(
            f"Operation {operation_id} is {found.state}: only one that is "
            f"{' or '.join(sorted(states))} can be {done}"
        )
    return found


async def _record(
    session: AsyncSession, actor: Actor, action: str, operation_id: OperationId, **entry: Any
) -> None:
    await audit.record(
        session, actor, action, subject_type="operation", subject_id=str(operation_id), **entry
    )
    await announce_after_commit(session)
