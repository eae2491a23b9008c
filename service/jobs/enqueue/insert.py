"""The one path of new jobs into the table, whoever enqueues them."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.exc import DBAPIError

from service.db.errors import REFUSED_ERRORS
from service.errors import Conflict, InvalidInput
from service.jobs import store
from service.jobs.core.encoded_jobs import EncodedJobs
from service.jobs.core.lane import Lane
from service.jobs.core.new_job import EnqueuedJob
from service.jobs.enqueue.key_rules import insert_by_rule, ruled
from service.jobs.store.enqueue import Fetch
from service.observability.metrics import record_event

_MAX_ROUNDS: Final = 10


@dataclass(frozen=True, slots=True)
class Inserted:
    """What became of a batch; to be counted and published once it is committed."""

    jobs: list[EnqueuedJob]
    """In the order given; empty where nobody asked."""
    made: Counter[str]
    """New jobs by type."""
    lanes: set[Lane]
    """Those with jobs that are due at once."""

    def count(self) -> None:
        """Count the new jobs in the metrics."""
        for job_type, count in self.made.items():
            record_event("enqueued", job_type, count=count)


async def insert(
    fetch: Fetch, jobs: EncodedJobs, *, unseen: bool = False, reader: str | None = None
) -> Inserted:
    """Insert jobs, and find the live jobs that hold the keys which are taken.

    Args:
        fetch: runs a statement in the transaction that the jobs belong to.
        jobs: at least one.
        unseen: whether nobody asks what became of each job, which is cheaper without keys.
        reader: the caller who may be told of its own jobs alone, where one holds a key; None: of all.

    Raises:
        KeyHeld: a job may not be stored, since its key is held.
        Conflict: a key was taken and freed again and again meanwhile.
        DBAPIError | asyncpg.PostgresError | …: as `fetch` raises them; see `refusal`.
    """
    if jobs.gives("key_rule"):
        enqueued = await _insert_ruled(fetch, jobs, reader=reader)
    elif jobs.gives("unique_key"):
        enqueued = await _insert_keyed(fetch, jobs)
    elif unseen:
        await store.enqueue.insert_unseen(fetch, jobs)
        return Inserted([], Counter(jobs.columns["job_type"]), jobs.lanes())
    else:
        rows = await store.enqueue.insert(fetch, jobs)
        enqueued = [EnqueuedJob(job_id, True, created, due) for job_id, created, due in rows]
    pairs = zip(jobs.columns["job_type"], enqueued, strict=True)
    made = Counter(job_type for job_type, job in pairs if job.created)
    return Inserted(enqueued, made, jobs.lanes())


async def _insert_ruled(
    fetch: Fetch, jobs: EncodedJobs, *, reader: str | None
) -> list[EnqueuedJob]:
    positions = ruled(jobs)
    made = await insert_by_rule(fetch, jobs, positions, reader=reader)
    if others := [at for at in range(len(jobs)) if at not in made]:
        rest = EncodedJobs([jobs.rows[at] for at in others])
        made |= zip(others, (await insert(fetch, rest)).jobs, strict=True)
    return [made[at] for at in range(len(jobs))]


async def _insert_keyed(fetch: Fetch, jobs: EncodedJobs) -> list[EnqueuedJob]:
    keys = jobs.columns["unique_key"]
    without_key: list[EnqueuedJob] = []
    by_key: dict[str, EnqueuedJob] = {}
    waiting = jobs
    for _ in range(_MAX_ROUNDS):
        for job_id, created_at, due, key in await store.enqueue.insert_keyed(fetch, waiting):
            job = EnqueuedJob(job_id, True, created_at, due)
            if key is None:
                without_key.append(job)
            else:
                by_key[key] = job
        missing = {key for key in keys if key is not None} - by_key.keys()
        if missing:
            for job_id, created_at, due, key in await store.enqueue.key_holders(fetch, missing):
                by_key[key] = EnqueuedJob(job_id, False, created_at, due)
            missing -= by_key.keys()
        if not missing:
            return _in_order(keys, without_key, by_key)
        # The jobs that held these keys have ended since.
        waiting = EncodedJobs([jobs.rows[keys.index(key)] for key in missing])
    raise Conflict(
        f"unique_key {min(missing)!r} was taken and freed again and again while this job was "
        "being enqueued: nothing was enqueued, try again"
    )


def _in_order(
    keys: tuple[str | None, ...], without_key: list[EnqueuedJob], by_key: dict[str, EnqueuedJob]
) -> list[EnqueuedJob]:
    each_without = iter(without_key)
    answers: list[EnqueuedJob] = []
    for key in keys:
        if key is None:
            answers.append(next(each_without))
            continue
        answers.append(by_key[key])
        if by_key[key].created:
            # A second job with the key in this very batch finds the first.
            by_key[key] = replace(by_key[key], created=False)
    return answers


def refusal(error: Exception, *, field: str = "payload") -> InvalidInput | None:
    """What to answer where PostgreSQL refused a value; None where that is not what went wrong.

    Python callers get the error as their library raises it. The REST API answers with this.
    """
    cause = error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error
    if isinstance(cause, REFUSED_ERRORS):
        return InvalidInput(f"PostgreSQL refused a value: {cause}", field=field)
    return None
