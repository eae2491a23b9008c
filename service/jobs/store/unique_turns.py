"""Jobs that have a key until they start, and jobs that wait while another one with their key runs.

A job with `unique_until_start` gives its unique_key up when it starts. The next one with the key can be
stored then; under `keep_latest` it is held until the one that runs has ended or waits again.
"""

from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

from service.jobs.core.claimed_job import Lease
from service.jobs.core.holds import UNIQUE
from service.jobs.core.job import JobId
from service.jobs.core.lane import Lane
from service.jobs.store.enqueue import Fetch
from service.jobs.store.fragments import ID_BY_PRIMARY_KEY, NO_LEASE, history, keep_ended
from service.jobs.store.statement import Transition

GIVE_UP_KEY: Final = Transition("""
UPDATE finmind_jobs.jobs_live SET unique_key = NULL
WHERE id = :job_id AND lease_token = :token AND status = 'RUNNING'
  AND unique_until_start IS NOT NULL AND unique_key IS NOT NULL
""")
"""Of a job that is about to start under this lease."""


_OTHER: Final = "a.unique_until_start = f.unique_key AND a.id <> f.id"


def _start_next(which: str) -> Transition:
    return Transition(f"""
WITH next AS MATERIALIZED (
  SELECT f.id FROM finmind_jobs.jobs_live f
  WHERE f.held_for = '{UNIQUE}' AND f.status = 'PENDING'{which}
    AND NOT EXISTS (SELECT FROM finmind_jobs.jobs_live a WHERE {_OTHER})
  ORDER BY f.id LIMIT :limit FOR UPDATE SKIP LOCKED)
UPDATE finmind_jobs.jobs_live b SET next_run_at = greatest(b.held_due_at, clock_timestamp()),
  held_for = NULL, held_since = NULL, held_due_at = NULL
FROM next r WHERE {ID_BY_PRIMARY_KEY} AND b.held_for = '{UNIQUE}'
RETURNING b.id, b.queue, b.priority, b.next_run_at
""")


START_NEXT: Final = _start_next(" AND f.unique_key = ANY (:keys::text[])")
"""Let the jobs with these keys go that wait while another one runs which does no longer. They come to the
end of their lanes: workers have passed what is before that."""


START_ALL_NEXT: Final = _start_next("")
"""The same for every key."""


SUPERSEDED_ENTRY: Final = """jsonb_build_object(
    'event', 'superseded', 'attempt', b.attempts, 'type', NULL,
    'message', 'job ' || r.next_id || ', the newest with its unique_key, takes its place',
    'traceback', NULL, 'started_at', NULL, 'at', now(), 'worker', NULL, 'by', NULL)"""


SUPERSEDE: Final = Transition(f"""
WITH gone AS (
  DELETE FROM finmind_jobs.jobs_live b USING (
    SELECT a.id, f.id AS next_id FROM finmind_jobs.jobs_live f
    JOIN finmind_jobs.jobs_live a ON {_OTHER}
    WHERE f.held_for = '{UNIQUE}' AND f.status = 'PENDING' AND a.status = 'PENDING'
    ORDER BY a.id LIMIT :limit) r
  WHERE {ID_BY_PRIMARY_KEY} AND b.status = 'PENDING'
  RETURNING b.*, {history("b.errors", SUPERSEDED_ENTRY)} AS history),
{keep_ended(NO_LEASE | {"status": "'CANCELLED'", "errors": "history"})}
SELECT id, job_type FROM kept
""")
"""End the jobs that wait for their next attempt while a newer one with their key waits as well."""


class Next(NamedTuple):
    """A job that no longer waits for another one with its key."""

    id: JobId
    lane: Lane
    next_run_at: Any


async def give_up_key(fetch: Fetch, lease: Lease) -> None:
    """Free the key of a job that has it until it starts."""
    job_id, token = lease
    await fetch(*GIVE_UP_KEY.bind(job_id=job_id, token=token))


async def start_next(fetch: Fetch, keys: Collection[str]) -> list[Next]:
    """Let the jobs with these keys go, as far as none with the same key is before them."""
    keys = sorted(keys)
    return _next(await fetch(*START_NEXT.bind(keys=keys, limit=len(keys))))


async def start_all_next(fetch: Fetch, *, limit: int) -> list[Next]:
    """The same for up to `limit` jobs of whatever key."""
    return _next(await fetch(*START_ALL_NEXT.bind(limit=limit)))


async def supersede(fetch: Fetch, *, limit: int, max_errors: int) -> list[tuple[JobId, str]]:
    """Cancel up to `limit` jobs in whose place a newer one waits: the id and type of each."""
    rows = await fetch(*SUPERSEDE.bind(limit=limit, max_errors=max_errors))
    return [(JobId(row[0]), row[1]) for row in rows]


def _next(rows: Sequence[Any]) -> list[Next]:
    return [Next(JobId(row[0]), Lane(row[1], row[2]), row[3]) for row in rows]
