"""The leader's duties: partitions, retention, counts, unserved types, gauges."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from typing import Final

import asyncpg

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.db.schema import lock_name
from service.jobs import store
from service.jobs.core.lane import Lane, LaneHead
from service.jobs.handlers.registry import Registry
from service.jobs.loops import Pause
from service.jobs.maintenance import partitions, unserved
from service.jobs.maintenance.created_jobs import CreatedJobs
from service.jobs.maintenance.unserved_log import UnservedLog
from service.jobs.worker.plan.lanes import MAX_LANES
from service.observability.logging import get_logger
from service.observability.metrics import (
    WORKER_LEADER,
    QueueReading,
    clear_queue_gauges,
    known_queue,
    record_database_error,
    set_queue_gauges,
    set_waiting_gauges,
)
from service.settings import Settings

BATCH: Final = 1000
MAX_BATCHES: Final = 200
"""What one round of a duty drops at the most, in batches."""

WALK_SHARE: Final = 0.02
"""Share of the time that walking the lanes may take: for unserved types, and for the gauges."""

MAX_WALK_PAUSE_SECONDS: Final = 60.0

FOLD_ABOVE_ROWS: Final = 500
"""Fewer rows of job_stats than this are not worth a rewrite."""

SLOW_DUTY_SECONDS: Final = 60.0
"""How often the duties run that need no hurry: partitions and retention."""

USAGE_DAYS: Final = 2
"""How long it is kept what callers used of their quotas: the longest window is a day."""

NAME_DAYS: Final = 30
"""How long a name counts as known that no caller of the API uses any more."""

FIRST_CLAIMS_SECONDS: Final = 5.0
"""Bound on how long a new process leaves the leadership to others."""

VANISHED_SECONDS: Final = 60.0
"""How long the server keeps the lock of a leader that says nothing. One whose machine lost its power
or its network closes no connection: TCP would tell of it after two hours, and nobody would keep the
house meanwhile. One that was merely slow leads again, or another does: each duty may be done twice."""

_STILL_THERE: Final = "SELECT 1"
"""Sent without parameters, hence by the simple protocol: the extended one would leave a portal open
until the next statement, and its snapshot would hold back vacuum all that time."""

_log = get_logger(__name__)


class Maintenance:
    """Tries to lead, and while it leads does what one process of all must do.

    Each duty is one statement or one short transaction: killed between any two, the next leader
    goes on from what it finds.
    """

    def __init__(self, database: Database, settings: Settings, *, handlers: Registry) -> None:
        self._database = database
        self._settings = settings
        self._handlers = handlers
        self._leadership = database.link()
        self._link = database.link()
        self._created_jobs = CreatedJobs(self._link)
        self._unserved_log = UnservedLog()
        self._leads_since: float | None = None
        self._next_word = 0.0
        """When the leader tells the server again that it is there."""
        self._next_slow = 0.0
        self._next_walk = 0.0
        self._walk_took = 0.0
        self._folded_rows = 0
        self._heads: list[LaneHead] = []
        """The first lanes, as this round of duties listed them."""
        self._looked_up_to: Lane | None = None
        """Up to where unserved types were looked for, while there are more lanes than that."""

    async def run(self) -> None:
        """Lead, or wait to lead, until cancelled."""
        pause = Pause()
        try:
            # What there is to do would take the server's time from this process's first claims.
            await asyncio.sleep(min(self._settings.maintenance_seconds, FIRST_CLAIMS_SECONDS))
            while True:
                try:
                    if await self._lead():
                        await self.do_duties()
                    pause.reset()
                    await asyncio.sleep(self._settings.maintenance_seconds)
                except DATABASE_ERRORS as error:
                    self._step_down()
                    record_database_error("maintenance")
                    _log.warning("maintenance_failed", error=type(error).__name__)
                    await pause.wait()
        finally:
            self._step_down()

    async def prepare(self) -> None:
        """Have today's partition before the first job ends, whoever leads."""
        try:
            await partitions.make_ahead(self._link, days=1)
        except DATABASE_ERRORS as error:
            # The default partition takes what finds no other.
            record_database_error("maintenance")
            _log.warning("partitions_not_prepared", error=type(error).__name__)

    async def close(self) -> None:
        """Give up the leadership."""
        await self._leadership.close()
        await self._link.close()

    async def do_duties(self) -> None:
        """Do every duty that is due; one that fails does not keep the others from their turn."""
        began = time.monotonic()
        if began >= self._next_walk:
            await self._each(self._list_lanes, self._fail_unserved_types, self._read_gauges)
            took = time.monotonic() - began
            # One that was slow says nothing: the network may have been, or this process stood still.
            dear, self._walk_took = min(took, self._walk_took), took
            self._next_walk = began + min(dear / WALK_SHARE, MAX_WALK_PAUSE_SECONDS)
        await self._each(self._fold_stats, self._count_created)
        if began >= self._next_slow:
            await self._each(self._make_partitions, self._drop_days, self._apply_retention)
            self._next_slow = began + SLOW_DUTY_SECONDS

    async def _each(self, *duties: Callable[[], Awaitable[None]]) -> None:
        for duty in duties:
            try:
                await duty()
            except (asyncpg.PostgresError, TimeoutError) as error:
                if isinstance(error, asyncpg.PostgresConnectionError):
                    raise
                record_database_error("maintenance")
                _log.warning(
                    "maintenance_duty_failed",
                    duty=duty.__name__.strip("_"),
                    error=type(error).__name__,
                    detail=str(error)[:200],
                )

    # -- leadership ---------------------------------------------------------------------------

    async def _lead(self) -> bool:
        """Whether this process leads: it holds the lock in a transaction that stays open."""
        connection = await self._leadership.connection()
        if self._leads_since is not None:
            if connection.is_in_transaction():
                if time.monotonic() >= self._next_word:
                    await self._say_so(connection)
                return True
            # Another connection: the lock went with the old one.
            self._step_down()
            connection = await self._leadership.connection()
        if not connection.is_in_transaction():
            await connection.execute("BEGIN")
        name = lock_name(store.leadership.LEADERSHIP, self._database.schema)
        if not await connection.fetchval(store.leadership.LEAD, name):
            await connection.execute("ROLLBACK")
            return False
        vanished = max(VANISHED_SECONDS, 2 * self._settings.maintenance_seconds)
        await connection.execute(
            f"SET LOCAL idle_in_transaction_session_timeout = {int(vanished * 1000)}"
        )
        await self._say_so(connection)
        self._leads_since = time.monotonic()
        self._created_jobs.forget()
        self._next_slow = 0.0
        WORKER_LEADER.set(1)
        _log.info("maintenance_leader")
        return True

    async def _say_so(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        await connection.execute(_STILL_THERE)
        self._next_word = time.monotonic() + VANISHED_SECONDS / 4

    def _step_down(self) -> None:
        self._leadership.drop()
        self._leads_since = None
        WORKER_LEADER.set(0)
        clear_queue_gauges()
        set_waiting_gauges({})

    # -- duties -------------------------------------------------------------------------------

    async def _make_partitions(self) -> None:
        await partitions.make_ahead(self._link, days=self._settings.partition_days_ahead)

    async def _drop_days(self) -> None:
        days = self._settings.retention_days
        # A day takes its counts along: what never got into its partition must have gone before.
        if await self._repeat(store.retention.DROP_DEFAULT_BEFORE, days):
            today: date = (await self._link.fetch(store.partitions.TODAY))[0][0]
            await partitions.drop_before(self._link, today - timedelta(days=days))

    async def _apply_retention(self) -> None:
        settings = self._settings
        await self._repeat(store.retention.DROP_DEAD_BEFORE, settings.dead_retention_days)
        await self._repeat(store.retention.DROP_IDEMPOTENCY_KEYS, settings.idempotency_key_hours)
        await self._repeat(store.retention.DROP_CALLER_USAGE, USAGE_DAYS)
        await self._repeat(store.retention.DROP_JOB_NAMES, NAME_DAYS)
        await self._link.fetch(store.retention.DROP_OLD_WORKERS)
        await self._link.fetch(
            store.served_types.FORGET_SERVED_TYPES, settings.served_type_memory_days
        )

    async def _repeat(self, statement: str, keep: int) -> bool:
        """Drop what is older than `keep` in batches; False where more is left than one round may."""
        for _ in range(MAX_BATCHES):
            dropped = (await self._link.fetch(statement, keep, BATCH))[0][0]
            if dropped < BATCH:
                return True
        return False

    async def _fold_stats(self) -> None:
        # Twice what the last fold left: with many types and days even folded rows are many.
        limit = FOLD_ABOVE_ROWS + 2 * self._folded_rows
        rows = (await self._link.fetch(store.counts.STATS_ROWS, limit))[0][0]
        if rows >= limit:
            self._folded_rows = (await self._link.fetch(store.counts.FOLD_STATS))[0][0]

    async def _count_created(self) -> None:
        await self._created_jobs.count()

    async def _list_lanes(self) -> None:
        self._heads = []
        self._heads = await store.lanes.listed(self._link, limit=MAX_LANES)

    async def _fail_unserved_types(self) -> None:
        await unserved.remember_served(self._link)
        grace = self._settings.unknown_type_grace_seconds
        if self._leads_since is None or time.monotonic() - self._leads_since < grace:
            return  # a worker that serves the type may just be starting
        heads = self._heads
        if self._looked_up_to is not None:
            heads = await store.lanes.listed(self._link, limit=MAX_LANES, after=self._looked_up_to)
        self._looked_up_to = heads[-1].lane if len(heads) == MAX_LANES else None
        served = await unserved.find_served(
            self._link, self._settings, own_types=self._handlers.job_types(), grace_seconds=grace
        )
        failed = await unserved.fail_unserved(
            self._link,
            heads,
            served,
            grace_seconds=grace,
            max_errors=self._settings.max_error_entries,
        )
        self._unserved_log.add(failed)
        waiting = await unserved.count_waiting(self._link, heads, served, grace_seconds=grace)
        self._unserved_log.add_waiting(waiting)
        set_waiting_gauges(waiting)

    async def _read_gauges(self) -> None:
        # The queues that somebody serves by name: a crowd of others may stand before them in the list.
        rows = await self._link.fetch(store.counts.SERVED_QUEUES, MAX_LANES)
        known_queue.reserve(row[0] for row in rows)
        served = await store.lanes.of_queues(self._link, sorted(known_queue.reserved)[:MAX_LANES])
        heads = {head.lane: head for head in (*self._heads, *served)}.values()
        if not heads:
            set_queue_gauges(())
            return
        rows = await self._link.fetch(
            store.counts.QUEUE_GAUGES,
            [head.lane.queue for head in heads],
            [head.lane.priority for head in heads],
            self._settings.count_cap,
            [head.first_at for head in heads],
        )
        set_queue_gauges(QueueReading(*row) for row in rows)
