"""Whether this process can do its work: checks with reasons, for load balancers and people.

The answers are public: they name no host, no user and no statement.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import asyncpg

from service.db.connection import Link
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.db.migrate import head_revision
from service.observability.logging import get_logger
from service.observability.metrics import EVENT_LOOP_LAG
from service.settings import Settings

LAG_INTERVAL_SECONDS: Final = 0.25
LAG_WINDOW_SECONDS: Final = 10.0
LAG_LIMIT_SECONDS: Final = 1.0
DATABASE_TIMEOUT_SECONDS: Final = 1.0
WORKER_LOOP_SLACK_SECONDS: Final = 5.0
"""Added to what the settings allow, for the claimer's pause after a failure."""

_log = get_logger(__name__)


class WorkerState(Protocol):
    """What the check reads from the worker."""

    @property
    def alive(self) -> bool:
        """Whether all of its loops run."""

    @property
    def claims_fail_since(self) -> float | None:
        """Since when, on the monotonic clock, its claims have failed; None if they do not."""

    @property
    def last_loop_at(self) -> float:
        """When its claimer last completed a round, on the monotonic clock."""


@dataclass(frozen=True, slots=True)
class Check:
    """One condition, whether it holds, and why not."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """All checks together."""

    ready: bool
    checks: tuple[Check, ...]


class EventLoopMonitor:
    """Measures how late the event loop wakes a sleeper.

    A probe that arrives during a stall is answered just after it, possibly before the monitor's own
    task ran: `max_lag` therefore counts a wake-up that is overdue.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lags: deque[tuple[float, float]] = deque()
        self._due_at: float | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to measure."""
        self._task = asyncio.create_task(self._run(), name="event-loop-monitor")

    async def stop(self) -> None:
        """Stop measuring."""
        task, self._task = self._task, None
        self._due_at = None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            self._due_at = self._clock() + LAG_INTERVAL_SECONDS
            await asyncio.sleep(LAG_INTERVAL_SECONDS)
            self.record(self._clock() - self._due_at)
            EVENT_LOOP_LAG.set(self.max_lag())

    def record(self, lag: float) -> None:
        """Note one wake-up that came so many seconds late."""
        now = self._clock()
        self._lags.append((now, lag))
        while self._lags and self._lags[0][0] < now - LAG_WINDOW_SECONDS:
            self._lags.popleft()

    def max_lag(self) -> float:
        """The longest stall of the last 10 seconds, one still going on included."""
        now = self._clock()
        overdue = now - self._due_at if self._due_at is not None else 0.0
        recent = (lag for at, lag in self._lags if at >= now - LAG_WINDOW_SECONDS)
        return max(0.0, overdue, *recent)


class HealthChecks:
    """The readiness checks of one process; concurrent callers share one round of them."""

    def __init__(
        self,
        database: Database,
        settings: Settings,
        *,
        monitor: EventLoopMonitor,
        worker: Callable[[], WorkerState | None],
        stopping: Callable[[], bool],
    ) -> None:
        # A connection of its own: a process with a busy pool should still get traffic.
        self._link: Link = database.link()
        self._monitor = monitor
        self._worker = worker
        # A round of the claimer: an idle pause, or a new connection and a statement.
        self._loop_limit = (
            settings.poll_max_seconds
            + settings.database_connect_timeout_seconds
            + settings.database_command_timeout_seconds
            + WORKER_LOOP_SLACK_SECONDS
        )
        self._stopping = stopping
        self._head = head_revision()
        self._lock = asyncio.Lock()
        self._last: tuple[float, Readiness] | None = None

    async def close(self) -> None:
        """Close the connection of the checks."""
        await self._link.close()

    async def readiness(self) -> Readiness:
        """The state of every check; bounded by the database's second."""
        asked_at = time.monotonic()
        async with self._lock:
            # A round that began after this call answers it too: a flood of probes costs one statement
            # at a time.
            if self._last is not None and self._last[0] >= asked_at:
                return self._last[1]
            began_at = time.monotonic()
            checks = (
                *await self._database_checks(),
                self._check_worker(),
                self._check_event_loop(),
                self._check_stopping(),
            )
            result = Readiness(all(check.ok for check in checks), checks)
            before = self._last[1].ready if self._last is not None else True
            self._last = (began_at, result)
        if before and not result.ready:
            _log.warning("not_ready", reasons=[f"{c.name}: {c.detail}" for c in checks if not c.ok])
        return result

    async def _database_checks(self) -> tuple[Check, Check]:
        unknown = Check("migrations", ok=False, detail="unknown: the database does not answer")
        began = time.monotonic()
        try:
            async with asyncio.timeout(DATABASE_TIMEOUT_SECONDS):
                revision = await self._revision()
        except TimeoutError:
            detail = f"no answer within {DATABASE_TIMEOUT_SECONDS:g} s"
            return Check("database", ok=False, detail=detail), unknown
        except DATABASE_ERRORS as error:
            self._link.drop()
            detail = f"not reachable ({type(error).__name__})"
            return Check("database", ok=False, detail=detail), unknown
        milliseconds = (time.monotonic() - began) * 1000
        return (
            Check("database", ok=True, detail=f"answers in {milliseconds:.0f} ms"),
            self._check_revision(revision),
        )

    async def _revision(self) -> str | None:
        statement = "SELECT version_num FROM finmind_jobs.alembic_version"
        try:
            rows = await self._link.fetch(statement)
        except asyncpg.UndefinedTableError:
            return None
        except (asyncpg.InterfaceError, asyncpg.PostgresConnectionError, OSError):
            # Cut while nobody used it, by a restart long over: ask once more.
            self._link.drop()
            rows = await self._link.fetch(statement)
        return rows[0]["version_num"] if rows else None

    def _check_revision(self, revision: str | None) -> Check:
        if revision is None:
            return Check("migrations", ok=False, detail="the schema is missing: run `migrate`")
        # Revisions are numbered with leading zeros, so that they sort; a newer schema is
        # compatible with the version before it.
        if revision < self._head:
            detail = f"the schema is at {revision}, this version needs {self._head}: run `migrate`"
            return Check("migrations", ok=False, detail=detail)
        return Check("migrations", ok=True, detail=f"at {revision}")

    def _check_worker(self) -> Check:
        worker = self._worker()
        if worker is None:
            return Check("worker", ok=True, detail="runs none (started without a worker)")
        if not worker.alive:
            return Check("worker", ok=False, detail="a loop of the worker does not run")
        age = time.monotonic() - worker.last_loop_at
        if age > self._loop_limit:
            return Check("worker", ok=False, detail=f"has not looked for jobs for {age:.0f} s")
        since = worker.claims_fail_since
        failing = 0.0 if since is None else time.monotonic() - since
        if failing > self._loop_limit:
            detail = f"its claims have failed for {failing:.0f} s: see claim_failed in the log"
            return Check("worker", ok=False, detail=detail)
        return Check("worker", ok=True, detail="looks for jobs")

    def _check_event_loop(self) -> Check:
        lag = self._monitor.max_lag()
        detail = f"longest stall of the last {LAG_WINDOW_SECONDS:g} s: {lag:.2f} s"
        return Check("event_loop", ok=lag < LAG_LIMIT_SECONDS, detail=detail)

    def _check_stopping(self) -> Check:
        if self._stopping():
            return Check("running", ok=False, detail="shutting down")
        return Check("running", ok=True, detail="accepts work")
