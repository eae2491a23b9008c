"""Plans of the engine's hot statements, as they ran with real arguments: `--explain`."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg

from benchmarks.scenario import PAYLOAD, Scale, fresh_database, settings
from service.db.connection import Link
from service.db.engine import Database
from service.jobs import NewJob, enqueue_many, store
from service.jobs.core.encoded_jobs import encode_jobs
from service.jobs.core.failures import Failure
from service.jobs.core.job import DEFAULT_PRIORITY, DEFAULT_QUEUE
from service.jobs.core.lane import LANE_START, Lane, LaneRequest
from service.jobs.core.outcomes import SUCCEEDED_EMPTY, Retried
from service.jobs.enqueue.insert import insert
from service.jobs.maintenance import partitions
from service.jobs.store.statement import Statement

BATCH = 200
OPTIONS = "ANALYZE, BUFFERS, WAL"
MAX_COLUMNS = 180
"""A condition may hold every value of a batch: lines are cut."""
FAILED = Retried(30.0, Failure(attempt=1, type="ValueError", message="no"), "error")


@dataclass(frozen=True, slots=True)
class Explained:
    """One run of one statement."""

    name: str
    mode: str
    """`custom`: planned for these very arguments; `generic`: for any."""
    text: str
    """As `EXPLAIN` prints it."""
    root: dict[str, Any]
    """The top node, as `EXPLAIN (FORMAT JSON)` gives it."""
    wal_bytes: int
    """What the server logged meanwhile: the top node does not count what ran after it."""

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Every node, the top one first."""
        left = [self.root]
        while left:
            node = left.pop()
            yield node
            left.extend(node.get("Plans", ()))


class ExplainingLink(Link):
    """Runs each statement twice: explained, which is rolled back, and then for its rows."""

    def __init__(self, database: Database, *, modes: tuple[str, ...] = ("custom",)) -> None:
        super().__init__(database)
        self._modes = modes
        self.explained: list[Explained] = []

    async def fetch(self, statement: str, *args: object) -> list[asyncpg.Record]:
        """The rows of one statement, whose plans are kept."""
        connection = await self.connection()
        for mode in self._modes:
            self.explained.append(await _explain(connection, mode, statement, args))
        return await super().fetch(statement, *args)


async def _explain(
    connection: "asyncpg.Connection[asyncpg.Record]",
    mode: str,
    statement: str,
    args: tuple[object, ...],
) -> Explained:
    """Run a statement and roll it back.

    By PREPARE and EXECUTE, as a driver does: EXPLAIN of a statement with parameters always plans
    for the values at hand, whatever `plan_cache_mode` says.
    """
    types = (await connection.prepare(statement)).get_parameters()
    literals = [
        await connection.fetchval(f"SELECT quote_nullable($1::{kind.name}::text)", value)
        for kind, value in zip(types, args, strict=True)
    ]
    call = f"EXECUTE explained({', '.join(literals)})" if literals else "EXECUTE explained"
    await connection.execute(f"PREPARE explained AS {statement}")
    try:
        await connection.execute(f"SET plan_cache_mode = force_{mode}_plan")
        tree, wal_bytes = await _undone(connection, f"EXPLAIN ({OPTIONS}, FORMAT JSON) {call}")
        lines, _ = await _undone(connection, f"EXPLAIN ({OPTIONS}) {call}")
    finally:
        await connection.execute("RESET plan_cache_mode; DEALLOCATE explained")
    text = "\n".join(row[0] for row in lines)
    return Explained(_name(statement), mode, text, json.loads(tree[0][0])[0]["Plan"], wal_bytes)


async def _undone(
    connection: "asyncpg.Connection[asyncpg.Record]", statement: str
) -> tuple[list[asyncpg.Record], int]:
    """The rows of a statement that is rolled back, and the bytes of write-ahead log until then."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.fetch("SELECT pg_current_xact_id()")
        before = await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
        rows = await connection.fetch(statement)
        logged = "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), $1)::bigint"
        return rows, await connection.fetchval(logged, before)
    finally:
        await transaction.rollback()


def _name(sql: str) -> str:
    for module in store.__all__:
        for name, value in vars(getattr(store, module)).items():
            if isinstance(value, Statement) and value.sql == sql and not name.startswith("_"):
                return str(name)
    raise LookupError(f"no statement of the engine: {sql}")


async def run_all(link: Link) -> None:
    """Run each hot statement once, for a batch of 200 where it takes many."""
    lane = Lane(DEFAULT_QUEUE, DEFAULT_PRIORITY)
    plain = encode_jobs([NewJob("noop", PAYLOAD)] * BATCH, max_payload_bytes=10_000)
    keyed = [NewJob("noop", PAYLOAD, unique_key=f"key-{n}") for n in range(BATCH)]
    await store.enqueue.insert_unseen(link.fetch, plain)
    await insert(link.fetch, plain)
    await insert(link.fetch, encode_jobs(keyed, max_payload_bytes=10_000))
    await insert(
        link.fetch,
        encode_jobs([NewJob("noop", PAYLOAD)] * BATCH, max_payload_bytes=10_000, caller="c"),
    )
    await insert(link.fetch, encode_jobs(keyed, max_payload_bytes=10_000, caller="c"))
    await store.enqueue.key_holders(link.fetch, [f"key-{n}" for n in range(BATCH)])
    await store.lanes.listed(link, limit=100)
    await store.lanes.of_queues(link, [DEFAULT_QUEUE, "another"])
    await store.claim.within_windows(link, [LaneRequest(lane, LANE_START, BATCH)], jobs=BATCH)
    jobs = await store.claim.take(
        link,
        [LaneRequest(lane, LANE_START, BATCH)],
        ["noop"],
        limit=BATCH,
        lease_seconds=30.0,
        worker_id=1,
        max_errors=20,
    )
    await store.leases.extend(link, [job.lease for job in jobs], lease_seconds=30.0)
    failed, succeeded = jobs[: BATCH // 5], jobs[BATCH // 5 :]
    await store.settle.requeue(link, [(job, FAILED) for job in failed], max_errors=20)
    await store.settle.finish(link, [(job, SUCCEEDED_EMPTY) for job in succeeded], max_errors=20)


async def explain(dsn: str, scale: Scale) -> None:
    """Print the plan of each hot statement on `scale.jobs` due jobs."""
    async with fresh_database(dsn, settings()) as database:
        async with database.sessions.begin() as session:
            await enqueue_many(session, (NewJob("noop", PAYLOAD) for _ in range(scale.jobs)))
        plain, explaining = database.link(), ExplainingLink(database)
        await partitions.make_ahead(plain, days=7)
        await plain.fetch("VACUUM ANALYZE finmind_jobs.background_jobs")
        await plain.close()
        await run_all(explaining)
        await explaining.close()
        for one in explaining.explained:
            print(f"-- {one.name}")
            print(*(line[:MAX_COLUMNS] for line in one.text.splitlines()), "", sep="\n")
