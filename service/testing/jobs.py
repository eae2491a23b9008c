"""The jobs of a test: enqueue, run what is due, move the clock, look at what was enqueued."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from service.db.session import CallerSession
from service.errors import ConfigurationError
from service.jobs import BackgroundJob, EnqueuedJob, JobId, Registry, enqueue, get_job, registry
from service.schedules.declared import Declarations, declarations
from service.settings import Settings
from service.testing.clock import Clock
from service.testing.enqueued import ANY, Enqueued
from service.testing.keys import keys_of
from service.testing.own_rows import is_own
from service.testing.owner import Owner
from service.testing.passing import Passing
from service.testing.ran import Ran
from service.testing.running import Runner
from service.testing.schedules import Schedules
from service.testing.settings import settings_of
from service.testing.target import FakeTarget
from service.testing.transaction import TransactionDatabase

MAX_COUNTED: Final = 1000
"""Limit on the jobs of others that are counted."""

MAX_JOBS: Final = 1000
"""Limit on the jobs of one `run_due`: more is a handler that enqueues itself over and over."""

_OTHERS: Final = text(
    "SELECT count(*) FROM (SELECT FROM finmind_jobs.jobs_live b"  # noqa: S608 - constants
    f" WHERE NOT ({is_own('b')}) LIMIT {MAX_COUNTED + 1}) n"
)
"""The live jobs that this transaction did not write."""


@asynccontextmanager
async def open_jobs(
    session: CallerSession,
    *,
    handlers: Registry = registry,
    schedules: Declarations = declarations,
    **settings: Any,
) -> AsyncIterator["Jobs"]:
    """The jobs of one test, in the transaction of `session`.

        async with open_jobs(session) as jobs:
            await place_order(session, user_id=7)
            await jobs.run_due()

    Args:
        session: a SQLAlchemy `AsyncSession` or `AsyncConnection`, or an asyncpg connection in a transaction,
            which its owner rolls back after the test. Handlers run one after the other and may use it.
        handlers: the process's own where nothing is said.
        schedules: what `start_schedules` makes: those that `@schedule` defines in the process.
        settings: by their names in lower case, `default_max_retries=1`; the defaults of a service else, without
            jitter. The environment is not read.

    Raises:
        ConfigurationError: the database has no job tables, or holds live jobs of others; a setting is refused;
            the transaction was committed.
        InvalidInput: `session` is something else.
    """
    owner, made = Owner(session), settings_of(**settings)
    with keys_of(made):
        jobs = Jobs(owner, made, handlers=handlers, schedules=schedules)
        try:
            await jobs.refuse_others()
            yield jobs
            await owner.check()
        finally:
            await owner.close()


class Jobs:
    """The jobs of one test; `open_jobs` makes it, and so does the fixture `jobs`."""

    def __init__(
        self, owner: Owner, settings: Settings, *, handlers: Registry, schedules: Declarations
    ) -> None:
        self._clock = Clock()
        self._database = TransactionDatabase(owner, settings, self._clock)
        self.target: Final = FakeTarget(self._database, settings)
        """What `http.request` jobs are sent to."""
        self._runner = Runner(self._database, settings, handlers, target=self.target)
        self._schedules = Schedules(self._database, settings, handlers, declared=schedules)
        self._passing = Passing(
            self._database,
            self._clock,
            schedules=self._schedules,
            runner=self._runner,
            target=self.target,
        )

    async def connection(self) -> AsyncConnection:
        """The connection of the test, for sessions of the application.

        Open them by `AsyncSession(connection, join_transaction_mode="create_savepoint")`: their commits are
        savepoints, and their statements see the time of `move_clock`.

        Raises:
            ConfigurationError: the transaction was committed.
        """
        return await self._database.renew()

    async def enqueue(self, job_type: str, payload: object = None, **options: Any) -> EnqueuedJob:
        """Enqueue one job, as `service.jobs.enqueue` does; it has the same options.

        Raises:
            InvalidInput: a field breaks a rule.
        """
        return await enqueue(await self.connection(), job_type, payload, **options)

    async def run_due(
        self,
        *,
        job_types: Collection[str] | None = None,
        raise_errors: bool = True,
        limit: int = MAX_JOBS,
    ) -> list[Ran]:
        """Run what is due, one job after the other, and what becomes due by that; what ran, in order.

        Jobs run as a worker runs them: claimed under limits and pauses, with their context, timeout, retries and
        steps. Their outcomes are recorded before anything is raised.

        Args:
            job_types: only these; the others stay as they are.
            raise_errors: whether to stop at the first attempt that fails, and raise its error.
            limit: limit on the attempts.

        Raises:
            BaseException: what a handler raised; `JobFailed` where it raised nothing and the job failed.
            ConfigurationError: no handler is registered for a due job; more than `limit` are due.
            InvalidInput: `job_types` names one that no handler is registered for.
        """
        __tracebackhide__ = True
        await self.connection()
        try:
            return await self._runner.run_due(job_types, raise_errors=raise_errors, limit=limit)
        finally:
            await self._schedules.note_endings()

    async def move_clock(
        self,
        *,
        to: datetime | None = None,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> datetime:
        """Move the clock of the database, as this test sees it, forward; the time by it then.

        Python's own clock stays as it is, and so does that of other connections. Nothing runs: `run_due` comes next.
        Schedules that were started are acted on at each tick on the way: their jobs are enqueued, and wait.

        Args:
            to: a time with a zone, in place of how far.
            days: how far, with those that follow.
            hours: …
            minutes: …
            seconds: …

        Raises:
            InvalidInput: the time would not be later, or has no zone.
        """
        by = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        return await self._passing.move(by, to)

    async def run_for(
        self,
        *,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
        job_types: Collection[str] | None = None,
        raise_errors: bool = True,
        limit: int = MAX_JOBS,
    ) -> list[Ran]:
        """Let time pass as it does while a service runs; what ran, in order.

        The clock goes from one moment at which something is due to the next: delays, retries, steps that wait, ticks of
        schedules that were started. At each of them runs what is due.

        Args:
            days: how much time, with those that follow.
            hours: …
            minutes: …
            seconds: …
            job_types: see `run_due`.
            raise_errors: see there.
            limit: limit on the attempts in all.

        Raises:
            BaseException: see there.
            ConfigurationError: see there; or too much is due in that time.
            InvalidInput: no time would pass.
        """
        __tracebackhide__ = True
        await self.connection()
        by = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        return await self._passing.run_for(
            by, job_types=job_types, raise_errors=raise_errors, limit=limit
        )

    async def start_schedules(self, *names: str) -> list[str]:
        """Make the schedules that `@schedule` defines, as the start of a service does; their names.

        Their first tick is the next one after now. From here on `move_clock` and `run_for` act on each tick that they
        pass: its job is enqueued, and runs with `run_due` or in `run_for`.

        Args:
            names: those to make; all where there are none.

        Raises:
            InvalidInput: there is none of that name.
            ConfigurationError: one breaks a rule.
        """
        await self.connection()
        return await self._schedules.start(names)

    async def now(self) -> datetime:
        """The time by the clock that the test moves."""
        return await self._clock.now(await self.connection())

    async def get(self, job_id: JobId | int) -> BackgroundJob:
        """One job as it stands: `status`, `attempts`, `last_error`, `result`, `due_at` and so on.

        Raises:
            NotFound: there is none of that id.
        """
        async with AsyncSession(await self.connection()) as session:
            return await get_job(session, JobId(job_id))

    async def enqueued(
        self, job_type: str | None = None, payload: Any = ANY, **options: Any
    ) -> list[BackgroundJob]:
        """The jobs that were enqueued in this test, whatever became of them, oldest first; see `assert_enqueued`."""
        return (await self._all()).find(job_type, payload, options)

    async def assert_enqueued(
        self, job_type: str, payload: Any = ANY, *, count: int | None = None, **options: Any
    ) -> BackgroundJob:
        """Assert that such a job was enqueued in this test, whatever became of it since; the newest.

        Args:
            job_type: its type.
            payload: what its payload holds: of an object some members, of theirs again some; anything that
                compares, `unittest.mock.ANY` too. Any payload where it is left out.
            count: how many there must be; one or more where None.
            options: `queue`, `priority`, `run_at`, `delay_seconds`, `unique_key`, `max_retries`, `timeout_seconds`,
                `concurrency_key`, `batch_id`, `callback`, `result_ttl_seconds`, `status`.

        Raises:
            AssertionError: there is none, or another number; it lists what was enqueued.
            InvalidInput: there is no such option, or `count` is below 1.
        """
        __tracebackhide__ = True
        return (await self._all()).expect(job_type, payload, options, count=count)

    async def assert_not_enqueued(
        self, job_type: str | None = None, payload: Any = ANY, **options: Any
    ) -> None:
        """Assert that no such job was enqueued in this test; without arguments, none at all.

        Raises:
            AssertionError: there is one; it is shown.
            InvalidInput: there is no such option.
        """
        __tracebackhide__ = True
        (await self._all()).expect_none(job_type, payload, options)

    async def _all(self) -> Enqueued:
        connection = await self.connection()
        return await Enqueued.read(connection, lambda job: self._clock.seen_at(job.created_at))

    async def refuse_others(self) -> None:
        """Refuse a database with live jobs that are not of this test: they would run in it.

        Raises:
            ConfigurationError: there are such.
        """
        connection = await self.connection()
        others = (await connection.execute(_OTHERS)).scalar_one()
        if others:
            raise ConfigurationError(
                f"The database holds {others if others <= MAX_COUNTED else f'over {MAX_COUNTED}'} live jobs that this test did not "
                "enqueue, and run_due would run them: use a database that only tests use, and delete what is left in it"
            )
