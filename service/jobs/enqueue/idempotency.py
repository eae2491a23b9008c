"""Enqueueing for clients that may ask twice: by `unique_key`, by `Idempotency-Key`."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Conflict
from service.jobs.core.encoding import dump_json
from service.jobs.core.job import JobId
from service.jobs.core.new_job import DEFAULT_MAX_PAYLOAD_BYTES, NewJob
from service.jobs.enqueue.enqueue import EnqueuedJob, enqueue_for

_MAX_ROUNDS: Final = 5

# The row of another transaction makes this wait until that one ends. A key whose time is over is
# taken as if it were not there, whenever maintenance removes it.
_TAKE_KEY: Final = text("""
    INSERT INTO finmind_jobs.idempotency_keys AS k (owner, key, body_hash, request_hash, job_ids)
    VALUES (:owner, :key, :body_hash, :request_hash, '{}')
    ON CONFLICT (owner, key) DO UPDATE
      SET body_hash = excluded.body_hash, request_hash = excluded.request_hash, job_ids = '{}',
        created_at = now()
      WHERE k.created_at < now() - make_interval(hours => :hours)
    RETURNING true""")
_STANDING_KEY: Final = text("""
    SELECT body_hash, request_hash, job_ids FROM finmind_jobs.idempotency_keys
    WHERE owner = :owner AND key = :key""")
_KEEP_KEY: Final = text(
    "UPDATE finmind_jobs.idempotency_keys SET job_ids = :job_ids WHERE owner = :owner AND key = :key"
)
# Compared as jsonb: the order of keys and the spelling of numbers make no difference.
_SAME: Final = text("""
    SELECT asked.place, job.id IS NOT NULL AS found,
      job.job_type = asked.job_type AND job.payload = asked.payload::jsonb AS same,
      job.enqueued_by <> CAST(:reader AS text) IS TRUE AS of_another
    FROM unnest(CAST(:places AS int[]), CAST(:ids AS bigint[]), CAST(:job_types AS text[]),
                CAST(:payloads AS text[])) AS asked(place, id, job_type, payload)
    LEFT JOIN finmind_jobs.background_jobs AS job ON job.id = asked.id
    ORDER BY asked.place""")


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A request's name, chosen by its owner, and what it asks for.

    Kept are two digests: of the body as this version's model reads it, defaults filled in, which is
    all that the version before knows; and of what the client sent, which another version's defaults
    do not change. The second covers the first: a process of the version before that takes the key
    over, once its time is up, writes the first alone, and leaves a second that fits it no more.
    """

    owner: str
    key: str
    body_hash: bytes
    sent: bytes

    @classmethod
    def of(cls, sent: object, *, model: object, owner: str, key: str) -> "IdempotencyKey":
        """The key of a request with the JSON body `sent`, however its members are ordered."""
        body_hash = hashlib.sha256(_canonical(model)).digest()
        return cls(owner, key, body_hash, _canonical(sent))

    @property
    def request_hash(self) -> bytes:
        """The digest of what the client sent."""
        return self._hash_beside(self.body_hash)

    def names(self, body_hash: bytes, request_hash: bytes | None) -> bool:
        """Whether the request with these digests is this one."""
        return request_hash == self._hash_beside(body_hash) or body_hash == self.body_hash

    def _hash_beside(self, body_hash: bytes) -> bytes:
        return hashlib.sha256(body_hash + self.sent).digest()


def _canonical(body: object) -> bytes:
    # Escaped to ASCII, so that a lone surrogate is refused later, with words.
    return json.dumps(body, sort_keys=True, separators=(",", ":"), default=str).encode()


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
    caller: str,
    share_unique_keys: bool,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> Submission:
    """Enqueue the jobs as the caller's, in one transaction, all or none.

    Raises:
        InvalidInput: a job breaks a rule.
        Conflict: a `unique_key` is held by a job of another caller, or one with another type or
            payload.
    """
    enqueued = await enqueue_for(session, jobs, caller=caller, max_payload_bytes=max_payload_bytes)
    reader = None if share_unique_keys else caller
    await check_standing(session, jobs, enqueued, reader=reader)
    created = sum(job.created for job in enqueued)
    return Submission([job.id for job in enqueued], created, repeated=False)


async def submit_once(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    key: IdempotencyKey,
    *,
    hours: int,
    share_unique_keys: bool,
    max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
) -> Submission:
    """Enqueue the jobs, unless a request with this key already did; then find what it made.

    Key and jobs are one transaction, the caller's: of many requests at once with one key, one
    enqueues and the others wait for it.

    Args:
        session: holds the caller's transaction.
        jobs: what the request asks for.
        key: the request's name; its owner becomes the jobs'.
        hours: how long a key is remembered.
        share_unique_keys: whether a standing job may be another caller's.
        max_payload_bytes: bound on each payload.

    Raises:
        InvalidInput: a job breaks a rule.
        Conflict: the key was used with another body, or a `unique_key` is held by another job.
    """
    names = {"owner": key.owner, "key": key.key}
    for _ in range(_MAX_ROUNDS):
        taken = await session.execute(
            _TAKE_KEY,
            names | {"body_hash": key.body_hash, "request_hash": key.request_hash, "hours": hours},
        )
        if taken.scalar():
            made = await submit(
                session,
                jobs,
                caller=key.owner,
                share_unique_keys=share_unique_keys,
                max_payload_bytes=max_payload_bytes,
            )
            await session.execute(_KEEP_KEY, names | {"job_ids": made.ids})
            return made
        standing = (await session.execute(_STANDING_KEY, names)).one_or_none()
        if standing is None:  # removed by maintenance between the two statements
            continue
        if not key.names(standing.body_hash, standing.request_hash):
            raise Conflict(
                f"The Idempotency-Key {key.key!r} was used with another body: a new request needs "
                "a new key"
            )
        return Submission([JobId(one) for one in standing.job_ids], 0, repeated=True)
    raise Conflict(
        f"The Idempotency-Key {key.key!r} was taken and freed again and again: try again"
    )


async def check_standing(
    session: AsyncSession,
    jobs: Sequence[NewJob],
    enqueued: Sequence[EnqueuedJob],
    *,
    reader: str | None,
) -> None:
    """Make sure that each job not created is met by a standing one that does the same.

    Args:
        session: holds the caller's transaction.
        jobs: what was asked for.
        enqueued: what became of each.
        reader: whose the standing jobs must be, or nobody's; None: whoever's.

    Raises:
        Conflict: a `unique_key` is held by a job of another caller, of which nothing is told, or by
            one with another type or payload.
    """
    places = [place for place, job in enumerate(enqueued) if not job.created]
    if not places:
        return
    rows = await session.execute(
        _SAME,
        {
            "reader": reader,
            "places": places,
            "ids": [enqueued[place].id for place in places],
            "job_types": [jobs[place].job_type for place in places],
            "payloads": [_payload_text(jobs[place].payload) for place in places],
        },
    )
    for place, found, same, of_another in rows:
        where = f"Job {place}: " if len(jobs) > 1 else ""
        if of_another:
            raise Conflict(
                f"{where}unique_key {jobs[place].unique_key!r} is held by a job of another "
                "caller: use a key that begins with a name of your own"
            )
        if not same:
            holder = f"job {enqueued[place].id}"
            why = "with another job_type or payload" if found else "that is just being removed"
            raise Conflict(
                f"{where}unique_key {jobs[place].unique_key!r} is held by {holder} {why}"
            )


def _payload_text(payload: object) -> str:
    # It has been enqueued or met already, so that it is storable and not too long.
    return "{}" if payload is None else dump_json(payload, what="payload", max_bytes=2**31)
