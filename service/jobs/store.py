"""The engine's statements as typed calls, each on the connection of the duty that makes it."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypedDict, Unpack

from service.db.engine import Link
from service.jobs import statements
from service.jobs.core.job import JobId, LeaseToken
from service.jobs.core.outcomes import (
    Ended,
    Failure,
    Outcome,
    Postponed,
    Released,
    Retried,
    Snoozed,
    Succeeded,
)


class Lane(NamedTuple):
    """The jobs of one queue and one priority, claimed in the order in which they are due."""

    queue: str
    priority: int


Lease = tuple[JobId, LeaseToken]
"""One claim of one job."""


class Floor(NamedTuple):
    """A place in a lane, below which a claim does not look: due time (epoch seconds) and id."""

    due_at: float
    job_id: int


NO_FLOOR = Floor(float("-inf"), 0)

SLACK_SECONDS = 0.001
"""A due time is not the same to the last digit as a number here and as a time in the database."""

MAX_STATEMENT_BYTES: Final = 4 * 2**20
"""What one statement carries at the most, beside its last value: a tenth of a second's work, so that
no batch of large values runs into a timeout that each of them alone would not."""

LOST_CLAIMS_WALK = 10_000
"""Jobs of a lane that one look for lost claims walks: more than are in flight at once, as a rule."""


@dataclass(slots=True, eq=False)
class ClaimedJob:
    """One job under this worker's lease, as a runner needs it."""

    id: JobId
    lease_token: LeaseToken
    queue: str
    job_type: str
    priority: int
    attempt: int
    max_retries: int | None
    timeout_seconds: float | None
    lost_leases: int
    due_at: float
    """Epoch seconds of next_run_at; with the id, its place in the lane."""
    late_seconds: float
    """How long it had been due when it was claimed."""
    payload: str
    backoff: str | None
    rescued: bool = False
    """Whether this claim took it from a worker that let its lease run out."""

    @property
    def lease(self) -> Lease:
        """What names this claim."""
        return self.id, self.lease_token


class Settling(Protocol):
    """`finish` or `requeue`."""

    async def __call__(
        self, link: Link, settled: Sequence[tuple[ClaimedJob, Outcome]], /, *, max_errors: int
    ) -> set[Lease]:
        """The leases that no longer held: nothing was recorded of those."""


class LaneHead(NamedTuple):
    """A lane that holds jobs, and when the first of them is due."""

    lane: Lane
    due_at: float
    """Epoch seconds."""
    now: float
    """What time it was for the database."""

    @property
    def due_in_seconds(self) -> float:
        """How long until the first job is due; negative where it has been for some time."""
        return self.due_at - self.now

    @property
    def first_at(self) -> float:
        """From when on a look at the lane misses no job, epoch seconds."""
        return self.due_at - SLACK_SECONDS


class LaneRequest(NamedTuple):
    """What one claim asks of one lane: from where, how many at the most, and up to which place."""

    lane: Lane
    floor: Floor
    most: int
    due_before: float = float("inf")
    """Epoch seconds; beside that, only what is due."""
    id_before: int = 0
    """Of those due at that very time, only jobs below this one."""
    goes_on: bool = False
    """Whether that place is the end of a window: the lane holds more due jobs, from there on."""

    @property
    def end(self) -> Floor:
        """The place up to which is looked, itself excluded."""
        return Floor(self.due_before, self.id_before)


async def lanes(link: Link, *, limit: int, after: Lane | None = None) -> list[LaneHead]:
    """The lanes that hold jobs, in order, those behind `after`, `limit` at the most."""
    rows = await link.fetch(statements.LANES, limit, *(after or Lane("", -1)))
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def lanes_of(link: Link, queues: list[str]) -> list[LaneHead]:
    """The lanes of these queues that hold jobs."""
    rows = await link.fetch(statements.LANES_OF, queues)
    return [LaneHead(Lane(row[0], row[1]), *row[2:]) for row in rows]


async def recent_lanes(
    link: Link, queues: list[str] | None, *, within_seconds: float, limit: int
) -> list[Lane]:
    """Lanes of these queues that hold a job which became due so recently.

    With None of `limit` queues in which jobs have ended: what is missing, a listing tells.
    """
    rows = await link.fetch(statements.RECENT_LANES, queues, limit, within_seconds)
    return [Lane(*row) for row in rows]


async def lost_claims(
    link: Link, floors: Mapping[Lane, Floor], *, worker_id: int, known: list[LeaseToken]
) -> list[Lease]:
    """This worker's claims of jobs from these floors on, under other tokens than it knows."""
    rows = await link.fetch(
        statements.LOST_CLAIMS,
        [lane.queue for lane in floors],
        [lane.priority for lane in floors],
        worker_id,
        known,
        [floor.due_at for floor in floors.values()],
        [floor.job_id for floor in floors.values()],
        LOST_CLAIMS_WALK,
    )
    return [(row[0], row[1]) for row in rows]


async def release_lost(link: Link, leases: Iterable[Lease]) -> int:
    """Put these jobs back as if they had not been claimed; how many of the leases still held."""
    return len(await link.fetch(statements.RELEASE_LOST, *_columns(leases)))


async def claim(
    link: Link,
    requests: Sequence[LaneRequest],
    job_types: list[str],
    *,
    limit: int,
    lease_seconds: float,
    worker_id: int,
    max_errors: int,
) -> list[ClaimedJob]:
    """Take up to `limit` due jobs, lane by lane in the order given, under a new lease."""
    bounded = Counter(request.lane.queue for request in requests if request.most < limit)
    rows = await link.fetch(
        statements.CLAIM_WITHIN_LIMITS
        if any(lanes > 1 for lanes in bounded.values())
        else statements.CLAIM,
        [request.lane.queue for request in requests],
        [request.lane.priority for request in requests],
        [request.floor.due_at for request in requests],
        [request.floor.job_id for request in requests],
        [request.most for request in requests],
        job_types,
        limit,
        lease_seconds,
        worker_id,
        max_errors,
        [request.due_before for request in requests],
        [request.id_before for request in requests],
    )
    return [ClaimedJob(*row) for row in rows]


async def within_windows(
    link: Link, requests: Sequence[LaneRequest], *, jobs: int
) -> list[LaneRequest]:
    """The same requests, each up to so many jobs of its lane at the most, whoever serves them."""
    rows = await link.fetch(
        statements.WINDOW_ENDS,
        [request.lane.queue for request in requests],
        [request.lane.priority for request in requests],
        [request.floor.due_at for request in requests],
        [request.floor.job_id for request in requests],
        [request.due_before for request in requests],
        [request.id_before for request in requests],
        jobs,
    )
    narrowed = list(requests)
    for turn, due_at, job_id in rows:
        request = narrowed[turn - 1]
        # Else a time that is too far off to be told to the microsecond would be walked for ever.
        if Floor(due_at, job_id) > request.floor:
            narrowed[turn - 1] = request._replace(due_before=due_at, id_before=job_id, goes_on=True)
    return narrowed


async def due_jobs(
    link: Link, request: LaneRequest, job_types: list[str], *, limit: int
) -> list[tuple[JobId, str]]:
    """Ids and types of the first jobs that a claim of this lane would take."""
    rows = await link.fetch(
        statements.DUE_JOBS,
        request.lane.queue,
        request.lane.priority,
        request.floor.due_at,
        request.floor.job_id,
        request.due_before,
        request.id_before,
        job_types,
        limit,
    )
    return [(row[0], row[1]) for row in rows]


async def claim_one(
    link: Link, job_id: JobId, *, lease_seconds: float, worker_id: int, max_errors: int
) -> list[ClaimedJob]:
    """Take this very job, if it is still due and free."""
    rows = await link.fetch(statements.CLAIM_ONE, job_id, lease_seconds, worker_id, max_errors)
    return [ClaimedJob(*row) for row in rows]


async def fail_refused(link: Link, job_id: JobId, reason: str, *, max_errors: int) -> bool:
    """End a job that cannot be claimed; False where it is not there any more."""
    return bool(await link.fetch(statements.FAIL_REFUSED, job_id, reason, max_errors))


async def finish(
    link: Link, ended: Sequence[tuple[ClaimedJob, Outcome]], *, max_errors: int
) -> set[Lease]:
    """Record jobs that succeeded or ended for good; the leases that no longer held."""
    ended = sorted(ended, key=_by_id)
    statuses: list[str | None] = []
    results: list[str | None] = []
    failures: list[str | None] = []
    for _, outcome in ended:
        if isinstance(outcome, Succeeded):
            statuses.append(None)
            results.append(outcome.result)
            failures.append(None)
        elif isinstance(outcome, Ended):
            statuses.append(outcome.status.value)
            results.append(None)
            failures.append(_dump(outcome.failure))
        else:
            raise TypeError(f"{outcome!r} does not end a job")
    rows = await link.fetch(
        statements.FINISH,
        [job.id for job, _ in ended],
        [job.lease_token for job, _ in ended],
        _unless_empty(statuses),
        _unless_empty(results),
        _unless_empty(failures),
        max_errors,
    )
    return {(row[0], row[1]) for row in rows}


async def requeue(
    link: Link, returned: Sequence[tuple[ClaimedJob, Outcome]], *, max_errors: int
) -> set[Lease]:
    """Put jobs back to PENDING that did not end; the leases that no longer held."""
    returned = sorted(returned, key=_by_id)
    ids, tokens, refunds = [], [], []
    delays: list[float | None] = []
    failures: list[str | None] = []
    keeps_lost_leases: list[bool] = []
    for job, outcome in returned:
        keeps_lost_leases.append(isinstance(outcome, Released | Postponed))
        ids.append(job.id)
        tokens.append(job.lease_token)
        match outcome:
            case Retried(delay_seconds=delay, failure=failure):
                delays.append(delay)
                refunds.append(0)
                failures.append(_dump(failure))
            case Snoozed(delay_seconds=delay) | Postponed(delay_seconds=delay):
                delays.append(delay)
                refunds.append(1)
                failures.append(None)
            case Released():
                delays.append(None)
                refunds.append(1)
                failures.append(None)
            case _:
                raise TypeError(f"{outcome!r} does not put a job back")
    rows = await link.fetch(
        statements.REQUEUE, ids, tokens, delays, refunds, failures, max_errors, keeps_lost_leases
    )
    return {(row[0], row[1]) for row in rows}


async def settled_before(link: Link, leases: Iterable[Lease]) -> set[Lease]:
    """Which of these were settled: asked after an answer was lost."""
    rows = await link.fetch(statements.SETTLED_BEFORE, *_columns(leases))
    return {(row[0], row[1]) for row in rows}


async def extend(link: Link, leases: Iterable[Lease], *, lease_seconds: float) -> set[Lease]:
    """Extend leases; those that still held."""
    rows = await link.fetch(statements.EXTEND, *_columns(leases), lease_seconds)
    return {(row[0], row[1]) for row in rows}


async def write_progress(link: Link, progress: Mapping[Lease, str]) -> set[Lease]:
    """Record how far jobs are (JSON text); the leases that still held."""
    told = sorted(progress.items())
    rows = await link.fetch(
        statements.PROGRESS,
        *_columns(progress),
        [text for _, text in told],
    )
    return {(row[0], row[1]) for row in rows}


class WorkerEntry(TypedDict):
    """What others are told of a worker."""

    name: str
    queues: list[str]
    job_types: list[str]
    concurrency: int


async def register_worker(link: Link, **entry: Unpack[WorkerEntry]) -> tuple[int, float]:
    """Enter a worker; its id, and what time it is by the database's clock, epoch seconds."""
    rows = await link.fetch(statements.REGISTER_WORKER, *_in_order(entry))
    worker_id, now = rows[0]
    return worker_id, now


async def worker_seen(link: Link, worker_id: int, **entry: Unpack[WorkerEntry]) -> int:
    """Tell that the worker lives and what it serves; its id, another one if its row was gone."""
    rows = await link.fetch(statements.WORKER_SEEN, worker_id, *_in_order(entry))
    seen: int = rows[0][0]
    return seen


async def worker_stopped(link: Link, worker_id: int, *, forget: bool) -> None:
    """Tell that the worker stopped in good order; with `forget` as if it had never been."""
    await link.fetch(statements.FORGET_WORKER if forget else statements.WORKER_STOPPED, worker_id)


def _in_order(entry: WorkerEntry) -> tuple[object, ...]:
    return entry["name"], entry["queues"], entry["job_types"], entry["concurrency"]


def _by_id(settled: tuple[ClaimedJob, Outcome]) -> JobId:
    # Rows are locked in the order of the arrays. Statements that lock several of the same jobs all
    # do so in the order of ids: none waits for another in a circle.
    return settled[0].id


def _columns(leases: Iterable[Lease]) -> tuple[list[JobId], list[LeaseToken]]:
    # In the order of ids, as `_by_id`.
    pairs = sorted(leases)
    return [job_id for job_id, _ in pairs], [token for _, token in pairs]


def _dump(failure: Failure) -> str:
    return json.dumps(failure.to_json(), ensure_ascii=False)


def _unless_empty(column: list[str | None]) -> list[str | None]:
    # Several arrays unnested together are filled up with nulls: nulls need not travel.
    return [] if column.count(None) == len(column) else column
