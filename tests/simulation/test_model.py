"""The model answers and stores what PostgreSQL does: random statements are played to both.

PostgreSQL is given a clock of the test's: `now()` and `clock_timestamp()` are found in a schema
that comes before its own.
"""

import json
import os
import random
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import asyncpg
import pytest

from service.db.connection import Link
from service.jobs import NewJob, store
from service.jobs.core.claimed_job import ClaimedJob, Lease
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.job import JobId
from service.jobs.core.lane import LANE_START, SLACK_SECONDS, Lane, LaneHead, LaneRequest, Position
from service.jobs.store.statement import Transition
from tests.jobs.attempts import OUTCOMES, outcome_of
from tests.jobs.statements import BY_SQL, HOME, without
from tests.simulation.clock import EPOCH
from tests.simulation.model import Model
from tests.simulation.rows import Answer, Instant, Row, microseconds, since

SEQUENCES: Final = int(os.environ.get("MODEL_SEQUENCES", "25"))
STEPS: Final = 60

CLOCK: Final = """
CREATE SCHEMA simulated;
CREATE FUNCTION simulated.now() RETURNS timestamptz LANGUAGE sql STABLE
  AS $$ SELECT current_setting('simulated.clock')::timestamptz $$;
CREATE FUNCTION simulated.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
  AS $$ SELECT current_setting('simulated.clock')::timestamptz $$;
CREATE FUNCTION simulated.random() RETURNS float8 LANGUAGE sql VOLATILE AS 'SELECT 0.5::float8';
ALTER TABLE jobs_live ALTER created_at SET DEFAULT simulated.now();
ALTER TABLE job_workers ALTER seen_at SET DEFAULT simulated.now()
"""
ANEW: Final = """
TRUNCATE background_jobs, job_stats, job_workers, served_types RESTART IDENTITY;
ALTER SEQUENCE background_job_ids RESTART;
ALTER SEQUENCE background_job_lease_tokens RESTART
"""
TABLE: Final = """
SELECT id, job_type, queue, priority, payload, next_run_at, max_retries, timeout_seconds,
  unique_key, backoff, status, attempts, lost_leases, started_at, finished_at, lease_until,
  lease_token, worker_id, last_error, result, progress, errors
FROM background_jobs ORDER BY id
"""
JSON: Final = frozenset({"payload", "backoff", "result", "progress", "errors"})

QUEUES: Final = ("a", "b")
LANES: Final = [Lane(queue, priority) for queue in QUEUES for priority in (0, 2)]
TYPES: Final = ("work", "rare", "nobody")
KEPT: Final = 3
LEASE_SECONDS: Final = 10.0


class Both:
    """One link that sends each statement to both, and sees that the answers are the same."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection
        self.model = Model()
        self.now = microseconds(EPOCH)

    async def fetch(self, statement: str, *args: Any) -> Answer:
        rows = await self._connection.fetch(statement, *args)
        answer = self.model.execute(statement, args, Instant(self.now, self.now))
        assert _comparable(answer) == _comparable([tuple(row) for row in rows]), statement
        return answer

    async def advance(self, seconds: float) -> None:
        self.now += microseconds(seconds)
        moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=self.now)
        await self._connection.execute(f"SET simulated.clock = '{moment.isoformat()}'")

    async def assert_same_tables(self) -> None:
        stored = [_as_model(row) for row in await self._connection.fetch(TABLE)]
        modelled = [_plain(row) for _, row in sorted(self.model.tables.jobs.items())]
        assert modelled == stored


def _comparable(rows: Answer) -> list[str]:
    """Rows in an order of no meaning, floats to the microsecond, JSON however it is spaced."""
    return sorted(repr([_value(value) for value in row]) for row in rows)


def _value(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, str) and value[:1] in {"[", "{"}:
        return json.loads(value)
    return value


def _as_model(row: Any) -> dict[str, Any]:
    fields = dict(row)
    for name, value in fields.items():
        if isinstance(value, datetime):
            fields[name] = since(value)
        elif name in JSON and value is not None:
            fields[name] = json.loads(value)
    fields["errors"] = _history(fields["errors"])
    return fields


def _plain(row: Row) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(row, name) for name in Row.__slots__}
    for name in JSON - {"errors"}:
        fields[name] = None if fields[name] is None else json.loads(fields[name])
    return fields | {"status": row.status.value, "errors": _history(row.errors)}


def _history(errors: list[dict[str, Any]] | None) -> list[tuple[Any, ...]]:
    keys = ("event", "attempt", "type", "worker", "by")
    return [tuple(entry.get(key) for key in keys) for entry in errors or ()]


class Player:
    """Plays one random sequence."""

    def __init__(self, both: Both, rng: random.Random) -> None:
        self._both = both
        self._link = cast("Link", both)
        self._rng = rng
        self._claims: list[ClaimedJob] = []
        self._workers: list[int] = []

    async def play(self) -> None:
        await self._both.advance(0.0)
        await self._work()
        await self._enqueue()
        steps: list[Callable[[], Any]] = [
            self._enqueue, self._claim, self._claim, self._claim, self._settle, self._settle,
            self._settle, self._hold, self._recover, self._operate, self._operate, self._work,
            self._look, self._lead, self._refuse,
        ]  # fmt: skip
        for _ in range(STEPS):
            await self._both.advance(self._rng.choice((0.0, 0.0, 0.5, 3.0, 11.0, 40.0)))
            await self._rng.choice(steps)()
            await self._both.assert_same_tables()

    async def _enqueue(self) -> None:
        rng = self._rng
        jobs = [
            NewJob(
                rng.choice(TYPES), {"n": number}, queue=rng.choice((None, *QUEUES)),
                priority=rng.choice((0, None)), max_retries=rng.choice((None, 1)),
                timeout_seconds=rng.choice((None, 2.5)),
                delay_seconds=rng.choice((None, None, 0.5, 7.25)),
            )
            for number in range(rng.randint(1, 4))
        ]  # fmt: skip
        encoded = encode_jobs(jobs, max_payload_bytes=10_000)
        await store.enqueue.insert(self._link.fetch, encoded)

    async def _claim(self) -> None:
        rng = self._rng
        lanes = rng.sample(LANES, rng.randint(1, 4))
        limit = rng.randint(1, 6)
        most = {queue: rng.randint(1, limit) for queue in QUEUES}
        before = rng.choice((float("inf"), self._both.now / 1e6 - rng.choice((0.0, 1.0, 20.0))))
        requests = [LaneRequest(lane, self._floor(), most[lane.queue], before) for lane in lanes]
        if rng.random() < 0.5:
            requests = await store.claim.within_windows(
                self._link, requests, jobs=rng.randint(1, 3)
            )
        self._claims += await store.claim.take(
            self._link, requests, rng.sample(TYPES, rng.randint(1, 3)), limit=limit,
            lease_seconds=LEASE_SECONDS, worker_id=rng.choice(self._workers), max_errors=KEPT,
        )  # fmt: skip

    async def _refuse(self) -> None:
        """One job at a time, as for a claim that PostgreSQL refuses."""
        rng = self._rng
        request = LaneRequest(rng.choice(LANES), self._floor(), 1, self._both.now / 1e6)
        types = rng.sample(TYPES, 2)
        due = await store.claim.due_jobs(self._link, request, types, limit=rng.randint(1, 3))
        job_id = rng.choice([*(job_id for job_id, _ in due), *(one.id for one in self._some()), 1])
        if rng.random() < 0.5:
            self._claims += await store.claim.take_one(
                self._link, JobId(job_id), lease_seconds=LEASE_SECONDS,
                worker_id=rng.choice(self._workers), max_errors=KEPT,
            )  # fmt: skip
        else:
            await store.claim.fail_refused(self._link, JobId(job_id), "no", max_errors=KEPT)

    def _floor(self) -> Position:
        if not self._claims or self._rng.random() < 0.7:
            return LANE_START
        place = self._rng.choice(self._claims)
        return Position(place.due_at, place.id)

    def _some(self) -> list[ClaimedJob]:
        """Claims, most of them late ones, each job once."""
        late = self._claims[-8:]
        chosen = self._rng.sample(late, self._rng.randint(0, len(late)))
        return list({claim.id: claim for claim in chosen}.values())

    def _leases(self) -> list[Lease]:
        return [claim.lease for claim in self._some()]

    async def _settle(self) -> None:
        kinds = ("success", "dead", "failed")
        ends = self._rng.random() < 0.5
        choices = [kind for kind in OUTCOMES if (kind in kinds) == ends]
        batch = [(claim, outcome_of(self._rng.choice(choices), claim)) for claim in self._some()]
        write: Any = store.settle.finish if ends else store.settle.requeue
        await write(self._link, batch, max_errors=KEPT)
        await store.settle.settled_before(self._link, [claim.lease for claim, _ in batch])

    async def _hold(self) -> None:
        await store.leases.extend(self._link, self._leases(), lease_seconds=LEASE_SECONDS)
        progress = dict.fromkeys(self._leases()[:2], '{"fraction": 0.5}')
        await store.progress.write(self._link, progress)

    async def _recover(self) -> None:
        known = [claim.lease_token for claim in self._some()]
        floors = {lane: self._floor() for lane in self._rng.sample(LANES, 3)}
        worker = self._rng.choice(self._workers)
        lost = await store.lost_claims.find(self._link, floors, worker_id=worker, known=known)
        give_back = [*lost[:2], *self._leases()[:1]]
        await store.lost_claims.release(self._link, give_back)

    async def _operate(self) -> None:
        rng, jobs = self._rng, self._both.model.tables.jobs
        job_id = rng.choice([*jobs, 10_000])
        match rng.choice(("retry", "retry", "retry", "cancel", "delete", "move")):
            case "retry":
                dead = [row.id for row in jobs.values() if row.status in {"DEAD_LETTER", "FAILED"}]
                chosen = (dead or [job_id])[0]
                await self._link.fetch(
                    *store.actions.RETRY_DEAD.bind(job_id=chosen, by="me", max_errors=KEPT)
                )
            case "cancel":
                await self._link.fetch(*store.actions.CANCEL.bind(job_id=job_id))
            case "delete":
                await self._link.fetch(*store.actions.DELETE.bind(job_id=job_id))
            case "move":
                run_at = datetime.fromtimestamp(EPOCH, UTC) + timedelta(seconds=rng.randint(0, 99))
                await self._link.fetch(*store.actions.RESCHEDULE.bind(job_id=job_id, run_at=run_at))

    async def _work(self) -> None:
        """Workers come, are seen, and go."""
        if len(self._workers) < 2:
            types = self._rng.sample(TYPES, 2)
            name = f"w{len(self._workers)}"
            worker_id, _ = await store.workers.register(
                self._link, name=name, queues=["*"], job_types=types, concurrency=1
            )
            self._workers.append(worker_id)
        elif self._rng.random() < 0.7:
            place = self._rng.randrange(len(self._workers))
            self._workers[place] = await store.workers.seen(
                self._link, self._workers[place], name=f"w{place}", queues=["*"],
                job_types=self._rng.sample(TYPES, 2), concurrency=1,
            )  # fmt: skip
        else:
            forget = self._rng.random() < 0.3
            worker = self._rng.choice(self._workers)
            await store.workers.stopped(self._link, worker, forget=forget)

    async def _look(self) -> None:
        await store.lanes.listed(self._link, limit=self._rng.randint(1, 5))
        await store.lanes.listed(self._link, limit=10, after=self._rng.choice(LANES))
        await store.lanes.of_queues(self._link, self._rng.sample(("a", "b", "none"), 2))
        some = self._rng.sample([None, ["a"], ["b", "none"]], 1)[0]
        await store.lanes.recent(
            self._link, some, within_seconds=self._rng.choice((1, 20)), limit=9
        )
        await store.gauges.of_queues(self._link, self._heads(LANES), cap=3)

    async def _lead(self) -> None:
        alive, grace = self._rng.choice((5.0, 30.0)), self._rng.choice((0.0, 20.0))
        served = await store.served_types.served(
            self._link, alive_seconds=alive, grace_seconds=grace
        )
        await store.served_types.remember(self._link)
        await store.served_types.remembered(self._link, days=self._rng.choice((0, 7)))
        heads = self._heads(self._rng.sample(LANES, 3))
        await store.served_types.waiting(
            self._link, heads, self._rng.sample(TYPES, 2), due_seconds=grace, walk=5
        )
        await store.served_types.fail_unserved(
            self._link, heads, served, due_seconds=grace, walk=5, limit=2, max_errors=KEPT
        )

    def _heads(self, lanes: Sequence[Lane]) -> list[LaneHead]:
        """Lanes as a look listed them, from somewhere on."""
        return [LaneHead(lane, self._floor().due_at + SLACK_SECONDS, 0.0) for lane in lanes]


async def play_all(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    for seed in range(SEQUENCES):
        await connection.execute(ANEW)
        await Player(Both(connection), random.Random(f"model {seed}")).play()


@pytest.fixture
async def connection(pg_dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(
        pg_dsn, server_settings={"search_path": "simulated, pg_catalog, finmind_jobs"}
    )
    await connection.execute(CLOCK)
    yield connection
    await connection.close(timeout=5)


async def test_the_model_answers_and_stores_what_postgresql_does(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> None:
    await play_all(connection)


ONLY_POSTGRESQL: Final = {
    "CREATED_BETWEEN",  # the model gives out no ids, so that nothing is counted
    "COPY_LATE", "MAKE_DAY", "DROP_DAY",  # the model has the partitions of all days
    "LEAD", "NOTIFY",  # the simulation's server answers them
    "STATUS_OF",  # for the words of an error
    # Processes of the simulation enqueue nothing; its clients have no keys.
    "ENQUEUE_UNSEEN", "ENQUEUE_KEYED", "ENQUEUE_FOR_CALLERS", "ENQUEUE_KEYED_FOR_CALLERS",
    "KEY_HOLDERS",
}  # fmt: skip
"""Statements that the model need not know. A `Transition` is never one of them."""


def test_every_statement_is_in_the_model_or_named_as_missing() -> None:
    known = {BY_SQL[sql] for sql in Model().known}
    assert known | ONLY_POSTGRESQL == HOME.keys()
    assert not known & ONLY_POSTGRESQL
    transitions = {name for name in HOME if isinstance(getattr(HOME[name], name), Transition)}
    assert {"CLAIM", "FINISH", "REQUEUE", "EXTEND"} <= transitions <= known


@pytest.mark.parametrize(
    ("name", "fence"),
    [
        ("CLAIM_ONE", "AND (b.lease_until IS NULL OR b.lease_until < now())"),
        ("FAIL_REFUSED", "AND (b.lease_until IS NULL OR b.lease_until < now())"),
        ("CLAIM", "AND (b.lease_until IS NULL OR b.lease_until < now())"),
        ("CLAIM", "AND b.next_run_at <= now()"),
        ("FINISH", "AND b.lease_token = r.token"),
        ("REQUEUE", "AND b.lease_token = r.token"),
        ("REQUEUE", "AND b.status = 'RUNNING'"),
        ("EXTEND", "AND b.lease_token = r.token"),
        ("RELEASE_LOST", "AND b.lease_token = r.token"),
        ("CANCEL", "AND status = 'PENDING'"),
    ],
)
async def test_a_fence_that_is_missing_in_the_sql_is_found(
    connection: "asyncpg.Connection[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    fence: str,
) -> None:
    monkeypatch.setattr(HOME[name], name, without(fence, name))
    with pytest.raises(AssertionError):
        await play_all(connection)
