"""How time passes: from one moment at which something is due to the next."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import text

from service.errors import ConfigurationError, InvalidInput
from service.testing.clock import Clock
from service.testing.ran import Ran
from service.testing.running import Runner
from service.testing.schedules import MAX_MOMENTS, Schedules
from service.testing.target import FakeTarget
from service.testing.transaction import TransactionDatabase

_NEXT: Final = text("""
SELECT min(at) FROM (
  SELECT next_run_at AS at FROM finmind_jobs.jobs_live
  WHERE status = 'PENDING' AND job_type = ANY (CAST(:served AS text[]))
  UNION ALL SELECT next_at FROM finmind_jobs.rate_limits
  UNION ALL SELECT retry_at FROM finmind_jobs.targets WHERE opened_at IS NOT NULL) due
WHERE at > now() AND at <= :until""")


class Passing:
    """Moves the clock of one test, past the ticks of its schedules."""

    def __init__(
        self,
        database: TransactionDatabase,
        clock: Clock,
        *,
        schedules: Schedules,
        runner: Runner,
        target: FakeTarget,
    ) -> None:
        self._database = database
        self._clock = clock
        self._schedules = schedules
        self._runner = runner
        self._target = target

    async def move(self, by: timedelta, to: datetime | None) -> datetime:
        """Move it by so much, or to a time; schedules are acted on at each of their ticks, nothing else runs."""
        __tracebackhide__ = True
        now = await self._now()
        if to is not None:
            if to.tzinfo is None:
                raise InvalidInput(
                    f"move_clock got to={to.isoformat()} without a time zone: append an offset, or use "
                    "datetime.now(UTC)",
                    field="to",
                )
            by += to - now
        if by < timedelta():
            raise InvalidInput(
                f"move_clock would go back by {-by}, expected a later time: it is {now.isoformat()} now",
                field="to" if to is not None else "seconds",
            )
        goal = self._clock.moved_by + by
        for _ in range(MAX_MOMENTS):
            due = await self._schedules.next_due(until=now + by)
            if due is None:
                await self._advance(goal - self._clock.moved_by)
                return await self._now()
            await self._advance_to(due)
            await self._schedules.act()
        raise await self._schedules.too_many()

    async def run_for(
        self, by: timedelta, *, job_types: Collection[str] | None, raise_errors: bool, limit: int
    ) -> list[Ran]:
        """Let so much time pass, and run what is due at each moment of it."""
        __tracebackhide__ = True
        if by <= timedelta():
            raise InvalidInput(f"run_for got {by}, expected a time above 0", field="seconds")
        until = await self._now() + by
        ran: list[Ran] = []
        for _ in range(MAX_MOMENTS):
            await self._schedules.act()
            ran += await self._runner.run_due(
                job_types, raise_errors=raise_errors, limit=limit - len(ran)
            )
            await self._schedules.note_endings()
            due = await self._next_due(until)
            if due is None:
                await self._advance_to(until)
                return ran
            await self._advance_to(due)
        raise ConfigurationError(
            f"In {by} something is due more than {MAX_MOMENTS} times (now: {(await self._now()).isoformat()}): let less "
            "time pass"
        )

    async def _next_due(self, until: datetime) -> datetime | None:
        connection = await self._database.renew()
        of_jobs = (
            await connection.execute(_NEXT, {"until": until, "served": self._runner.served()})
        ).scalar_one()
        both = (of_jobs, await self._schedules.next_due(until=until))
        return min((due for due in both if due is not None), default=None)

    async def _now(self) -> datetime:
        return await self._clock.now(await self._database.renew())

    async def _advance_to(self, moment: datetime) -> None:
        await self._advance(moment - await self._now())

    async def _advance(self, by: timedelta) -> None:
        if by > timedelta():
            await self._clock.move(await self._database.renew(), by)
            await self._database.renew()
            self._target.moved()
