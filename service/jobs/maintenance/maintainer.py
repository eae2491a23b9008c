"""What the leader does, and how often: partitions, retention, counts, unserved types, gauges."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from service.audit import months
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs import store
from service.jobs.core.lane import MAX_LANES, LaneHead
from service.jobs.flow import unique_turns
from service.jobs.handlers.registry import Registry
from service.jobs.loops import Pause
from service.jobs.maintenance import gauges, partitions, permits, retention
from service.jobs.maintenance.causes import Causes
from service.jobs.maintenance.created_jobs import CreatedJobs
from service.jobs.maintenance.dependencies import Dependencies
from service.jobs.maintenance.kept_counts import KeptCounts
from service.jobs.maintenance.leader import Leader
from service.jobs.maintenance.quiet import Quiet
from service.jobs.maintenance.rates import KeptRates
from service.jobs.maintenance.steps import Steps
from service.jobs.maintenance.unserved import UnservedTypes
from service.observability.cause_gauges import clear_cause_gauges
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.observability.queue_gauges import (
    clear_queue_gauges,
    set_held_gauges,
    set_paused_gauges,
    set_permit_gauges,
    set_waiting_gauges,
)
from service.observability.rate_gauges import clear_rate_gauges
from service.settings import Settings

WALK_SHARE: Final = 0.02
"""Share of the time that walking the lanes may take: for unserved types, and for the gauges. The same for
comparing permits with live jobs."""

MAX_WALK_PAUSE_SECONDS: Final = 60.0

SLOW_DUTY_SECONDS: Final = 60.0
"""How often the duties run that need no hurry: partitions and retention."""

FIRST_CLAIMS_SECONDS: Final = 5.0
"""Limit on how long a new process leaves the leadership to others."""

_log = get_logger(__name__)


class Maintainer:
    """Tries to lead, and while it leads does what one process of all must do.

    Each duty is one statement or one short transaction: killed between any two, the next leader
    goes on from what it finds.
    """

    def __init__(self, database: Database, settings: Settings, *, handlers: Registry) -> None:
        self._settings = settings
        self.leader = Leader(database, settings)
        self._link = database.link()
        self._kept_counts = KeptCounts(self._link)
        self._rates = KeptRates(self._link, settings)
        self._causes = Causes(self._link, settings)
        self._created_jobs = CreatedJobs(self._link)
        self._dependencies = Dependencies(self._link, settings)
        self._steps = Steps(self._link)
        self._unserved_types = UnservedTypes(self._link, settings, handlers)
        self._quiet = Quiet(self._link)
        self._leads_since: float | None = None
        """As the last round of duties found it."""
        self._next_slow = 0.0
        self._next_repair = 0.0
        self._next_walk = 0.0
        self._walk_took = 0.0
        self._heads: list[LaneHead] = []
        """The first lanes, as this round of duties listed them."""
        self._paused: frozenset[str] = frozenset()
        """The paused queues, as this round of duties read them."""

    async def run(self) -> None:
        """Lead, or wait to lead, until cancelled."""
        pause = Pause()
        try:
            # What there is to do would take the server's time from this process's first claims.
            await asyncio.sleep(min(self._settings.maintenance_seconds, FIRST_CLAIMS_SECONDS))
            while True:
                try:
                    await self.do_round()
                    pause.reset()
                    await asyncio.sleep(self._settings.maintenance_seconds)
                except DATABASE_ERRORS as error:
                    self._step_down()
                    record_database_error("maintenance")
                    _log.warning("maintenance_failed", error=type(error).__name__)
                    await pause.wait()
        finally:
            self._step_down()

    async def do_round(self) -> None:
        """Do the duties that are due, if this process leads."""
        if not await self.leader.lead():
            self._clear_gauges()  # another process leads, perhaps since a moment ago
            self._quiet.forget()
            return
        await self._each(self._look_for_jobs)
        if not self._quiet.skips_round:
            await self.do_duties()

    async def prepare(self) -> None:
        """Make today's partition before the first job ends, whoever leads."""
        try:
            await partitions.make_ahead(self._link, days=1)
        except DATABASE_ERRORS as error:
            # The default partition takes what finds no other.
            record_database_error("maintenance")
            _log.warning("partitions_not_prepared", error=type(error).__name__)

    async def close(self) -> None:
        """Give up the leadership."""
        await self.leader.close()
        await self._link.close()

    async def do_duties(self) -> None:
        """Do every duty that is due; one that fails does not keep the others from their turn."""
        if self._leads_since != self.leader.since:  # others led meanwhile
            self._leads_since = self.leader.since
            self._created_jobs.forget()
            self._next_slow = 0.0
        began = time.monotonic()
        if began >= self._next_walk:
            await self._each(self._list_lanes, self._fail_unserved_types, self._read_gauges)
            took = time.monotonic() - began
            # One that was slow says nothing: the network may have been, or this process stood still.
            slow, self._walk_took = min(took, self._walk_took), took
            self._next_walk = began + min(slow / WALK_SHARE, MAX_WALK_PAUSE_SECONDS)
        await self._each(
            self._fold_stats,
            self._fold_rates,
            self._fold_causes,
            self._mark_dead_letters,
            self._count_created,
            self._start_next,
            self._act_on_endings,
            self._look_at_batches,
        )
        if began >= self._next_slow:
            await self._each(
                self._make_partitions,
                self._drop_days,
                self._apply_retention,
                self._drop_results,
                self._drop_rates,
                self._drop_causes,
                self._look_at_parents,
                self._find_lost_members,
                self._drop_dependencies,
                self._drop_steps,
                self._repair_permits,
                self._drop_permits,
            )
            await self._each(self._make_audit_months, self._drop_audit_months)
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

    def _step_down(self) -> None:
        self._quiet.forget()
        self.leader.step_down()
        self._clear_gauges()

    def _clear_gauges(self) -> None:
        clear_queue_gauges()
        set_held_gauges({})
        set_paused_gauges(())
        set_permit_gauges({})
        clear_cause_gauges()
        clear_rate_gauges()
        set_waiting_gauges({})

    # Their names are the `duty` of the log line above.

    async def _look_for_jobs(self) -> None:
        await self._quiet.look()

    async def _list_lanes(self) -> None:
        self._heads = []
        self._paused = await store.queues.paused(self._link)
        self._heads = await store.lanes.listed(self._link, limit=MAX_LANES)

    async def _fail_unserved_types(self) -> None:
        await self._unserved_types.look(
            self._heads, paused=self._paused, leads_since=self.leader.since
        )

    async def _read_gauges(self) -> None:
        set_paused_gauges(self._paused)
        await gauges.read_queue_gauges(self._link, self._heads, cap=self._settings.count_cap)
        await gauges.read_held_gauges(self._link, cap=self._settings.count_cap)
        await gauges.read_permit_gauges(self._link)

    async def _fold_stats(self) -> None:
        await self._kept_counts.fold()

    async def _fold_rates(self) -> None:
        await self._rates.fold()
        await self._rates.show()

    async def _drop_rates(self) -> None:
        await self._rates.drop_old()

    async def _fold_causes(self) -> None:
        await self._causes.fold()

    async def _mark_dead_letters(self) -> None:
        await self._causes.mark()

    async def _drop_causes(self) -> None:
        await self._causes.drop_old()

    async def _count_created(self) -> None:
        await self._created_jobs.count()

    async def _act_on_endings(self) -> None:
        await self._dependencies.act_on_endings()

    async def _look_at_batches(self) -> None:
        await self._dependencies.look_at_batches()

    async def _look_at_parents(self) -> None:
        await self._dependencies.look_at_parents()

    async def _find_lost_members(self) -> None:
        await self._dependencies.find_lost_members()

    async def _drop_dependencies(self) -> None:
        await self._dependencies.drop_old()

    async def _drop_steps(self) -> None:
        await self._steps.drop_of_no_job()

    async def _make_partitions(self) -> None:
        await partitions.make_ahead(self._link, days=self._settings.partition_days_ahead)

    async def _drop_days(self) -> None:
        await retention.drop_days(self._link, self._settings)

    async def _start_next(self) -> None:
        await unique_turns.look(self._link, max_errors=self._settings.max_error_entries)

    async def _drop_results(self) -> None:
        await retention.drop_results(self._link)

    async def _apply_retention(self) -> None:
        await retention.drop_old(self._link, self._settings)

    async def _repair_permits(self) -> None:
        began = time.monotonic()
        if began < self._next_repair:
            return
        try:
            await permits.repair(self._link)
        finally:  # it reads all live jobs: of millions less often
            self._next_repair = began + (time.monotonic() - began) / WALK_SHARE

    async def _drop_permits(self) -> None:
        await permits.drop_idle(self._link)

    async def _make_audit_months(self) -> None:
        await months.make_months(self._link)

    async def _drop_audit_months(self) -> None:
        await months.drop_months(self._link, keep_days=self._settings.audit_retention_days)
