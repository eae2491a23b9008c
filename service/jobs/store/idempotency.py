"""Keep idempotency keys, and compare requests with the jobs that hold their keys."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncSession

from service.jobs.core.idempotency_key import IdempotencyKey
from service.jobs.core.job import JobId

_TAKE: Final = text("""
    INSERT INTO finmind_jobs.idempotency_keys AS k (owner, key, body_hash, request_hash, job_ids)
    VALUES (:owner, :key, :body_hash, :request_hash, '{}')
    ON CONFLICT (owner, key) DO UPDATE
      SET body_hash = excluded.body_hash, request_hash = excluded.request_hash, job_ids = '{}',
        created_at = now()
      WHERE k.created_at < now() - make_interval(hours => :hours)
    RETURNING true""")
_FIND: Final = text("""
    SELECT body_hash, request_hash, job_ids FROM finmind_jobs.idempotency_keys
    WHERE owner = :owner AND key = :key""")
_KEEP: Final = text(
    "UPDATE finmind_jobs.idempotency_keys SET job_ids = :job_ids WHERE owner = :owner AND key = :key"
)


async def take(session: AsyncSession, key: IdempotencyKey, *, hours: int) -> bool:
    """Take the key for this request; False where another one has it.

    Waits until the transaction that is taking the same key has ended. A key older than `hours` is
    taken as if it were not there, whenever maintenance removes it.
    """
    values = {"body_hash": key.body_hash, "request_hash": key.request_hash, "hours": hours}
    return bool((await session.execute(_TAKE, _name(key) | values)).scalar())


async def find(session: AsyncSession, key: IdempotencyKey) -> Row[Any] | None:
    """What was kept under the key: `body_hash`, `request_hash`, `job_ids`; None if it is gone."""
    return (await session.execute(_FIND, _name(key))).one_or_none()


async def keep(session: AsyncSession, key: IdempotencyKey, job_ids: Sequence[JobId]) -> None:
    """Keep which jobs the request with this key made."""
    await session.execute(_KEEP, _name(key) | {"job_ids": list(job_ids)})


def _name(key: IdempotencyKey) -> dict[str, str]:
    return {"owner": key.owner, "key": key.key}
