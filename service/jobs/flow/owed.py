"""Pays what is owed for jobs that have ended: enqueues their callbacks, and notes when results are dropped.

An end that owes something is noted by the statement that ended the job. What it owes is taken and paid in
one transaction: exactly once, whoever is cut off where.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import asyncpg

from service.db.connection import Link
from service.db.errors import REFUSED_ERRORS
from service.errors import InvalidInput
from service.jobs import store
from service.jobs.core.callback import CALLBACK_TYPE, MAX_RESULT_BYTES, MAX_RESULT_DEPTH, call_of
from service.jobs.core.encoded_jobs import EncodedJobs, encode_jobs
from service.jobs.core.encoding import deeper_than, load_json
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, NewJob
from service.jobs.core.redaction import redact_for
from service.jobs.enqueue.insert import insert
from service.jobs.store.dependencies import Ending
from service.jobs.store.owed import Owed
from service.observability.logging import get_logger
from service.observability.metrics import CALLBACKS

_log = get_logger(__name__)


async def pay(link: Link, endings: Sequence[Ending]) -> set[Lane]:
    """Pay what these ends owe; the lanes with jobs that may start now.

    Raises:
        DATABASE_ERRORS: the database failed; what was not paid is taken again.
    """
    ids = [ending.id for ending in endings if ending.owed_by is not None]
    if not ids:
        return set()
    try:
        return await _pay(link, ids)
    except REFUSED_ERRORS:
        lanes: set[Lane] = set()
        for one in ids:
            lanes |= await _pay_or_forget(link, one)
        return lanes


async def _pay_or_forget(link: Link, ending_id: int) -> set[Lane]:
    """Pay what one end owes. What the database refuses would keep all others from their turn."""
    try:
        return await _pay(link, [ending_id])
    except REFUSED_ERRORS as error:
        async with link.transaction() as connection:
            taken = await store.owed.take(partial(_run, link, connection), [ending_id])
        for job_id, _ in taken:
            _refused(job_id, type(error).__name__)
        return set()


async def _pay(link: Link, ids: Collection[int]) -> set[Lane]:
    async with link.transaction() as connection:
        run = partial(_run, link, connection)
        taken = await store.owed.take(run, ids)
        owing = {job_id for job_id, _ in taken}
        jobs = await store.owed.jobs(run, owing, max_bytes=MAX_RESULT_BYTES)
        await store.owed.keep_results(run, owing)
        calls = [
            row
            for job_id, status in taken
            if (job := jobs.get(job_id)) is not None and job.url is not None
            for row in _call(job, status)
        ]
        if not calls:
            return set()
        inserted = await insert(run, EncodedJobs(calls), unseen=True)
    inserted.count()
    CALLBACKS.labels("enqueued").inc(len(calls))
    return inserted.lanes


def _call(job: Owed, status: str) -> list[Any]:
    """The row of the job that calls; none where it cannot be made: no other end waits for it."""
    try:
        return _encoded(job, status)
    except Exception as error:  # whatever plain SQL wrote, and the rules of its type make of that
        _refused(job.id, error.detail if isinstance(error, InvalidInput) else type(error).__name__)
        return []


def _encoded(job: Owed, status: str) -> list[Any]:
    text = job.result
    if text is not None and deeper_than(text.encode(), MAX_RESULT_DEPTH):
        text = None
    result = None if text is None else redact_for(job.job_type, load_json(text))
    ended = {
        "id": job.id,
        "job_type": job.job_type,
        "queue": job.queue,
        "attempts": job.attempts,
        "finished_at": job.finished_at,
        "last_error": job.last_error,
        "result": result if status == "SUCCESS" else None,
        "result_left_out": status == "SUCCESS" and job.has_result and text is None,
    }
    assert job.url is not None
    call = call_of(job.url, sign_with=job.sign_with, status=status, ended=ended)
    return encode_jobs(
        [NewJob(CALLBACK_TYPE, call)],
        max_payload_bytes=DEFAULT_MAX_PAYLOAD_BYTES,
        caller=job.enqueued_by,
    ).rows


def _refused(job_id: JobId, why: str) -> None:
    CALLBACKS.labels("refused").inc()
    _log.error("callback_refused", job_id=job_id, why=why)


async def _run(
    link: Link, connection: "asyncpg.Connection[asyncpg.Record]", statement: str, *args: object
) -> Sequence[Any]:
    return await connection.fetch(link.render(statement), *args)
