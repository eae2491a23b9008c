"""Quotas: what one caller may use, counted in the database, so that all processes count together.

A window begins at a full minute, hour or day of UTC. Requests are counted in blocks that a process
takes from the window, so that only one request in several asks the database: together the processes
never admit more than the limit, and a few less if a block is left over in one of them.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Final, Literal, NoReturn, TypeVar

import asyncpg

from service.auth.principal import Permission, Principal, Role
from service.db.engine import Database
from service.db.errors import DATABASE_ERRORS
from service.db.session import CallerSession, fetch
from service.errors import QuotaExceeded
from service.observability.logging import get_logger
from service.observability.metrics import QUOTA_REFUSALS, record_database_error
from service.settings import Settings

REQUEST_BLOCKS: Final = 50
"""A process takes a fiftieth of the requests of a minute at a time."""
LIVE_SHARE: Final = 8
"""It enqueues an eighth of the live jobs that are left, then counts again."""
LIVE_SECONDS: Final = 1.0
"""How old a count of live jobs may be."""
MAX_CALLERS: Final = 10_000
MAX_KNOWN_NAMES: Final = 20_000
KNOWN_SECONDS: Final = 43_200.0
"""After half a day a name is looked up again, which notes that it is still in use."""

Name = tuple[Literal["job_type", "queue"], str]


@dataclass(frozen=True, slots=True)
class Window:
    """A quota that is counted from one full minute, hour or day to the next."""

    what: str
    seconds: int
    words: str
    period: str


REQUESTS: Final = Window("requests", 60, "requests", "minute")
NEW_NAMES: Final = Window("new_names", 3600, "new names of queues and job types", "hour")
REMINDERS: Final = Window("reminders", 86_400, "reminders", "day")

_SPENT: Final = """
INSERT INTO finmind_jobs.caller_usage AS u (caller, what, since, used)
SELECT $1::text, $2::text, date_bin(make_interval(secs => $3::float8), now(), 'epoch'), {amount}
{where} {amount} BETWEEN 1 AND $4::bigint
ON CONFLICT (caller, what, since) DO UPDATE SET used = u.used + excluded.used
WHERE u.used + excluded.used <= $4 RETURNING used"""

SPEND: Final = _SPENT.format(amount="$5::bigint", where="WHERE")
"""Add to what the caller has used of this window; no row where that would be above the limit."""

SPEND_NAMES: Final = f"""
WITH asked AS (SELECT * FROM unnest($5::text[], $6::text[]) AS a(kind, name)),
still AS (
  UPDATE finmind_jobs.job_names n SET seen_at = now() FROM asked a
  WHERE n.kind = a.kind AND n.name = a.name AND n.seen_at < now() - interval '1 day'),
fresh AS MATERIALIZED (
  SELECT * FROM asked a
  WHERE NOT EXISTS (
      SELECT FROM finmind_jobs.job_names n WHERE n.kind = a.kind AND n.name = a.name)
    AND NOT EXISTS (
      SELECT FROM finmind_jobs.job_workers w WHERE a.name = ANY (
        CASE a.kind WHEN 'queue' THEN ARRAY(SELECT split_part(q, ':', 1) FROM unnest(w.queues) q)
        ELSE w.job_types END))),
spent AS ({_SPENT.format(amount="count(*)", where="FROM fresh HAVING")}),
noted AS (
  INSERT INTO finmind_jobs.job_names (kind, name)
  SELECT kind, name FROM fresh WHERE EXISTS (SELECT FROM spent) ORDER BY kind, name
  ON CONFLICT DO NOTHING)
SELECT NOT EXISTS (SELECT FROM fresh) OR EXISTS (SELECT FROM spent)
"""  # noqa: S608 - constants
"""Note the names that nobody has used or serves, and count them against the caller's quota: all, or,
where that would be above the limit, none."""

LIVE_JOBS: Final = """
SELECT count(*) FROM (
  SELECT FROM finmind_jobs.jobs_live WHERE enqueued_by = $1 LIMIT $2) j"""

UNCOUNTED_SECONDS: Final = 1.0
"""How long the database is not asked again after it did not answer."""

K = TypeVar("K")
T = TypeVar("T")

_log = get_logger(__name__)
_logged: Final[OrderedDict[tuple[str, str], int]] = OrderedDict()
"""The minute in which each refusal of a caller was last logged: one line a minute is enough."""


@dataclass(slots=True)
class _Requests:
    """What this process holds of one caller's requests of one minute."""

    minute: int
    left: int = 0
    used_up: bool = False


@dataclass(slots=True)
class _LiveJobs:
    """What this process may enqueue for one caller before it counts again."""

    allowance: int = 0
    count_at: float = 0.0
    in_flight: int = 0


class Quotas:
    """The quotas of every caller, as far as this process has met them."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._settings = settings
        self._link = database.link(timeout_seconds=settings.query_timeout_seconds)
        self._turn = asyncio.Lock()
        self._uncounted_until = 0.0
        """Monotonic time until which the database is not asked: it did not answer just now, and the
        requests that wait for their turn would wait as long again."""
        self._requests: OrderedDict[str, _Requests] = OrderedDict()
        self._live: OrderedDict[str, _LiveJobs] = OrderedDict()
        self._known: set[Name] = set()
        self._forget_at = time.monotonic() + KNOWN_SECONDS

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    # -- requests -----------------------------------------------------------------------------

    async def spend_request(self, principal: Principal) -> None:
        """Count one request.

        If the database does not answer, the request passes uncounted; its own queries fail then.

        Raises:
            QuotaExceeded: the caller has used up its requests of this minute.
        """
        user = principal.role is Role.USER
        settings = self._settings
        limit = settings.user_requests_per_minute if user else settings.caller_requests_per_minute
        if not limit:
            return
        caller, minute = principal.subject, int(time.time() // REQUESTS.seconds)
        held = self._requests.get(caller)
        if held is None or held.minute != minute:
            held = _remember(self._requests, caller, _Requests(minute))
        if not held.left and not held.used_up:
            async with self._turn:
                await self._take_requests(caller, held, limit)
        if held.left:
            held.left -= 1
            return
        setting = "USER_REQUESTS_PER_MINUTE" if user else "CALLER_REQUESTS_PER_MINUTE"
        _refuse(principal, REQUESTS, limit, setting)

    async def _take_requests(self, caller: str, held: _Requests, limit: int) -> None:
        if held.left or held.used_up:
            return  # another request was before this one
        if time.monotonic() < self._uncounted_until:
            held.left = 1
            return
        for block in (max(1, limit // REQUEST_BLOCKS), 1):
            try:
                rows = await self._link.fetch(
                    SPEND, caller, REQUESTS.what, REQUESTS.seconds, limit, block
                )
            except DATABASE_ERRORS as error:
                record_database_error("quota")
                _log.warning("quota_not_counted", quota="requests", error=type(error).__name__)
                self._uncounted_until = time.monotonic() + UNCOUNTED_SECONDS
                held.left = 1
                return
            if rows:
                held.left = block
                return
        held.used_up = True

    # -- live jobs ----------------------------------------------------------------------------

    def live_jobs(self, principal: Principal, jobs: int) -> AbstractAsyncContextManager[None]:
        """A block in which so many jobs may be enqueued.

        Raises:
            QuotaExceeded: on entering, if the caller would have too many PENDING and RUNNING jobs.
        """
        limit = self._settings.caller_live_jobs
        return self._live_jobs(principal, jobs, limit) if limit else nullcontext()

    @asynccontextmanager
    async def _live_jobs(self, principal: Principal, jobs: int, limit: int) -> AsyncIterator[None]:
        caller = principal.subject
        held = self._live.get(caller) or _remember(self._live, caller, _LiveJobs())
        async with self._turn:
            now = time.monotonic()
            asks = jobs > held.allowance or now >= held.count_at
            if asks and now >= self._uncounted_until:
                rows = await self._count_live_jobs(caller, limit)
                left = limit - rows[0][0] - held.in_flight
                if jobs > left:
                    _refuse_live(principal, jobs, limit)
                held.allowance = max(jobs, left // LIVE_SHARE)
                held.count_at = time.monotonic() + LIVE_SECONDS
            held.allowance -= jobs
            held.in_flight += jobs
        try:
            yield
        finally:
            held.in_flight -= jobs

    async def _count_live_jobs(self, caller: str, limit: int) -> list[asyncpg.Record]:
        try:
            return await self._link.fetch(LIVE_JOBS, caller, limit + 1)
        except DATABASE_ERRORS:
            self._uncounted_until = time.monotonic() + UNCOUNTED_SECONDS
            raise

    # -- names --------------------------------------------------------------------------------

    def unknown_names(self, names: Iterable[Name]) -> set[Name]:
        """Those of the names that this process has not met lately."""
        if time.monotonic() >= self._forget_at or len(self._known) > MAX_KNOWN_NAMES:
            self._known.clear()
            self._forget_at = time.monotonic() + KNOWN_SECONDS
        return {name for name in names if name not in self._known}

    async def spend_names(self, principal: Principal, names: Collection[Name]) -> None:
        """Count those of the names that are new to all processes.

        Raises:
            QuotaExceeded: the caller has used too many new names in this hour; none is noted.
        """
        limit = self._settings.caller_new_names_per_hour
        if limit and names:
            in_order = sorted(names)
            kinds, values = [kind for kind, _ in in_order], [value for _, value in in_order]
            window = (principal.subject, NEW_NAMES.what, NEW_NAMES.seconds)
            rows = await self._link.fetch(SPEND_NAMES, *window, limit, kinds, values)
            if not rows[0][0]:
                _refuse(principal, NEW_NAMES, limit, "CALLER_NEW_NAMES_PER_HOUR")
        self._known.update(names)

    def know(self, names: Iterable[Name]) -> None:
        """Take these for known: they are this process's own."""
        self._known.update(names)


async def spend_reminder(session: CallerSession, principal: Principal, settings: Settings) -> None:
    """Count one reminder in the caller's transaction; callers with `reminders:all` have no quota.

    Raises:
        QuotaExceeded: the caller has made its reminders of this day.
    """
    limit = settings.user_reminders_per_day
    if not limit or principal.may(Permission.REMINDERS_ALL):
        return
    caller = principal.subject
    if not await fetch(session, SPEND, caller, REMINDERS.what, REMINDERS.seconds, limit, 1):
        _refuse(principal, REMINDERS, limit, "USER_REMINDERS_PER_DAY")


def _remember(known: OrderedDict[K, T], key: K, value: T) -> T:
    known[key] = value
    known.move_to_end(key)
    if len(known) > MAX_CALLERS:
        known.popitem(last=False)
    return value


def _refuse(principal: Principal, quota: Window, limit: int, setting: str) -> NoReturn:
    wait = math.ceil(quota.seconds - time.time() % quota.seconds)
    _note(principal, quota.what)
    raise QuotaExceeded(
        f"You may use {limit} {quota.words} each {quota.period} ({setting}), and this would be more: "
        f"wait {wait} s",
        retry_after_seconds=wait,
    )


def _refuse_live(principal: Principal, jobs: int, limit: int) -> NoReturn:
    _note(principal, "live_jobs")
    raise QuotaExceeded(
        f"You may have {limit} PENDING and RUNNING jobs (CALLER_LIVE_JOBS), and {jobs} more would be "
        "too many: wait until some have ended"
    )


def _note(principal: Principal, quota: str) -> None:
    QUOTA_REFUSALS.labels(quota).inc()
    refused, minute = (principal.subject, quota), int(time.monotonic() // 60)
    if _logged.get(refused) != minute:
        _remember(_logged, refused, minute)
        _log.info("quota_exceeded", quota=quota, caller=principal.subject)
