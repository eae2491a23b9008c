"""Enqueueing for clients that may ask twice: by `unique_key`, by `Idempotency-Key`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict
from service.jobs.encoding import dump_json
from service.jobs.enqueue import EnqueuedJob, enqueue_batch
from service.jobs.model import JobId
from service.jobs.new_job import DEFAULT_MAX_PAYLOAD_BYTES, NewJob

_MAX_ROUNDS: Final = 5

# The row of another transaction makes this wait until that one ends. A key whose time is over is
# taken as if it were not there, whenever maintenance removes it.
_TAKE_KEY: Final = text("""
    INSERT INTO finmind_jobs.idempotency_keys AS k (owner, key, body_hash, job_ids)
    VALUES (:owner, :key, :body_hash, '{}')
    ON CONFLICT (owner, key) DO UPDATE
      SET body_hash = excluded.body_hash, job_ids = '{}', created_at = now()
      WHERE k.created_at < now() - make_interval(hours => :hours)
    RETURNING true""")
_STANDING_KEY: Final = text(
    "SELECT body_hash, job_ids FROM finmind_jobs.idempotency_keys WHERE owner = :owner AND key = :key"
)
_KEEP_KEY: Final = text(
    "UPDATE finmind_jobs.idempotency_keys SET job_ids = :job_ids WHERE owner = :owner AND key = :key"
)
# Compared as jsonb: the order of keys and the spelling of numbers make no difference.
_SAME: Final = text("""
    SELECT asked.place, job.id IS NOT NULL AS found,
      job.job_type = asked.job_type AND job.payload = asked.payload::jsonb AS same
    FROM unnest(CAST(:places AS int[]), CAST(:ids AS bigint[]), CAST(:job_types AS text[]),
                CAST(:payloads AS text[])) AS asked(place, id, job_type, payload)
    LEFT JOIN finmind_jobs.background_jobs AS job ON job.id = asked.id
    ORDER BY asked.place""")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A request's name, chosen by its owner, and the digest of what it asks for."""

    owner: str
    key: str
    body_hash: bytes

    @classmethod
    def of(cls, body: object, *, owner: str, key: str) -> "IdempotencyKey":
        """The key of a request with this JSON body, however its members are ordered."""
        # Escaped to ASCII, so that a lone surrogate is refused later, with words.
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), default=str)
        return cls(owner, key, hashlib.sha256(canonical.encode()).digest())


@dataclass(frozen=True, slots=True)
class Submission:
    """Ids of the jobs asked for, in order; `repeated` when the request had been made before."""

    ids: list[JobId]
    created: int
    repeated: bool


async def submit(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    *,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> Submission:
    """Enqueue the jobs in the caller's transaction, all or none.

    Raises:
        InvalidInput: a job breaks a rule.
        Conflict: a `unique_key` is held by a job with another type or payload.
    """
    enqueued = await enqueue_batch(session, jobs, max_payload_bytes=max_payload_bytes)
    await check_standing(session, jobs, enqueued)
    created = sum(job.created for job in enqueued)
    return Submission([job.id for job in enqueued], created, repeated=False)


async def submit_once(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    key: IdempotencyKey,
    *,
    hours: int,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> Submission:
    """Enqueue the jobs, unless a request with this key already did; then find what it made.

    Key and jobs are one transaction, the caller's: of many requests at once with one key, one
    enqueues and the others wait for it.

    Args:
        session: holds the caller's transaction.
        jobs: what the request asks for.
        key: the request's name.
        hours: how long a key is remembered.
        max_payload_bytes: bound on each payload.

    Raises:
        InvalidInput: a job breaks a rule.
        Conflict: the key was used with another body, or a `unique_key` is held by another job.
    """
    names = {"owner": key.owner, "key": key.key}
    for _ in range(_MAX_ROUNDS):
        taken = await session.execute(
            _TAKE_KEY, names | {"body_hash": key.body_hash, "hours": hours}
        )
        if taken.scalar():
            made = await submit(session, jobs, max_payload_bytes=max_payload_bytes)
            await session.execute(_KEEP_KEY, names | {"job_ids": made.ids})
            return made
        standing = (await session.execute(_STANDING_KEY, names)).one_or_none()
        if standing is None:  # removed by maintenance between the two statements
            continue
        if standing.body_hash != key.body_hash:
            raise Conflict(
                f"the Idempotency-Key {key.key!r} was used with another body: a new request needs "
                "a new key"
            )
        return Submission([JobId(one) for one in standing.job_ids], 0, repeated=True)
    raise Conflict(
        f"the Idempotency-Key {key.key!r} was taken and freed again and again: try again"
    )


async def check_standing(
    session: AsyncSession, jobs: Sequence[NewJob], enqueued: Sequence[EnqueuedJob]
) -> None:
    """Make sure that each job not created is met by a standing one that does the same.

    Raises:
        Conflict: a `unique_key` is held by a job with another type or payload.
    """
    places = [place for place, job in enumerate(enqueued) if not job.created]
    if not places:
        return
    rows = await session.execute(
        _SAME,
        {
            "places": places,
            "ids": [enqueued[place].id for place in places],
            "job_types": [jobs[place].job_type for place in places],
            "payloads": [_payload_text(jobs[place].payload) for place in places],
        },
    )
    for place, found, same in rows:
        if not same:
            where = f"job {place}: " if len(jobs) > 1 else ""
            holder = f"job {enqueued[place].id}"
            why = "with another job_type or payload" if found else "that is just being removed"
            raise Conflict(
                f"{where}the unique_key {jobs[place].unique_key!r} is held by {holder} {why}"
            )


def _payload_text(payload: object) -> str:
    # It has been enqueued or met already, so that it is storable and not too long.
    return "{}" if payload is None else dump_json(payload, what="payload", max_bytes=2**31)
