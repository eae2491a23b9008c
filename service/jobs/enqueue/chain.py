"""Enqueueing jobs that run one after the other."""

from collections.abc import Sequence
from functools import partial

from service.db.session import CallerSession, fetch, together
from service.errors import KeyHeld
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.job import JobId
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, EnqueuedJob, NewJob
from service.jobs.enqueue.dependencies import MayName, check_chain, link_in
from service.jobs.enqueue.enqueue import insert_in


async def enqueue_chain(
    session: CallerSession,
    jobs: Sequence[NewJob],
    *,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> list[EnqueuedJob]:
    """Enqueue jobs of which each starts when the one before it has succeeded.

    In the caller's transaction; answers in the order given. The `on_parent_failure` of each says what
    becomes of it when the one before does not succeed. The first may have parents in `after`.

    Raises:
        InvalidInput: a job breaks a rule: its position and field are named, and none is enqueued.
        KeyHeld: another job holds the `unique_key` of one, and would not run in its place.
    """
    return await chain_for(session, jobs, caller=None, max_payload_bytes=max_payload_bytes)


async def chain_for(
    session: CallerSession,
    jobs: Sequence[NewJob],
    *,
    caller: str | None,
    reader: str | None = None,
    may_name: MayName | None = None,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> list[EnqueuedJob]:
    """The same for a caller of the REST API, as `enqueue_for`."""
    encoded = encode_jobs(jobs, max_payload_bytes=max_payload_bytes, caller=caller)
    async with together(session):
        own = await check_chain(partial(fetch, session), jobs, may_name=may_name)
        enqueued = (await insert_in(session, encoded, reader=reader)).jobs
        _check_new(jobs, enqueued)
        befores: list[tuple[JobId, ...]] = [(), *((job.id,) for job in enqueued)]
        links = [
            ((*parents, *before), policy)
            for (parents, policy), before in zip(own, befores, strict=False)
        ]
        await link_in(session, enqueued, links)
    return enqueued


def _check_new(jobs: Sequence[NewJob], enqueued: Sequence[EnqueuedJob]) -> None:
    """Raise KeyHeld where a job exists already: it waits for none of the chain."""
    for position, (job, made) in enumerate(zip(jobs, enqueued, strict=True)):
        if not made.created:
            raise KeyHeld(
                f"Job {position}: job {made.id} holds its unique_key {job.unique_key!r}, and each job of a "
                "chain must be new. Wait until that job has ended, or give another key."
            )
