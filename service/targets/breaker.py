"""Breakers: a target that keeps failing is left alone for a while, and then tried by one request.

    closed ── BREAKER_FAILURES failures in a row ──▶ open ── its pause is over ──▶ half-open
      ▲                                                ▲                              │
      └── an answer, or a reset ───────────────────────┼──────────────────────────────┤
                                                       └──── the probe fails ─────────┘

Each process counts failures for itself; that a breaker is open stands in `targets` and counts in all. Jobs that
find it open are held: they put themselves off, and `tending.py` holds them a moment later. Nothing depends on
that: a job that is not held comes back by itself.
"""

import asyncio
import math
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.jobs import JobContext, Snooze
from service.jobs.core.claimed_job import Lease
from service.jobs.core.holds import MAX_KEY_CHARS
from service.observability.logging import get_logger
from service.observability.metrics import TARGET_BREAKERS, record_database_error
from service.settings import Settings
from service.targets import repository
from service.targets.repository import Use
from service.targets.url import Destination

READ_SECONDS: Final = 1.0
"""How old may be what a process knows of open breakers."""

LONGEST_SNOOZE_SECONDS: Final = 60.0
"""After so long a job that found a breaker open looks again, if it was not held."""

PROBE_MARGIN_SECONDS: Final = 10.0
"""How much longer than its timeout a request that tries a target is waited for."""

BUSY_SECONDS: Final = 1.0
"""How long about a job puts itself off that finds as many requests running as may."""

PUT_OFF_PER_SECOND: Final = 100.0
LONGEST_BUSY_SECONDS: Final = 30.0
"""Of a target that has not answered yet, or just failed, so many jobs a second look again, and each within so
long: thousands of them would take the time of the process from all others."""

MAX_KNOWN: Final = 5_000
"""Targets of which a process counts failures; of more, those that were used longest ago are forgotten."""

MAX_HELD: Final = 10_000
"""Jobs that wait to be held; of more the rest comes back by itself."""

_log = get_logger(__name__)


@dataclass(slots=True)
class _Known:
    """What this process knows of one target."""

    running: int = 0
    failures: int = 0
    """In a row."""
    proven: bool = False
    """Whether it has answered."""
    again_at: float = 0.0
    """When the last job that was put off looks again (monotonic)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one request says of its target; `error` is None where it works, whatever it answered."""

    error: str | None = None


class Breakers:
    """The breakers as one process knows them; safe to use from many tasks at once."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._threshold = settings.target_breaker_failures
        self._pause = settings.target_breaker_seconds
        self._longest_pause = settings.target_breaker_max_seconds
        self._max_running = settings.target_max_running
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._open: dict[str, float] = {}
        """Monotonic time at which each open breaker lets a request through."""
        self._read_at = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self.uses: dict[str, Use] = {}
        """What happened since the last `tending`, by target."""
        self.to_hold: dict[Lease, str] = {}
        """Jobs that have put themselves off, and the targets that they wait for."""
        self.opened: set[str] = set()
        """Targets whose held jobs are to be moved from the limit to the breaker."""

    @asynccontextmanager
    async def request(
        self, destination: Destination, context: JobContext, *, timeout_seconds: float
    ) -> AsyncIterator[list[Outcome]]:
        """Around a request, which takes so long at most: the body appends what it says of the target, or nothing.

        Raises:
            Snooze: the breaker is open, or as many requests run as may.
        """
        name = target_name(destination)
        await self.refresh()
        probes = name in self._open
        known = self._of(name)
        if probes:
            await self._let_through(name, context, seconds=timeout_seconds + PROBE_MARGIN_SECONDS)
        else:
            self._check_room(known)
        known.running += 1
        said: list[Outcome] = []
        try:
            yield said
        finally:
            known.running -= 1
            outcome = said[0] if said else None
            await asyncio.shield(self._ended(name, known, outcome, probes=probes))

    @property
    def any_open(self) -> bool:
        """Whether some breaker is open, as far as this process knows."""
        return bool(self._open)

    # -- before -------------------------------------------------------------------------------

    async def _let_through(self, name: str, context: JobContext, *, seconds: float) -> None:
        """Become the probe of an open breaker.

        Raises:
            Snooze: it is too early, or another request tries the target.
        """
        wait = self._open[name] - time.monotonic()
        if wait <= 0:
            try:
                async with self._database.sessions.begin() as session:
                    if await repository.take_probe(session, name, seconds=seconds):
                        return
            except (*DATABASE_ERRORS, SQLAlchemyError):
                record_database_error("target_probe")
        if len(self.to_hold) < MAX_HELD:
            self.to_hold[context.job_id, context.lease_token] = name
        wait = min(max(wait, 5.0), LONGEST_SNOOZE_SECONDS)
        raise Snooze(wait * random.uniform(1.0, 1.5))  # noqa: S311 - not cryptography

    def _check_room(self, known: _Known) -> None:
        """Keep a target that has not answered yet, or just failed, from filling the slots of a process.

        Raises:
            Snooze: as many requests run as may.
        """
        doubtful = not known.proven or known.failures > self._threshold // 2
        limit = min(self._threshold, self._max_running) if doubtful else self._max_running
        if known.running < limit:
            return
        wait = BUSY_SECONDS * random.uniform(0.5, 1.5)  # noqa: S311 - as above
        if doubtful:
            now = time.monotonic()
            turn = max(known.again_at, now) + 1 / PUT_OFF_PER_SECOND
            known.again_at = min(turn, now + LONGEST_BUSY_SECONDS)
            wait = max(wait, known.again_at - now)
        raise Snooze(wait)

    async def refresh(self) -> None:
        """Read which breakers are open, unless that was done within the last second."""
        if time.monotonic() < self._read_at + READ_SECONDS:
            return
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="targets.read")
        await asyncio.shield(self._reading)

    def forget(self) -> None:
        """Read which breakers are open before the next request, however long ago that was done."""
        self._read_at = -math.inf

    async def _read(self) -> None:
        try:
            began = time.monotonic()
            async with self._database.sessions.begin() as session:
                rows = await repository.open_breakers(session)
            self._open = {name: began + seconds for name, seconds in rows.items()}
            TARGET_BREAKERS.set(len(rows))
        except (*DATABASE_ERRORS, SQLAlchemyError) as error:
            # What was known stays: a request too many does no harm.
            record_database_error("target_breakers")
            _log.warning("target_breakers_not_read", error=type(error).__name__)
        finally:
            self._read_at = time.monotonic()
            self._reading = None

    def _of(self, name: str) -> _Known:
        known = self._known.setdefault(name, _Known())
        self._known.move_to_end(name)
        while len(self._known) > MAX_KNOWN:
            oldest = next(iter(self._known))
            if self._known[oldest].running:
                break
            del self._known[oldest]
        return known

    # -- after --------------------------------------------------------------------------------

    async def _ended(
        self, name: str, known: _Known, outcome: Outcome | None, *, probes: bool
    ) -> None:
        if outcome is None:  # it says nothing: it was refused, or cancelled
            if probes:
                await self._write(repository.give_probe_back, name)
            return
        use = self.uses.setdefault(name, Use())
        if outcome.error is None:
            use.succeeded += 1
            known.proven, known.failures, known.again_at = True, 0, 0.0
            if probes or name in self._open:
                await self._close(name)
            return
        use.failed += 1
        use.last_error = outcome.error
        known.failures += 1
        if probes or (known.failures >= self._threshold and name not in self._open):
            await self._opens(name, outcome.error, again=probes)

    async def _close(self, name: str) -> None:
        self._open.pop(name, None)
        try:
            async with self._database.sessions.begin() as session:
                if await repository.close(session, name):
                    _log.info("target_breaker_closed", target=name)
        except (*DATABASE_ERRORS, SQLAlchemyError):
            record_database_error("target_breakers")  # the next answer closes it

    async def _opens(self, name: str, error: str, *, again: bool) -> None:
        seconds = self._pause
        try:
            async with self._database.sessions.begin() as session:
                seconds = await repository.open_breaker(
                    session, name, error=error, pause=self._pause, longest=self._longest_pause
                )
        except (*DATABASE_ERRORS, SQLAlchemyError):
            record_database_error("target_breakers")
        self._open[name] = time.monotonic() + seconds
        self.opened.add(name)
        if not again:
            _log.warning(
                "target_breaker_opened", target=name, seconds=round(seconds, 1), error=error
            )

    async def _write(self, statement: "repository.Write", name: str) -> None:
        try:
            async with self._database.sessions.begin() as session:
                await statement(session, name)
        except (*DATABASE_ERRORS, SQLAlchemyError):
            record_database_error("target_breakers")


def target_name(destination: Destination) -> str:
    """The name of a target: host and port, whatever its scheme: `crm.example.com:443`."""
    host = f"[{destination.host}]" if ":" in destination.host else destination.host
    return f"{host}:{destination.port}"


def target_key(name: str) -> str:
    """The concurrency key of the jobs of a target: `target:crm.example.com:443`; a digest of an overlong one."""
    key = f"target:{name}"
    return key if len(key) <= MAX_KEY_CHARS else f"target:{sha256(key.encode()).hexdigest()}"
