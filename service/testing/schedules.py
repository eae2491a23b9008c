"""Schedules in a test: their ticks are acted on when the clock passes them."""

from collections.abc import Collection
from datetime import datetime
from typing import Final

from sqlalchemy import text

from service.errors import ConfigurationError, InvalidInput
from service.jobs import Registry
from service.schedules.declared import Declarations
from service.schedules.declaring import declare
from service.schedules.endings import note_endings
from service.schedules.firing import act_on_due
from service.settings import Settings
from service.testing.transaction import TransactionDatabase

MAX_MOMENTS: Final = 2000
"""Limit on the times at which schedules are acted on in one move of the clock."""

BATCH: Final = 500

_NEXT: Final = text("SELECT min(due_at) FROM finmind_jobs.schedules WHERE due_at <= :until")
_OFTENEST: Final = text("""
SELECT s.name, count(*) AS ticks FROM finmind_jobs.schedule_ticks t
  JOIN finmind_jobs.schedules s ON s.id = t.schedule_id
GROUP BY 1 ORDER BY 2 DESC LIMIT 1""")
_NO_LIMIT: Final = text("SELECT set_config('idle_in_transaction_session_timeout', '0', true)")


class Schedules:
    """The schedules of one test; none runs before `start`."""

    def __init__(
        self,
        database: TransactionDatabase,
        settings: Settings,
        handlers: Registry,
        *,
        declared: Declarations,
    ) -> None:
        self._database = database
        self._settings = settings
        self._handlers = handlers
        self._declared = declared
        self._started = False

    async def start(self, names: Collection[str]) -> list[str]:
        """Make those of the code, as the start of a service does; all where no names are given."""
        known = self._declared.definitions(self._handlers)
        if unknown := sorted(set(names) - known.keys()):
            raise InvalidInput(
                f"names has {unknown[0]!r}, and no @schedule makes one of that name: expected one of "
                f"{', '.join(sorted(known)) or 'none: import the module that has them'}",
                field="names",
            )
        chosen = {name: known[name] for name in sorted(names or known)}
        async with self._database.sessions.begin() as session:
            await declare(session, chosen, self._settings)
        self._started = True
        return list(chosen)

    async def next_due(self, *, until: datetime) -> datetime | None:
        """When the next tick is to be acted on, if that is soon enough; it may be over."""
        if not self._started:
            return None
        connection = await self._database.renew()
        due: datetime | None = (await connection.execute(_NEXT, {"until": until})).scalar_one()
        return due

    async def act(self) -> None:
        """Act on the ticks that are due: enqueue their jobs."""
        if not self._started:
            return
        while True:
            async with self._database.sessions.begin() as session:
                acted = await act_on_due(session, limit=BATCH)
                await session.execute(_NO_LIMIT)  # of one transaction, which here is the test's
            if acted.schedules < BATCH:
                return

    async def note_endings(self) -> None:
        """Note how runs ended: schedules that fail too often are paused."""
        if self._started:
            async with self._database.sessions.begin() as session:
                await note_endings(session, limit=BATCH)

    async def too_many(self) -> ConfigurationError:
        """The error for a move that passes too many ticks."""
        connection = await self._database.renew()
        row = (await connection.execute(_OFTENEST)).one()
        return ConfigurationError(
            f"The clock would pass over {MAX_MOMENTS} ticks (of {row.name!r} most of them): move it less far, or "
            "start the schedules of this test alone, start_schedules(…)"
        )
