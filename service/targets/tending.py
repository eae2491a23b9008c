"""Looks after breakers: holds jobs that found one open, lets one go to try, and all once it has closed.

Connections that were idle for too long are closed on the way.
"""

import asyncio
import random
import time
from functools import partial
from typing import Final

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.db.session import fetch
from service.jobs import store
from service.jobs.core.claimed_job import Lease
from service.jobs.core.holds import BREAKER, KEY
from service.jobs.loops import Loop, Pause
from service.jobs.notify.publisher import publish_after_commit
from service.observability.logging import get_logger
from service.observability.metrics import record_database_error
from service.targets import repository
from service.targets.breaker import Breakers, target_key
from service.targets.connections import Connections

ROUND_SECONDS: Final = 1.0
"""How long a job that put itself off waits to be held, and a closed breaker to let its jobs go."""

IDLE_SECONDS: Final = 10.0
"""How often a process looks for jobs held for targets while it knows of none, and of no open breaker."""

BATCH: Final = 1_000
MAX_BATCHES: Final = 20
"""Jobs of one target that one round moves or lets go; the next goes on."""

MAX_HOLDS: Final = 1_000
"""Breakers with held jobs that one round looks at; the next round goes on behind them."""

HOLD_TRIES: Final = 3
"""Rounds in which it is tried to hold a job whose own outcome may not be recorded yet."""

DROP_SECONDS: Final = 3_600.0

_log = get_logger(__name__)


class Tending:
    """The loop of one process; each process may run one."""

    def __init__(
        self,
        database: Database,
        breakers: Breakers,
        connections: Connections | None = None,
        *,
        max_holds: int = MAX_HOLDS,
    ) -> None:
        self._database = database
        self._breakers = breakers
        self._connections = connections
        self._tries: dict[Lease, int] = {}
        self._max_holds = max_holds
        self._looked_to = BREAKER
        """The last breaker with held jobs that was looked at."""
        self._some_held = True
        """Whether the last look found held jobs."""
        self._looked_at = 0.0
        self._drop_at = time.monotonic() + DROP_SECONDS * random.random()  # noqa: S311 - not cryptography
        self._loop = Loop("targets", self._run)

    async def start(self) -> None:
        """Begin."""
        self._loop.start()

    async def stop(self) -> None:
        """Stop; what was not written down is counted no more."""
        await self._loop.stop()

    async def round(self) -> None:
        """One look.

        Raises:
            DATABASE_ERRORS, SQLAlchemyError: the database did not answer; nothing is lost.
        """
        if self._connections is not None:
            await self._connections.sweep()
        await self._hold()
        await self._move()
        await self._write_uses()
        if self._breakers.any_open:
            await self._breakers.refresh()  # for the metric: nothing may be sent for hours
        idle_until = self._looked_at + IDLE_SECONDS
        if self._some_held or self._breakers.any_open or time.monotonic() >= idle_until:
            await self._release()
        if time.monotonic() >= self._drop_at:
            async with self._database.sessions.begin() as session:
                dropped = await repository.drop_unused(session)
            if dropped < repository.DROP_BATCH:  # else the next round goes on
                self._drop_at = time.monotonic() + DROP_SECONDS

    async def _run(self) -> None:
        failures = Pause()
        while True:
            # Apart from the rounds of other processes.
            await asyncio.sleep(ROUND_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - as above
            try:
                await self.round()
            except (*DATABASE_ERRORS, SQLAlchemyError) as error:
                record_database_error("targets")
                _log.warning("targets_not_tended", error=type(error).__name__)
                await failures.wait()
            else:
                failures.reset()

    async def _hold(self) -> None:
        waiting = dict(list(self._breakers.to_hold.items())[:BATCH])
        if not waiting:
            return
        async with self._database.sessions.begin() as session:
            jobs = [(lease, f"{BREAKER}{name}") for lease, name in waiting.items()]
            held = await store.breakers.hold(partial(fetch, session), jobs)
        self._some_held |= bool(held)
        for lease in waiting:
            tries = self._tries.pop(lease, 0) + 1
            if lease[0] in held or tries >= HOLD_TRIES:
                self._breakers.to_hold.pop(lease, None)
            else:
                self._tries[lease] = tries

    async def _move(self) -> None:
        for name in list(self._breakers.opened):
            limit_name = KEY + target_key(name)
            for _ in range(MAX_BATCHES):
                async with self._database.sessions.begin() as session:
                    moved = await store.breakers.move(
                        partial(fetch, session), limit_name, f"{BREAKER}{name}", limit=BATCH
                    )
                if moved < BATCH:
                    break
            self._breakers.opened.discard(name)

    async def _write_uses(self) -> None:
        uses, self._breakers.uses = self._breakers.uses, {}
        if not uses:
            return
        async with self._database.sessions.begin() as session:
            await repository.write_uses(session, uses)

    async def _release(self) -> None:
        self._looked_at = time.monotonic()
        async with self._database.sessions.begin() as session:
            holds = await store.breakers.held(
                partial(fetch, session), limit=self._max_holds, after=self._looked_to
            )
            self._some_held = bool(holds) or self._looked_to != BREAKER
            self._looked_to = holds[-1] if len(holds) == self._max_holds else BREAKER
            if not holds:
                return
            is_open = await repository.open_breakers(session)
        for held_for in holds:
            name = held_for.removeprefix(BREAKER)
            if name not in is_open:
                await self._let_all_go(name, held_for)
            elif is_open[name] <= 0:
                await self._let_one_go(name, held_for)

    async def _let_all_go(self, name: str, held_for: str) -> None:
        released = 0
        for _ in range(MAX_BATCHES):
            async with self._database.sessions.begin() as session:
                jobs = await _let_go(session, held_for, limit=BATCH)
            released += jobs
            if jobs < BATCH:
                break
        _log.info("target_jobs_released", target=name, jobs=released)

    async def _let_one_go(self, name: str, held_for: str) -> None:
        async with self._database.sessions.begin() as session:
            if await repository.may_release(session, name):
                await _let_go(session, held_for, limit=1)


async def _let_go(session: AsyncSession, held_for: str, *, limit: int) -> int:
    jobs, lanes = await store.breakers.release(partial(fetch, session), held_for, limit=limit)
    if lanes:
        await publish_after_commit(session, list(lanes))
    return jobs
