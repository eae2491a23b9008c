"""Act on many jobs in one transaction; what cannot be acted on is skipped, and named."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import asyncpg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.after_commit import after_commit
from service.db.errors import REFUSED_ERRORS
from service.db.session import fetch
from service.errors import InvalidInput
from service.jobs import store
from service.jobs.core.bulk_action import BulkAction, Verb, merged
from service.jobs.core.concurrency_key import key_after_edit
from service.jobs.core.encoding import edit_json, load_json
from service.jobs.core.encrypted_edits import check_merge
from service.jobs.core.encryption import Sealing
from service.jobs.core.job import JobId
from service.jobs.core.job_types import DEFAULTS, encrypted_of, policies
from service.jobs.core.lane import Lane
from service.jobs.notify.publisher import (
    announce_after_commit,
    publish_after_commit,
    publish_endings_after_commit,
)
from service.jobs.read.list import JobSummary
from service.observability.metrics import record_event

MAX_DETAIL_CHARACTERS: Final = 300
_LOCKED: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)
_EVENTS: Final = {Verb.RETRY: "manual_retry", Verb.CANCEL: "cancelled"}
"""Under which an action counts in the metrics."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A job that was not acted on, and why: a word to count by, and a sentence."""

    job_id: JobId
    reason: str
    detail: str


@dataclass(slots=True)
class ActedOn:
    """What became of some jobs."""

    changed: list[JobId] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionContext:
    """What holds for every job that is acted on."""

    by: str | None
    max_errors: int
    max_payload_bytes: int


Rows = Sequence[tuple[JobId, str, Lane | None]]


async def act_on(
    session: AsyncSession, action: BulkAction, jobs: Sequence[JobSummary], context: ActionContext
) -> ActedOn:
    """Carry out one action on each of these jobs, in the caller's transaction.

    One statement does it, once all are locked as they were read. A single job that the table refuses is
    skipped.

    Raises:
        DBAPIError: the table refuses one of several (`is_refusal`): try fewer at a time.
    """
    done = ActedOn()
    payloads: dict[JobId, str | None] = dict.fromkeys(await _hold(session, jobs, done))
    keys: dict[JobId, str] = {}
    if action.verb is Verb.RETRY:
        await _leave_out_taken_keys(session, jobs, payloads, done)
        if action.payload_merge is not None:
            sealings = {job.id: encrypted_of(job.job_type) for job in jobs}
            await _edit(session, action.payload_merge, payloads, sealings, done, context)
            keys = await _keys_after_edit(session, jobs, payloads, done)
    lanes: set[Lane] = set()
    types: Counter[str] = Counter()
    for job_id, job_type, lane in await _try(session, action, payloads, keys, context, done):
        done.changed.append(job_id)
        types[job_type] += 1
        if lane is not None:
            lanes.add(lane)
    missing = {job.id for job in jobs} - set(done.changed) - {one.job_id for one in done.skipped}
    done.skipped += [
        Skipped(job_id, "changed_meanwhile", "somebody else changed or deleted it meanwhile")
        for job_id in sorted(missing)
    ]
    if lanes:
        await publish_after_commit(session, lanes)
    if done.changed:
        await announce_after_commit(session)
        if action.verb in {Verb.CANCEL, Verb.DELETE}:
            await publish_endings_after_commit(session)
    if (event := _EVENTS.get(action.verb)) is not None:
        await after_commit(session, partial(_count, event, types))
    return done


async def _hold(session: AsyncSession, jobs: Sequence[JobSummary], done: ActedOn) -> list[JobId]:
    """Lock the jobs: those that are still what they were when they were read."""
    ids, statuses = [job.id for job in jobs], {job.status for job in jobs}
    try:
        async with session.begin_nested():
            held = await store.actions.hold_all(session, ids, statuses, wait=True)
    except DBAPIError as error:
        if not isinstance(_cause(error), _LOCKED):
            raise
        held = await store.actions.hold_all(session, ids, statuses, wait=False)
    done.skipped += [
        Skipped(job_id, "locked", "another transaction holds it")
        for job_id, status in held.items()
        if status is None
    ]
    return [job.id for job in jobs if held.get(job.id) == job.status]


async def _leave_out_taken_keys(
    session: AsyncSession,
    jobs: Sequence[JobSummary],
    payloads: dict[JobId, str | None],
    done: ActedOn,
) -> None:
    """One live job has a key: of several that would have it, the newest is retried."""
    keyed = [(job.id, job.unique_key) for job in jobs if job.unique_key is not None]
    if not keyed:
        return
    taken = {
        row[3]: JobId(row[0])
        for row in await store.enqueue.key_holders(
            partial(fetch, session), {key for _, key in keyed}
        )
    }
    for job_id, key in sorted(keyed, reverse=True):
        holder = taken.setdefault(key, job_id)
        if holder != job_id:
            del payloads[job_id]
            done.skipped.append(
                Skipped(job_id, "unique_key", f"job {holder} has its unique_key, and is live")
            )


async def _edit(
    session: AsyncSession,
    patch: dict[str, Any],
    payloads: dict[JobId, str | None],
    sealings: Mapping[JobId, Sealing | None],
    done: ActedOn,
    context: ActionContext,
) -> None:
    """Apply the merge patch to each payload; one that cannot be stored is skipped."""
    for job_id, text in (await store.actions.payloads_of(session, list(payloads))).items():
        merge = partial(_merged, patch=patch, sealing=sealings[job_id])
        try:
            payloads[job_id] = edit_json(
                text, merge, what="payload", max_bytes=context.max_payload_bytes
            )
        except InvalidInput as error:
            del payloads[job_id]
            done.skipped.append(Skipped(job_id, "payload", error.detail[:MAX_DETAIL_CHARACTERS]))


async def _keys_after_edit(
    session: AsyncSession,
    jobs: Sequence[JobSummary],
    payloads: dict[JobId, str | None],
    done: ActedOn,
) -> dict[JobId, str]:
    """The concurrency keys of those that get another one with their payload."""
    keyed = {job.id: job for job in jobs if job.concurrency_key is not None and job.id in payloads}
    keys: dict[JobId, str] = {}
    if not any(policies.get(job.job_type, DEFAULTS).concurrency_key for job in keyed.values()):
        return keys
    for job_id, before in (await store.actions.payloads_of(session, list(keyed))).items():
        job, after = keyed[job_id], payloads[job_id]
        if after is None:
            continue
        try:
            key = key_after_edit(
                job.job_type, job.concurrency_key, before=load_json(before), after=load_json(after)
            )
        except InvalidInput as error:
            del payloads[job_id]
            done.skipped.append(Skipped(job_id, "payload", error.detail[:MAX_DETAIL_CHARACTERS]))
            continue
        if key is not None:
            keys[job_id] = key
    return keys


def _merged(payload: Any, patch: dict[str, Any], *, sealing: Sealing | None) -> Any:
    check_merge(payload, patch, sealing)
    if not isinstance(payload, dict):
        raise InvalidInput("The payload is not an object: a merge would replace it whole")
    return merged(payload, patch)


async def _try(
    session: AsyncSession,
    action: BulkAction,
    payloads: dict[JobId, str | None],
    keys: dict[JobId, str],
    context: ActionContext,
    done: ActedOn,
) -> Rows:
    if not payloads:
        return []
    try:
        async with session.begin_nested():
            return await _run(session, action, payloads, keys, context)
    except DBAPIError as error:
        refusal = _refusal(error)
        if refusal is None or len(payloads) > 1:
            raise
        done.skipped += [Skipped(job_id, *refusal) for job_id in payloads]
        return []


async def _run(
    session: AsyncSession,
    action: BulkAction,
    payloads: dict[JobId, str | None],
    keys: dict[JobId, str],
    context: ActionContext,
) -> Rows:
    ids = list(payloads)
    match action.verb:
        case Verb.RETRY:
            await store.steps.forget_timeouts(session, ids)
            return await store.actions.retry_dead(
                session,
                payloads,
                keys=keys,
                by=context.by,
                max_errors=context.max_errors,
                run_at=action.run_at,
                max_retries=action.max_retries,
            )
        case Verb.CANCEL:
            cancelled = await store.actions.cancel(
                session,
                ids,
                asked_by=context.by,
                reason=None,
                by=context.by,
                max_errors=context.max_errors,
            )
            return [(*row, None) for row in cancelled]
        case Verb.DELETE:
            deleted = await store.actions.delete(session, ids)
            gone = [job_id for job_id, _ in deleted]
            await store.job_logs.delete(session, gone)
            await store.steps.delete(session, gone)
            return [(*row, None) for row in deleted]
        case Verb.RESCHEDULE | Verb.MOVE | Verb.SET_PRIORITY:
            return await store.actions.change(
                session,
                ids,
                by=context.by,
                max_errors=context.max_errors,
                message=", ".join(f"{name}: {new}" for name, new in action.values().items()),
                **action.change().encoded(),
            )


def is_refusal(error: DBAPIError) -> bool:
    """Whether the jobs are to blame, or their number; else the database fails."""
    return _refusal(error) is not None


def _cause(error: DBAPIError) -> BaseException | None:
    return error.orig.__cause__ if error.orig else None


def _refusal(error: DBAPIError) -> tuple[str, str] | None:
    """The reason and the words of a refusal that lies in the jobs; None: the database fails."""
    match cause := _cause(error):
        case asyncpg.UniqueViolationError():
            return "unique_key", "another live job has its unique_key"
        case asyncpg.QueryCanceledError():
            return "too_slow", "to change it takes longer than a statement may"
        case _ if isinstance(cause, _LOCKED):
            return "locked", "another transaction holds it"
        case _ if isinstance(cause, REFUSED_ERRORS):
            words = str(cause).splitlines()[0][:MAX_DETAIL_CHARACTERS]
            return "row", f"its row breaks a rule of the table: {words}"
        case _:
            return None


def _count(event: str, types: Counter[str]) -> None:
    for job_type, count in types.items():
        record_event(event, job_type, count=count)
