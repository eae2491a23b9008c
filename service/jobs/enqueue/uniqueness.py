"""Requests for jobs whose `unique_key` a live job holds already."""

import json
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict
from service.jobs import store
from service.jobs.core.encoded_jobs import encrypts
from service.jobs.core.encoding import dump_json
from service.jobs.core.encryption import opened
from service.jobs.core.job import JobId
from service.jobs.core.new_job import EnqueuedJob, NewJob
from service.jobs.core.payload_keys import AlteredCiphertext, PayloadKeyMissing
from service.jobs.read.get import get_job
from service.settings import Settings


async def check_holders(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    enqueued: Sequence[EnqueuedJob],
    *,
    caller: str,
    settings: Settings,
) -> None:
    """Check that the live jobs which hold the keys of jobs do the same as those.

    Args:
        session: holds the caller's transaction.
        jobs: what the caller asked for.
        enqueued: what became of each; those that were created are not checked, nor those that a later
            one of the batch replaced.
        caller: who must have enqueued a holder, unless nobody of the REST API did;
            SHARE_UNIQUE_KEYS allows any caller.
        settings: of the service.

    Raises:
        Conflict: a holder has another type or payload, or is another caller's; then nothing is
            said of it.
    """
    replaced = _replaced(jobs)
    positions = [
        position
        for position, job in enumerate(enqueued)
        if not job.created and position not in replaced
    ]
    if not positions:
        return
    rows = await store.uniqueness.compare(
        session,
        reader=None if settings.share_unique_keys else caller,
        positions=positions,
        ids=[enqueued[position].id for position in positions],
        job_types=[jobs[position].job_type for position in positions],
        payloads=[_payload_text(jobs[position].payload) for position in positions],
    )
    for position, found, same, of_another in rows:
        where = f"Job {position}: " if len(jobs) > 1 else ""
        held = f"{where}unique_key {jobs[position].unique_key!r} is held by"
        if of_another:
            raise Conflict(
                f"{held} a job of another caller: use a key that begins with a name of your own"
            )
        if not same and not (
            found and await _is_same_inside(session, jobs[position], enqueued[position].id)
        ):
            why = "with another job_type or payload" if found else "that has been removed"
            raise Conflict(f"{held} job {enqueued[position].id} {why}")


async def _is_same_inside(session: AsyncSession, job: NewJob, holder_id: JobId) -> bool:
    """Whether a job does the same as its holder, once that is decrypted: two ciphertexts of the same differ.

    Without the key it is not known, and counts as other work.
    """
    if not encrypts(job):
        return False
    holder = await get_job(session, holder_id)
    try:
        payload = opened(holder.payload, job_type=holder.job_type)
    except (PayloadKeyMissing, AlteredCiphertext):
        return False
    return holder.job_type == job.job_type and bool(
        payload == json.loads(_payload_text(job.payload))
    )


def _replaced(jobs: Sequence[NewJob]) -> set[int]:
    by_key: dict[str, list[int]] = defaultdict(list)
    replaced: set[int] = set()
    for position, job in enumerate(jobs):
        if job.unique_key is not None:
            if job.on_conflict in {"replace", "keep_latest"}:
                replaced.update(by_key.pop(job.unique_key, ()))
            by_key[job.unique_key].append(position)
    return replaced


def _payload_text(payload: object) -> str:
    # It has been encoded for the insert already, so that it is storable and not too long.
    return "{}" if payload is None else dump_json(payload, what="payload", max_bytes=2**31)
